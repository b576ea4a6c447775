"""Write docs/cli.md from the commands' help and docs/api.md from docstrings; `--check` only says whether they are up to date."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command
from typer.testing import CliRunner

import codegen_chat
from codegen_chat.cli.commands import app

HEAD = """# Commands

Written by `make docs` from the commands' own help; `make lint` fails where the two differ.
"""

API_HEAD = """# From Python

Written by `make docs` from the docstrings; `make lint` fails where the two differ. Arrays are of numpy; in their shapes T is a
number of tokens. These names are all that is public, and `py.typed` says that they have types.
"""


def paths() -> list[tuple[str, ...]]:
    """Return every command's words, the bare `codegen-chat` first."""
    root = get_command(app)
    found: list[tuple[str, ...]] = [()]
    for name, command in getattr(root, "commands", {}).items():
        found.append((name,))
        found.extend((name, below) for below in getattr(command, "commands", {}))
    return found


def cli() -> str:
    """Return the page of the commands."""
    parts = [HEAD]
    runner = CliRunner()
    for path in paths():
        result = runner.invoke(app, [*path, "--help"], prog_name="codegen-chat", env={"COLUMNS": "100", "TERM": "dumb"})
        if result.exit_code:
            raise SystemExit(f"{' '.join(path)} --help failed: {result.output}")
        parts.append(f"## {' '.join(('codegen-chat', *path))}\n\n```\n{result.output.strip()}\n```\n")
    return "\n".join(parts)


def api() -> str:
    """Return the page of the public names: functions, then classes, then errors."""
    found = {name: getattr(codegen_chat, name) for name in codegen_chat.__all__}
    kinds = {name: 0 if inspect.isfunction(value) else 2 if issubclass(value, Exception) else 1 for name, value in found.items()}
    parts = [API_HEAD]
    for name in sorted(found, key=lambda name: (kinds[name], name)):
        parts.extend(described(name, found[name]))
    return "\n".join(parts)


def described(name: str, value: object) -> Iterator[str]:
    """Yield the parts of a public name: its signature, its docstring, its fields, its methods."""
    error = inspect.isclass(value) and issubclass(value, Exception)
    told = f"exit code {value.exit_code}" if error else ""
    yield f"## {name}\n"
    if not error:
        yield f"```python\n{name}{signature(value)}\n```\n"
    yield f"{document(value)}{' ' + told.capitalize() + '.' if told else ''}\n"
    if error or not inspect.isclass(value):
        return
    if dataclasses.is_dataclass(value):
        return
    for below, member in vars(value).items():
        inner = member.__func__ if isinstance(member, classmethod) else member.fget if isinstance(member, property) else member
        if not below.startswith("_") and inspect.isfunction(inner):
            call = below if isinstance(member, property) else f"{below}{signature(inner)}"
            yield f"### {name}.{below}\n\n```python\n{call}\n```\n\n{document(inner)}\n"


def document(value: object) -> str:
    """Return a docstring, its attributes as a list."""
    text, heading, attributes = (inspect.getdoc(value) or "").partition("\nAttributes:\n")
    items = re.sub(r"^    (\w[\w, ]*): ", r"* `\1`: ", attributes, flags=re.MULTILINE).replace("        ", "  ")
    return f"{text}{heading and heading + chr(10)}{items}"


def signature(value: object) -> str:
    """Return how something is called, a line for each parameter where one line is not enough; without `self`."""
    given = inspect.signature(value)  # type: ignore[arg-type]
    kept = [parameter for name, parameter in given.parameters.items() if name not in {"self", "cls"}]
    returned = inspect.Signature.empty if inspect.isclass(value) else given.return_annotation
    text = re.sub(
        r"""(: |-> )(["'])(.*?)\2""", r"\1\3", str(given.replace(parameters=kept, return_annotation=returned))
    )  # annotations are texts
    if len(text) < 100:
        return text
    inside, _, arrow = text[1:].rpartition(")")
    return "(\n    " + re.sub(r", (?=\*|\w+:)", ",\n    ", inside) + f",\n){arrow}"


def main() -> None:
    """Write the pages, or check them."""
    for name, text in (("cli.md", cli()), ("api.md", api())):
        page = Path(__file__).with_name(name)
        if sys.argv[1:] != ["--check"]:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            raise SystemExit(f"docs/{name} differs from what it is made of: run `make docs`")


if __name__ == "__main__":
    main()
