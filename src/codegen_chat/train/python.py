"""Real Python as training text: functions under their docstring's first sentence, and code under the comment that announces it.

Both are what a conversation's turn is, words as a comment and then the code, as people wrote it. The text comes from a folder of
installed packages; it is read, never imported or run.

    python -m codegen_chat.train.python FOLDER OUT.jsonl.xz
"""

from __future__ import annotations

import argparse
import ast
import json
import lzma
import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

LARGEST_FILE = 400_000
"""Bytes; what is larger is data or was generated."""
SHORTEST, LONGEST = 30, 1600
"""Characters of a piece of code worth reading."""


def gather(folder: Path, out: Path) -> int:
    """Write each piece of the Python files under `folder` to `out` (`.jsonl.xz`), one `{"text": ...}` a line; return how many."""
    seen: set[str] = set()
    with lzma.open(out, "wt", encoding="utf-8", preset=6) as lines:
        for path in sorted(folder.rglob("*.py")):
            if path.stat().st_size > LARGEST_FILE or path.parent.name in {"tests", "test"}:
                continue
            for text in pieces(path.read_text(encoding="utf-8", errors="replace")):
                if text not in seen:
                    seen.add(text)
                    lines.write(json.dumps({"text": text}) + "\n")
    return len(seen)


def pieces(source: str) -> Iterator[str]:
    """Return the pieces of one file: functions with their docstring as a comment, docstrings' examples, commented blocks."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield from filter(fits, function(node, lines))
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            yield from filter(fits, examples(ast.get_docstring(node) or ""))
    yield from filter(fits, blocks(lines))


def fits(text: str) -> bool:
    """Say whether a piece is of a useful length, in plain characters, and a program that does something."""
    if not (SHORTEST <= len(text) <= LONGEST and text.isascii()):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def sentence(docstring: str) -> str:
    """Return the first sentence of a docstring on one line, without its full stop."""
    first = re.split(r"(?<=[.?!])\s|\n\s*\n", docstring.strip(), maxsplit=1)[0]
    return re.sub(r"\s+", " ", first).strip().rstrip(".")


def function(node: ast.FunctionDef, lines: list[str]) -> Iterator[str]:
    """Return a function under its docstring's first sentence, without the docstring; nothing where it has none."""
    docstring = ast.get_docstring(node)
    if not docstring or len(node.body) < 2 or not (words := sentence(docstring)) or len(words) > 160:
        return
    start, rest = node.body[0].lineno - 1, node.body[0].end_lineno or 0
    body = [line for line in lines[node.lineno - 1 : start] + lines[rest : node.end_lineno] if line.strip()]
    yield f"# {words}\n{dedent(chr(10).join(body))}\n"


def examples(docstring: str) -> Iterator[str]:
    """Return the examples of a docstring, each under the words before it, without what they print."""
    words, code = "", []
    for line in [*docstring.splitlines(), "end"]:
        stripped = line.strip()
        if stripped.startswith((">>> ", "... ")):
            code.append(stripped[4:])
        elif code and not stripped.startswith(">>>"):
            if stripped and not line.startswith(" "):
                if words:
                    yield f"# {words}\n" + "\n".join(code) + "\n"
                words, code = stripped.rstrip(":."), []
        elif stripped and re.match(r"[A-Za-z]", stripped) and not stripped.startswith(">>>"):
            words = stripped.rstrip(":.")


def blocks(lines: list[str]) -> Iterator[str]:
    """Return runs of code under a comment of their own, up to the next empty line, comment or smaller indentation."""
    starts = [number for number, line in enumerate(lines) if re.match(r"\s*# [A-Za-z]", line)]
    for number, following in pairwise([*starts, len(lines)]):
        indent = len(lines[number]) - len(lines[number].lstrip())
        taken = [lines[number]]
        for line in lines[number + 1 : following]:
            if not line.strip() or len(line) - len(line.lstrip()) < indent:
                break
            taken.append(line)
        if len(taken) > 1:
            yield dedent("\n".join(taken)) + "\n"


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("out", type=Path)
    given = arguments.parse_args()
    gather(given.folder, given.out)
