"""What a person has to learn from: Python files and saved sessions, as documents of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from codegen_chat.errors import SessionError, UsageError
from codegen_chat.session.history import History
from codegen_chat.train.curriculum.state import Step
from codegen_chat.train.data import Documents, document

if TYPE_CHECKING:
    from pathlib import Path

    from codegen_chat.lm.tokenizer import Tokenizer

HELD_OUT = 0.1
"""The share of files and sessions that is evaluated on and never trained on; one at least."""

Document = tuple[list[int], list[bool]]
"""Token ids, and which of them are learned."""


@dataclass(slots=True)
class Examples:
    """Documents to train on and to evaluate on, and a line for each file that gave none. `digest` tells one set from another."""

    train: Documents
    held_out: Documents
    skipped: list[str] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits."""
        parts = [array.tobytes() for each in (self.train, self.held_out) for array in (each.ids, each.ends)]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def gather(path: Path, tokenizer: Tokenizer, *, longest: int, seed: int) -> Examples:
    """Read a file or a folder: `.py` files are learned whole, of `.jsonl` sessions the code of accepted turns.

    Hidden folders are left out. A document has at most `longest` tokens: a file is cut, a session begins anew with the turn that
    no longer fits, as it does when the window is full. Raises UsageError where fewer than two files have something to learn.
    """
    found: list[list[Document]] = []
    skipped: list[str] = []
    for file in _files(path):
        try:
            made = list(_session(file, tokenizer, longest) if file.suffix == ".jsonl" else _python(file, tokenizer, longest))
        except (OSError, UnicodeDecodeError, SessionError) as error:
            skipped.append(str(error) if isinstance(error, SessionError) else f"{file}: {error}")
            continue
        if made:
            found.append(made)
        else:
            skipped.append(f"{file}: it has nothing to learn, or no turn of it fits {longest} tokens")
    if len(found) < 2:
        raise UsageError(
            f"{path} has {len(found)} Python files or sessions to learn from: two at least are needed, one to evaluate on"
            + "".join(f"; {line}" for line in skipped[:1])
        )
    Random(seed).shuffle(found)
    held = max(1, round(HELD_OUT * len(found)))
    return Examples(
        Documents.gather([each for made in found[held:] for each in made]),
        Documents.gather([each for made in found[:held] for each in made]),
        skipped,
    )


def _files(path: Path) -> list[Path]:
    """Return the files of a folder, in an order that does not depend on the disk."""
    if not path.exists():
        raise UsageError(f"{path} is not there: name a folder of Python files or of saved sessions")
    if not path.is_dir():
        return [path]
    inside = (file.relative_to(path) for kind in ("*.py", "*.jsonl") for file in path.rglob(kind))
    return [path / name for name in sorted(inside) if not any(part.startswith(".") for part in name.parts)]


def _python(file: Path, tokenizer: Tokenizer, longest: int) -> Iterator[Document]:
    """Cut a file into documents. One begins with the token that the last one ended with, so that each token is predicted once."""
    ids = [*tokenizer.encode(file.read_text(encoding="utf-8")), tokenizer.end_of_text]
    for start in range(0, len(ids) - 1, longest - 1):
        part = ids[start : start + longest]
        yield part, [True] * len(part)


def _session(file: Path, tokenizer: Tokenizer, longest: int) -> Iterator[Document]:
    """Write a session's accepted turns as they are prompted; the person's own code is read and not learned."""
    parts: list[list[Step]] = [[]]
    for turn in History.read(file).turns:
        step = Step(turn.text, turn.code)
        if len(document([*parts[-1], step], tokenizer)[0]) > longest:
            parts.append([])
        if len(document([step], tokenizer)[0]) <= longest:
            parts[-1].append(step)
    made = (document(part, tokenizer) for part in parts if part)
    return (each for each in made if any(each[1][:-1]))
