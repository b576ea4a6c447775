"""Which literal of a turn's words is the code copying, and how does it go on?

A small model copies a text of up to eight words whole three times of four, and a program over a wrong copy is wrong. The words
say what the copy must be: once code has begun a literal as one of the words' begins, how that one goes on is known. The
engine makes that likelier, a little or by far: `split("a")` may follow a mention of "apple". Text alone, nothing is run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from codegen_chat.turn import Copy

LIKELY, SURE = 4.0, 30.0
"""By how much a logit rises: so that a close call is decided, or so that nothing else is drawn."""

SOME = 3
"""Characters that show what is being copied."""

STRING = re.compile(r"(?<!\w)([\"'`])((?:\\.|(?!\1)[^\\\n])+?)\1(?!\w)")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w]|\.\d)")
_NUMBER_BEGUN = re.compile(r"(?<![\w.\])])-?\d[\d.]*$")
_VALUE_BEGINS = re.compile(r"^\w+ = $")
_TOLD = re.compile(r"(?:\b(?:string|text|word|sentence|be|is)|[=:])\s*$", re.IGNORECASE)
_TEMPLATE = re.compile(r"(?<!\w)[rR]?[fF][rR]?$")
_CLOSING = {"[": "]", "(": ")", "{": "}"}


def copying(words: str) -> Copy:
    """Make the function that tells, for code so far, the texts with which it may go on as a copy of what the words hold."""
    displays, rest = _displays(words)
    quoted = list(STRING.finditer(words))
    names = [match[2] for match in quoted if match[2].isidentifier()]
    strings = [(match[2], _value(words, match)) for match in quoted if match[1] != "`" or match[2] not in names]
    numbers = [match[0] for match in NUMBER.finditer(STRING.sub(" ", rest))]

    def copies(before: str, line: str) -> Iterator[tuple[str, float]]:
        quote, opened, brackets = _open(line)
        for at in brackets:
            begun = line[at:]
            # A bracket alone may begin a comprehension, or an expression of its own.
            if len(begun) > (1 if _VALUE_BEGINS.match(line[:at]) else SOME):
                left = (display for display in displays if before.count(display) < displays.count(display))
                yield from ((display[len(begun) :], SURE) for display in left if display.startswith(begun))
        if _TEMPLATE.search(line[:opened]):
            return  # the words say how it comes out, with values where the code has their names
        if quote:
            begun, value = line[opened + 1 :], bool(_VALUE_BEGINS.match(line[:opened]))
            for string, told in strings:
                written = _typed(string, quote) + quote
                if written.startswith(begun) and (begun or value):
                    sure = len(begun) >= SOME or (value and told)
                    yield written[len(begun) :], SURE if sure else LIKELY
        elif match := _NUMBER_BEGUN.search(line):
            if match[0] not in numbers:  # which may be whole
                yield from ((number[len(match[0]) :], LIKELY) for number in numbers if number.startswith(match[0]))
        elif line.isidentifier():
            yield from ((name[len(line) :], LIKELY) for name in names if name.startswith(line))

    def copy(text: str) -> list[tuple[str, float]]:
        begin = text.rfind("\n") + 1
        return [(rest, rise) for rest, rise in copies(text[:begin], text[begin:]) if rest]

    return copy


def _value(words: str, match: re.Match[str]) -> bool:
    """Tell whether what stands in quotes is a value for sure, and not perhaps a name."""
    return not match[2].isidentifier() or bool(_TOLD.search(words[: match.start()]))


def _displays(words: str) -> tuple[list[str], str]:
    """Return the lists, tuples and dictionaries of the words as code may write them, and the words without them."""
    found: list[str] = []
    rest, end = "", 0
    for at, letter in enumerate(words):
        if letter in _CLOSING and at >= end:
            display = _display(words, at)
            if display:
                rest += words[end:at] + " "
                end = at + len(display)
                found += dict.fromkeys((_canonical(display), display))
    return found, rest + words[end:]


def _display(words: str, at: int) -> str | None:
    """Return the literal that begins at a bracket; None where there is none."""
    closing, ends = _CLOSING[words[at]], at
    while (ends := words.find(closing, ends + 1)) >= 0:
        try:
            value = ast.literal_eval(words[at : ends + 1])
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        return words[at : ends + 1] if isinstance(value, list | tuple | dict | set) and value else None
    return None


def _canonical(display: str) -> str:
    """Write a literal as the model was taught to: double quotes, one space after commas and colons."""

    def text(value: object) -> str:
        match value:
            case str():
                return f'"{_written(value, chr(34))}"'
            case list():
                return f"[{', '.join(map(text, value))}]"
            case tuple():
                return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
            case dict():
                return "{" + ", ".join(f"{text(key)}: {text(item)}" for key, item in value.items()) + "}"
            case _:
                return repr(value)

    return text(ast.literal_eval(display))


def _typed(text: str, quote: str) -> str:
    r"""Write what stands in the words' quotes between these. A backslash stays: "a\nb" means two lines, and "\d" a digit."""
    parts = re.findall(r"\\.|.", text)
    return "".join("\\" + quote if part == quote else part if part.isprintable() else repr(part)[1:-1] for part in parts)


def _written(string: str, quote: str) -> str:
    """Write a string's inside as it stands between these quotes."""
    escaped = string.replace("\\", "\\\\").replace(quote, "\\" + quote)
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in escaped)


def _open(line: str) -> tuple[str, int, list[int]]:
    """Return the quote of the string that is open at the end, its place, and where displays are open, the outermost first."""
    quote, opened, brackets, at = "", 0, [], 0
    while at < len(line):
        letter = line[at]
        if quote:
            if letter == "\\":
                at += 1
            elif letter == quote:
                quote = ""
        elif letter in "\"'":
            quote, opened = letter, at
        elif letter == "#":
            return "", 0, []
        elif letter in _CLOSING:
            brackets.append(at)
        elif letter in "])}" and brackets:
            brackets.pop()
        at += 1
    return quote, opened, [at for at in brackets if not (line[:at] and (line[at - 1].isalnum() or line[at - 1] in "_)]"))]
