"""What a turn's words plainly ask for, and how much of it code left undone. Seen on the surface: nothing is understood, or run.

| the words have | then the code |
|---|---|
| print, show, a question | shows something |
| anything at all | shows or changes something |
| a name in quotes or backticks | has it, as a name or within a string |
| other text in quotes | has it in a string; but a text "like ..." it does not write out |
| a number | has it, or its hundredth, or the number next to it |
| call it x, store it in x, x = ... | binds it |
| a name that is alive | uses it |
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator

from codegen_chat.literals import NUMBER, STRING
from codegen_chat.turn import Execution

_ESCAPE = re.compile(r"\\.")
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\", r"\"": '"', r"\'": "'"}

_SHOWING = re.compile(
    r"\b(?:print|show|display|output|tell me)\b|\?|(?:^|[.!;:,]\s+)(?:what|which|how (?:many|much|long|far|old))\b", re.IGNORECASE
)
_LIKE = re.compile(r"\b(?:like|such as|example|instance|e\.?g\.?|format|form|shape|style|looks?)\b[^\"'`]{0,25}$", re.IGNORECASE)
_NAMED = re.compile(
    r"\bcall(?:ed)?\s+(?:(?:it|that|this|them|these|those|the\s+\w+)\s+)?(\w+)"
    r"|\bname(?:d|\s+(?:it|that|this|them))\s+(\w+)"
    r"|\b(?:store|save|keep|put|collect|gather|assign|hold)\b[^.;!?]*?\b(?:in|into|as|to|under)\s+(?:(?:a|an|the|new|variable|list|dict)\s+)*(\w+)"
    r"|\blet\s+(\w+)\s+be\b"
    r"|(?:^|[.;:,]\s+|\b(?:set|and)\s+)(\w+)\s*=(?!=)",
    re.IGNORECASE,
)
_PLAIN = re.compile(
    r"an?|the|it|that|this|them|these|those|one|two|each|every|all|any|both|its|of|in|to|as|with|and|or|be|is|are|i|me|my|our|your|his"
    r"|her|their|list|dict|dictionary|set|tuple|string|text|number|variable|named|called|new|another|order|np",
    re.IGNORECASE,
)
"""Words that stand where a name might and are none."""


def missed(text: str, code: str, execution: Execution, alive: Collection[str] = ()) -> int:
    """Count what a turn's words plainly ask for and its code did not do. `alive` are the names that it found."""
    try:
        wishes = _wishes(text, _Written(code), execution, alive)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0
    return sum(not met for met in wishes)


class _Written:
    """What stands in a program: names it uses and binds, its strings, its numbers."""

    def __init__(self, code: str) -> None:
        self.used: set[str] = set()
        self.bound: set[str] = set()
        self.numbers: set[float] = set()
        strings = []
        for node in ast.walk(ast.parse(code)):
            match node:
                case ast.Name(id=name, ctx=context):
                    (self.used if isinstance(context, ast.Load) else self.bound).add(name)
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                    self.bound.add(name)
                case ast.alias():
                    self.bound.add((node.asname or node.name).partition(".")[0])
                case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                    self.used.add(name)
                case ast.Constant(value=str(string)):
                    strings.append(string)
                case ast.Constant(value=int(number) | float(number)):
                    self.numbers.add(number)
        self.strings = "\n".join(strings)

    def has(self, name: str) -> bool:
        return name in self.used or name in self.bound or name in self.strings


def _wishes(text: str, written: _Written, execution: Execution, alive: Collection[str]) -> Iterator[bool]:
    """Yield for each thing that the words ask for whether it was done."""
    shows = bool(execution.stdout.strip() or execution.value)
    yield shows or bool(execution.changes)
    yield shows or not _SHOWING.search(text)
    for found in STRING.finditer(text):
        if found[2].isidentifier():
            yield written.has(found[2])
        else:
            typed, meant = found[2], _ESCAPE.sub(lambda escape: _ESCAPES.get(escape[0], escape[0]), found[2])
            there = typed in written.strings or meant in written.strings
            yield there != bool(_LIKE.search(text[: found.start()]))
    rest = STRING.sub(" ", text)
    for found in NUMBER.finditer(rest):
        number = abs(float(found[0]))
        yield found[0] in written.strings or any(
            abs(abs(each) - near) < 1e-9 for each in written.numbers for near in (number, number / 100, number - 1, number + 1)
        )
    named = {name for found in _NAMED.finditer(rest) for name in found.groups() if name and not _PLAIN.fullmatch(name)}
    yield from (name in written.bound for name in named if name.isidentifier())
    mentioned = set(re.findall(r"[A-Za-z_]\w*", rest)) & set(alive) - named
    yield from (written.has(name) for name in mentioned if not _PLAIN.fullmatch(name))
