"""The spec language: a conversation written down beforehand.

    @spec 1
    # A comment. Blank lines separate nothing.
    @set seed=7 samples=4
    @var A="abcde"
    Assign the string "{A}" to a variable named "my_string".
    Reverse it into "out",
        and print it.
    @expect out == "edcba"
    >>> nums = [1, 2, 3]
    >>> for n in nums:
    ...     print(n)
    Write a function for the mean of numbers.
        >>? def mean(numbers):
        ...     "Return their arithmetic mean."

* A line that starts at the margin is a turn, or a directive if it starts with `@`, or a comment if it starts with `#`.
* An indented line continues the turn or directive above it. In words its indentation is dropped, and a comment may be indented;
  in code it is kept.
* `>>> ` starts a turn that is the person's own code: it runs as it is, the model is not asked. `... ` or an indented line goes on
  with it (a bare `...` is an empty line); each `>>> ` is a turn of its own. It must be whole Python.
* `>>? ` starts first lines of code, which the model goes on with where they end; further lines as above.
* Indented below words, `>>> ` is the code of that turn, `>>? ` its first lines.
* `@@`, `@#`, `@>` and `@.` start words that begin with `@`, `#`, `>` or `.`: the first `@` is dropped.
* `@set` stands above the first turn and holds for all of them. `@expect` judges the turn above it.
* `{NAME}` is replaced wherever it stands in words, code or expectation, if NAME is declared by `@var` or on the command line;
  all other braces stay as they are, doubled ones too. There is no escape: do not declare what is not to be replaced.

A spec is wholly read, and every error found, before anything runs. A saved session is read as a spec too: its accepted branch.
"""

from __future__ import annotations

import ast
import difflib
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from codegen_chat.errors import SettingsError, SpecError
from codegen_chat.session.history import History
from codegen_chat.settings import Settings
from codegen_chat.turn import Turn

VERSION = "1"

_SETTINGS = ("seed", "samples", "temperature", "top_p", "top_k", "max_new_tokens", "timeout")
_DIRECTIVES = ("spec", "set", "var", "expect")
_LITERAL_STARTS = ("@@", "@#", "@>", "@.")
_CODE_STARTS = (">>>", ">>?")
_CODE = ("code", "given")
_MOST_ERRORS = 10


@dataclass(frozen=True, slots=True)
class Expectation:
    """A Python expression that must be true after a turn. `where` is file:line:column."""

    expression: str
    where: str


@dataclass(frozen=True, slots=True)
class Step:
    """One turn to run: words for the model, or, where `code` is not None, code to run as it is (`text` are then its words).

    `given` are first lines of code, which the model goes on with.
    """

    text: str
    where: str
    code: str | None = None
    expectations: tuple[Expectation, ...] = ()
    given: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """A conversation to run. `settings` are those of `@set`, `notes` what must be said of it (a damaged session), a line each."""

    settings: Mapping[str, int | float]
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


def read(data: bytes, name: str, variables: Mapping[str, str], *, resample: bool = False) -> Spec:
    """Read a file's bytes, a spec or a saved session, which `name` names in messages.

    `variables` are those of the command line. A session's steps bring the recorded code; with `resample` only the person's own
    code, so that the model writes the rest again. Raises SpecError, and SessionError for a session that is none.
    """
    if name.endswith(".jsonl") or data.startswith(b'{"v": '):
        if variables:
            raise SpecError(f"{name}:1:1", "a saved session has no variables: leave --var away")
        history = History.from_bytes(data, name)
        if not history.turns:
            raise SpecError(f"{name}:1:1", "there is no accepted turn in this session")
        return Spec({}, replay(history.turns, name, resample=resample), history.dropped)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        where = f"{name}:{before.count(10) + 1}:{len(before[before.rfind(10) + 1 :].decode('utf-8', 'replace')) + 1}"
        raise SpecError(where, f"byte 0x{data[error.start]:02x} is not UTF-8: save the file as UTF-8 text") from None
    return parse(text, name, variables)


def replay(turns: Sequence[Turn], name: str, *, resample: bool = False) -> tuple[Step, ...]:
    """Return the steps that run recorded turns again: with their code, or (`resample`) with only the person's own."""
    return tuple(
        Step(turn.text, f"{name}: turn {number}", None, given=turn.given)
        if resample and turn.completion
        else Step(turn.text, f"{name}: turn {number}", turn.code)
        for number, turn in enumerate(turns, 1)
    )


def parse(text: str, name: str, variables: Mapping[str, str]) -> Spec:
    """Read a spec; `name` is its file's in messages, `variables` those of the command line. Raises SpecError with every error."""
    return _Parser(name, variables).parse(text)


@dataclass(slots=True)
class _Item:
    """A turn or directive: its kind and its lines, each with its number and the column (from 0) where its text starts.

    `words` are those that code stands below, `margin` is how far it is indented there.
    """

    kind: str
    lines: list[tuple[int, int, str]] = field(default_factory=list)
    words: _Item | None = None
    margin: int = 0

    @property
    def start(self) -> tuple[int, int]:
        return self.lines[0][:2]

    def joined(self, separator: str) -> str:
        return separator.join(text for _, _, text in self.lines)

    def place(self, offset: int) -> tuple[int, int]:
        """Return line and column (from 0) of a place in the lines joined by one character."""
        for line, column, text in self.lines:
            if offset <= len(text):
                return line, column + offset
            offset -= len(text) + 1
        line, column, text = self.lines[-1]
        return line, column + len(text)


class _Parser:
    """Reads lines to items, then items to a Spec, and gathers errors on the way."""

    def __init__(self, name: str, variables: Mapping[str, str]) -> None:
        self.name = name
        self.given = variables
        self.errors: list[tuple[tuple[int, int], str]] = []
        self.items: list[_Item] = []

    def parse(self, text: str) -> Spec:
        for number, line in enumerate(re.split(r"\r\n|\r|\n", text.removeprefix("\ufeff")), 1):
            self.line(number, line)
        spec = self.spec(self.variables(text))
        if not (spec.steps or self.errors):
            self.error((1, 0), "there is no turn in it: write one a line")
        if self.errors:
            self.errors.sort()
            (place, message), *more = self.errors[:_MOST_ERRORS]
            raise SpecError(self.where(place), "\n".join([message, *(f"{self.where(at)}: {what}" for at, what in more)]))
        return spec

    # ------------------------------------------------------------ lines to items

    def line(self, number: int, line: str) -> None:
        """Sort one line: a new item, or one more line of the item above."""
        control = _control(line)
        if control is not None:
            self.error((number, control), f"U+{ord(line[control]):04X} is no text: remove that character")
            return
        line = line.rstrip()
        margin = len(line) - len(line.lstrip())
        if not line:
            self.blank(number)
        elif margin:
            self.indented(number, margin, line)
        elif line.startswith(_CODE_STARTS):
            self.items.append(self.code(number, 0, line))
        elif line.startswith("... ") or line == "...":
            self.more_code(number, 0, line)
        elif line.startswith(_LITERAL_STARTS):
            self.items.append(_Item("words", [(number, 1, line[1:])]))
        elif line.startswith("@"):
            self.directive(number, line)
        elif not line.startswith("#"):
            self.items.append(_Item("words", [(number, 0, line)]))

    def blank(self, number: int) -> None:
        """Take an empty line: only in code does it mean anything, for it may stand inside a string."""
        if self.items and self.items[-1].kind in _CODE:
            self.items[-1].lines.append((number, 0, ""))

    def code(self, number: int, margin: int, text: str) -> _Item:
        """Make an item of a line that starts code or first lines of it."""
        if text[3:4].strip():
            self.error((number, margin + 3), f"code stands after `{text[:3]} ` with a space (write @{text[:3]} for words)")
        kind = "given" if text.startswith(">>?") else "code"
        return _Item(kind, [(number, margin + 4, text[3:].removeprefix(" "))], margin=margin)

    def more_code(self, number: int, margin: int, text: str) -> None:
        """Take a `...` line."""
        if self.items and self.items[-1].kind in _CODE:
            self.items[-1].lines.append((number, margin + 4, text[4:]))
        else:
            self.error((number, margin), "`...` goes on with code: start it with `>>> `, or write `@...` for words")

    def indented(self, number: int, margin: int, line: str) -> None:
        """Take a line that continues the item above."""
        text = line[margin:]
        last = self.items[-1] if self.items else None
        if last is None:
            if not text.startswith("#"):
                self.error((number, 0), "an indented line continues the one above, and there is none: start it at the margin")
        elif last.words and (text.startswith("... ") or text == "..."):
            self.more_code(number, margin, text)
        elif last.kind in _CODE:
            kept = line[min(margin, last.margin) :]
            last.lines.append((number, len(line) - len(kept), kept))
        elif text.startswith(_LITERAL_STARTS):
            last.lines.append((number, margin + 1, text[1:]))
        elif text.startswith("@"):
            self.error((number, margin), "a directive starts at the margin (write @@ for words that start with @)")
        elif text.startswith(_CODE_STARTS) and last.kind == "words":
            self.items[-1] = self.code(number, margin, text)
            self.items[-1].words = last
        elif text.startswith(_CODE_STARTS):
            self.error((number, margin), f"code starts at the margin, or below words (write @{text[:3]} for words)")
        elif not text.startswith("#"):
            last.lines.append((number, margin, text))

    def directive(self, number: int, line: str) -> None:
        """Start an item of a directive."""
        head = line.split(maxsplit=1)[0]
        rest = line[len(head) :].lstrip()
        kind = head[1:]
        if kind not in _DIRECTIVES:
            guess = _guess(kind, _DIRECTIVES, "@")
            self.error((number, 0), f"unknown directive {head}{guess} (write @@ for words that start with @)")
            kind = "unknown"  # what is indented below it still belongs to it
        self.items.append(_Item(kind, [(number, len(line) - len(rest), rest)]))

    # ------------------------------------------------------------ items to a spec

    def spec(self, variables: Mapping[str, str]) -> Spec:
        settings: dict[str, int | float] = {}
        steps: list[Step] = []
        for item in self.items:
            match item.kind:
                case "spec":
                    self.version(item)
                case "set":
                    self.settings(item, settings, first=not steps)
                case "words" | "code" | "given":
                    steps.append(self.step(item, variables))
                case "expect" if steps:
                    expectation = self.expectation(item, variables)
                    steps[-1] = replace(steps[-1], expectations=(*steps[-1].expectations, expectation))
                case "expect":
                    self.error(item.start, "@expect stands below the turn that it judges: there is none above")
        return Spec(settings, tuple(steps))

    def version(self, item: _Item) -> None:
        version = item.joined(" ")
        if item is not self.items[0]:
            self.error(item.start, "@spec stands once, above all else")
        if version != VERSION:
            self.error(item.place(0), f"@spec {version} is unknown: this codegen-chat reads @spec {VERSION}")

    def settings(self, item: _Item, settings: dict[str, int | float], *, first: bool) -> None:
        if not first:
            self.error(item.start, "@set stands above the first turn: it holds for all of them")
        words = list(re.finditer(r"\S+", item.joined(" ")))
        if not words:
            self.error(item.start, "@set needs key=value")
        for word in words:
            key, equals, value = word[0].partition("=")
            place = item.place(word.start())
            if not (key and equals and value):
                self.error(place, f"{word[0]!r} is no setting: write key=value, without spaces")
                break
            if key not in _SETTINGS:
                self.error(place, f"unknown setting {key!r}{_guess(key, _SETTINGS)}")
            elif key in settings:
                self.error(place, f"{key} is set twice")
            else:
                try:
                    settings[key] = getattr(Settings().updated({key: value}, "@set"), key)
                except SettingsError as error:
                    self.error(item.place(word.start() + len(key) + 1), str(error))

    def variables(self, text: str) -> dict[str, str]:
        """Return what each declared name is replaced by: the command line's text, or str() of the literal."""
        variables: dict[str, str] = {}
        for item in self.items:
            if item.kind != "var":
                continue
            declaration = item.joined(" ")
            match = re.match(r"(\w+)\s*=\s*(?=\S)", declaration)
            if match is None or not match[1].isidentifier():
                self.error(item.place(0), '@var needs NAME=literal, such as @var A="abc"')
                continue
            if match[1] in variables:
                self.error(item.place(0), f"{match[1]} is declared twice")
            variables[match[1]] = self.literal(item, declaration, match.end())
            if _control(variables[match[1]].replace("\n", " ")) is not None:
                self.error(item.place(match.end()), f"{match[1]} holds a control character: a turn is text")
        for name, value in self.given.items():
            if name not in variables and f"{{{name}}}" not in text:
                self.error((1, 0), f"--var {name}: there is no {{{name}}} in it{_guess(name, variables)}")
            if _control(value.replace("\n", " ")) is not None:
                self.error((1, 0), f"--var {name} holds a control character: a turn is text")
            variables[name] = value
        return variables

    def literal(self, item: _Item, declaration: str, start: int) -> str:
        try:
            with warnings.catch_warnings(action="ignore"):
                value = ast.literal_eval(declaration[start:])
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            self.error(item.place(start), "@var needs a Python literal: put text in quotes")
            return declaration[start:]
        return str(value)

    def step(self, item: _Item, variables: Mapping[str, str]) -> Step:
        text = _expand(item.joined("\n"), variables).rstrip("\n")
        if not text.strip():
            self.error(item.start, "an empty turn")
        if item.kind == "words":
            return Step(text.strip(), self.where(item.start))
        words = _expand(item.words.joined("\n"), variables).strip() if item.words else ""
        where = self.where(item.words.start if item.words else (item.start[0], 0))
        if item.kind == "given":
            return Step(words, where, given=text)
        self.python(item, text, "exec", "this is no Python: ")
        return Step(words, where, text)

    def expectation(self, item: _Item, variables: Mapping[str, str]) -> Expectation:
        expression = _expand(item.joined(" "), variables)
        if expression:
            self.python(item, expression, "eval", "an expectation is one Python expression, such as x == 1: ")
        else:
            self.error(item.start, "@expect needs a Python expression")
        return Expectation(expression, self.where(item.start))

    def python(self, item: _Item, code: str, mode: str, complaint: str) -> None:
        """Add an error where code cannot be parsed; its place is exact unless a variable was replaced in it."""
        try:
            with warnings.catch_warnings(action="ignore"):
                ast.parse(code, mode=mode)
        except SyntaxError as error:
            line, column = error.lineno or 1, max((error.offset or 1) - 1, 0)
            before = sum(len(text) + 1 for text in code.split("\n")[: line - 1])
            unchanged = code == item.joined(_SEPARATOR[mode]).rstrip("\n")
            self.error(item.place(before + column if unchanged else 0), complaint + error.msg)
        except (ValueError, MemoryError, RecursionError) as error:
            self.error(item.place(0), f"{complaint}{error}")

    # ------------------------------------------------------------ errors

    def where(self, place: tuple[int, int]) -> str:
        return f"{self.name}:{place[0]}:{place[1] + 1}"

    def error(self, place: tuple[int, int], message: str) -> None:
        self.errors.append((place, message))


_SEPARATOR = {"exec": "\n", "eval": " "}


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace each declared {NAME}, once: what comes in is not looked at again."""
    return re.sub(r"\{([^\W\d]\w*)\}", lambda match: variables.get(match[1], match[0]), text)


def _control(text: str) -> int | None:
    """Return where the first control character or lone surrogate stands; a tab is text."""
    return next((i for i, c in enumerate(text) if c != "\t" and unicodedata.category(c) in {"Cc", "Cs"}), None)


def _guess(word: str, known: Sequence[str] | Mapping[str, object], prefix: str = "") -> str:
    """Return the end of a message: what may have been meant, or all there is."""
    close = difflib.get_close_matches(word, known, 1)
    if close:
        return f": did you mean {prefix}{close[0]}?"
    return f": there are {', '.join(prefix + name for name in known)}" if known else ""
