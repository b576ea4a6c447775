"""A session written for others: a Python program, a notebook, a Markdown or HTML page. Its program runs once more from nothing.

What stands in a page is what the session recorded; "verified" is said only where the run gave the same. Pictures are not in the
log, so the turns that draw some run again, one after another, and those are in the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from codegen_chat import prompt as prompts
from codegen_chat.errors import SessionError, UsageError
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session import export
from codegen_chat.session.history import History
from codegen_chat.session.picture import Picture, is_picture, picture
from codegen_chat.turn import Execution, Turn, last_execution

KINDS = (".py", ".ipynb", ".md", ".html")

_FIGURES = """\
import sys
for _number in sys.modules["matplotlib.pyplot"].get_fignums() if "matplotlib.pyplot" in sys.modules else ():
    sys.modules["matplotlib.pyplot"].figure(_number).savefig(f"figure-{_number}.png")
"""
"""Writes the open figures, for turns that draw and save nothing."""

_DRAWS = ("matplotlib", "plt.", ".plot")


@dataclass(frozen=True, slots=True)
class Published:
    """A session's text. `doubt` says why it is not verified, None where a run from nothing gave what was recorded.

    `files` are pictures that stand beside it: their bytes by their paths, relative to the text's.
    """

    text: str
    doubt: str | None
    files: Mapping[str, bytes] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file and those beside it. Raises SessionError where that is not possible."""
        try:
            for name, data in self.files.items():
                (path.parent / name).parent.mkdir(exist_ok=True)
                (path.parent / name).write_bytes(data)
            path.write_text(self.text, encoding="utf-8")
        except OSError as error:
            raise SessionError(f"{error.filename or path} cannot be written: {error.strerror}") from None


def kind(path: Path) -> str:
    """Return which of KINDS a file is to be, by its name. Raises UsageError."""
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        raise UsageError(f"{path} would be no kind of file that is known: end it in one of {', '.join(KINDS)}")
    return suffix


def publish(history: History, kernel: Kernel | None, timeout: float, path: Path = Path("-.py")) -> Published:
    """Return a session as the kind of file that `path` names, not written yet. `timeout` is a turn's, in seconds.

    Raises UsageError for another kind of file.
    """
    wanted = kind(path)
    turns = history.transcript
    header = history.header
    facts = [
        f"codegen-chat session {history.id}",
        f"{header.get('model', '?')}@{header.get('revision', '?')}",
        f"seed {header.get('seed', 0)}",
    ]
    program = export.render_py(turns, facts, verified=True)
    if kernel is None:
        doubt: str | None = "nothing can be executed here"
    else:
        rerun = last_execution(kernel.execute(program, parent=None, turn=None, timeout=timeout * max(1, len(turns))))
        doubt = export.mismatch(turns, rerun)
    if wanted == ".py":
        return Published(program if doubt is None else export.render_py(turns, facts, verified=False), doubt)
    facts += ["verified"] * (doubt is None)
    return _page(path, turns, facts, doubt, _pictures(history.turns, kernel, timeout) if kernel else {})


def _page(
    path: Path, turns: Sequence[Turn], facts: Sequence[str], doubt: str | None, drawn: Mapping[str, Sequence[Picture]]
) -> Published:
    if kind(path) == ".md":
        from codegen_chat.session.markdown import render_md  # noqa: PLC0415  each kind loads what it needs

        numbers = {turn.id: number for number, turn in enumerate(turns, 1)}
        names = {
            turn: [f"{path.stem}_files/{numbers[turn]}-{each.name}" for each in pictures] for turn, pictures in drawn.items()
        }
        files = {name: each.data for turn, pictures in drawn.items() for name, each in zip(names[turn], pictures, strict=True)}
        return Published(render_md(turns, facts, names), doubt, files)
    if kind(path) == ".ipynb":
        from codegen_chat.session.notebook import render_ipynb  # noqa: PLC0415

        return Published(render_ipynb(turns, facts, drawn), doubt)
    from codegen_chat.session.page import render_html  # noqa: PLC0415  pygments

    return Published(render_html(turns, facts, drawn), doubt)


def _pictures(turns: Sequence[Turn], kernel: Kernel, timeout: float) -> dict[str, list[Picture]]:
    """Run turns once more, one after another, and return what each of them drew, by its id."""
    if not any(draw in turn.code for turn in turns for draw in _DRAWS) and not any(_saved(turn.execution) for turn in turns):
        return {}
    found: dict[str, list[Picture]] = {}
    seen: set[bytes] = set()
    parent = None
    for turn in (Turn("header", None, "", prompts.HEADER), *turns):
        state = f"published {turn.id}"
        execution = last_execution(kernel.execute(turn.code, parent=parent, turn=state, timeout=timeout))
        if execution.status != "ok":
            break
        saved = _read(kernel, execution)
        if parent is not None:
            kernel.forget(parent)
        parent = state
        figures = last_execution(kernel.execute(_FIGURES, parent=parent, turn=None, timeout=timeout))
        shown = [each for each in _read(kernel, figures) if each.data not in seen]
        seen |= {each.data for each in shown}
        found[turn.id] = saved or shown
    if parent is not None:
        kernel.forget(parent)
    return {turn: pictures for turn, pictures in found.items() if pictures}


def _saved(execution: Execution | None) -> list[str]:
    return [name for name in execution.files if is_picture(name)] if execution else []


def _read(kernel: Kernel, execution: Execution) -> list[Picture]:
    """Return the pictures that the turn which ran last has written."""
    pictures = [picture(name, kernel.file(name)) for name in _saved(execution)]
    return [each for each in pictures if each]
