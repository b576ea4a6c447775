"""Make docs/first.svg, README's picture: a real conversation on the embedded model, typed at a real terminal, as it looked."""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.terminal.conftest import Terminal  # noqa: E402  the tests' terminal: a pty, drawn by pyte

COLUMNS, ROWS = 80, 33
TYPED = (
    'Assign the list [3, 1, 4, 1, 5] to a variable named "nums".',
    'Sort nums and store the result in "ordered".',
    'Write a function "square" that returns the square of a number.',
    "What is square(12)?",
    "/undo",
    ">>> sum(nums)",
)


def main() -> None:
    """Type, wait, draw."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home
        for name in [name for name in os.environ if name.startswith(("XDG_", "CODEGEN_CHAT_"))]:
            del os.environ[name]
        terminal = Terminal([sys.executable, "-m", "codegen_chat.cli"], columns=COLUMNS, rows=ROWS)
        try:
            terminal.until(r"^>$")
            terminal.until(r"nano (?!is loading)\w+ cpu")  # in the bar, once it is there
            for line in TYPED:
                terminal.type(f"{line}\r")
                terminal.until(rf"^> {re.escape(line)}$[\s\S]*^>$")
            terminal.until(r"\d/\d+ tokens")  # the bar, anew below the last prompt
            picture = _drawn(terminal)
        finally:
            terminal.close()
    target = ROOT / "docs/first.svg"
    target.write_text(picture, encoding="utf-8")
    sys.stdout.write(f"wrote {target.relative_to(ROOT)}\n")


def _drawn(terminal: Terminal) -> str:
    """Return what the terminal shows, with its colours, as SVG. It loads no font: the reader's own will do."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), color_system="truecolor", force_terminal=True)
    screen = terminal.screen
    for row in range(ROWS):
        line = Text()
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            line.append(
                cell.data,
                Style(
                    color=_colour(cell.fg),
                    bgcolor=_colour(cell.bg),
                    bold=cell.bold,
                    italic=cell.italics,
                    underline=cell.underscore,
                    reverse=cell.reverse,
                ),
            )
        console.print(line, overflow="crop", no_wrap=True)
    format_ = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(title="codegen-chat", theme=MONOKAI, code_format=format_, unique_id="first")


def _colour(name: str) -> str | None:
    """Return a colour of pyte in rich's words."""
    if name == "default":
        return None
    name = name.replace("brown", "yellow")
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return f"bright_{name.removeprefix('bright')}" if name.startswith("bright") else name


if __name__ == "__main__":
    main()
