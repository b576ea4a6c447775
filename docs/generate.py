"""Write docs/cli.md from the commands' own help; `--check` only says whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

from codegen_chat.cli import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# Commands

Written by `make docs` from the commands' own help; `make lint` fails where the two differ.
"""


def paths() -> list[tuple[str, ...]]:
    """Return every command's words, the bare `codegen-chat` first."""
    root = get_command(app)
    found: list[tuple[str, ...]] = [()]
    for name, command in getattr(root, "commands", {}).items():
        found.append((name,))
        found.extend((name, below) for below in getattr(command, "commands", {}))
    return found


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    runner = CliRunner()
    for path in paths():
        result = runner.invoke(app, [*path, "--help"], prog_name="codegen-chat", env={"COLUMNS": "100", "TERM": "dumb"})
        if result.exit_code:
            raise SystemExit(f"{' '.join(path)} --help failed: {result.output}")
        parts.append(f"## {' '.join(('codegen-chat', *path))}\n\n```\n{result.output.strip()}\n```\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page, or check it."""
    text = page()
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            raise SystemExit("docs/cli.md differs from the commands' help: run `make docs`")
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
