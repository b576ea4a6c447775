"""The grammar's data: reads operations, predicates, maps, keys and stories from the plain text files beside this one.

Format (see the files): an entry's first line gives types, then `= code` (or `=` and lines of `: code`), `n` noun phrases, `v`
verb phrases, `d` descriptions of the result, `i` imports; ` / ` parts alternatives, `(a|b)` is a choice, `[a]` optional.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from random import Random

from codegen_chat.train.curriculum.sources import SOURCES, accepts

HERE = resources.files("codegen_chat.train.curriculum")


@dataclass(frozen=True, slots=True)
class Operation:
    """A typed piece of code with its wordings. `codes` hold {x} {y} {z} {w} and, where more than one line, {out}."""

    given: str | None
    """Type of {x}, a live value; None where the operation needs none."""
    others: tuple[tuple[str, str], ...]
    """(source, letter) of each further argument."""
    result: str | None
    """Type of the result; None for a statement."""
    names: tuple[str, ...]
    codes: tuple[str, ...]
    nouns: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    described: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoryTurn:
    """One turn of a story: alternative wordings, the code, and whether it may be left out."""

    words: tuple[str, ...]
    code: str
    optional: bool = False
    imports: tuple[str, ...] = ()


@dataclass(slots=True)
class Entry:
    """An entry as it stands in a file: its head, its tagged lines and its codes."""

    where: str
    head: str
    tags: dict[str, list[str]] = field(default_factory=dict)
    codes: list[str] = field(default_factory=list)

    def get(self, tag: str) -> tuple[str, ...]:
        """Return the alternatives of a tag."""
        return tuple(part.strip() for line in self.tags.get(tag, ()) for part in line.split(" / ") if part.strip())


def entries(text: str, where: str) -> Iterator[Entry]:
    """Split a file into entries at blank lines."""
    entry: Entry | None = None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            continue
        if not line.strip():
            if entry:
                yield entry
            entry = None
        elif entry is None:
            entry = Entry(f"{where}:{number}", line.strip())
        else:
            read_line(entry, line, f"{where}:{number}")
    if entry:
        yield entry


def read_line(entry: Entry, line: str, where: str) -> None:
    """Add one line under an entry's head: code, or tagged alternatives."""
    tag, _, rest = line.partition(" ")
    if tag == "=":
        entry.codes.append(rest.strip())
    elif tag == ":" and entry.codes:
        entry.codes[-1] = f"{entry.codes[-1]}\n{rest.rstrip()}".lstrip("\n")
    elif len(tag) == 1 and tag.isalpha():
        entry.tags.setdefault(tag, []).append(rest)
    else:
        raise ValueError(f"{where}: cannot read {line!r}")


def operation(entry: Entry) -> Operation:
    """Read an operation's head: `str, char y -> int : count`."""
    signature, _, names = entry.head.partition(" : ")
    inputs, arrow, result = (part.strip() for part in signature.partition("->"))
    if not arrow or not entry.codes:
        raise ValueError(f"{entry.where}: an operation needs '->' and code")
    first, *rest = (part.strip() for part in inputs.split(","))
    others = tuple((kind, letter) for kind, letter in (part.split() for part in rest))
    for kind in (*(kind for kind, _ in others), *(() if first == "-" else (first,))):
        if kind not in SOURCES and kind not in {"df", "series", "datetime", "timedelta"}:
            raise ValueError(f"{entry.where}: unknown type {kind!r}")
    return Operation(
        given=None if first == "-" else first,
        others=others,
        result=None if result.strip("!") in {"", "none"} else result,
        names=tuple(names.replace(",", " ").split()),
        codes=tuple(entry.codes),
        nouns=entry.get("n"),
        verbs=entry.get("v"),
        described=entry.get("d"),
        imports=tuple(entry.tags.get("i", ())),
    )


def stories(text: str, where: str) -> Iterator[tuple[StoryTurn, ...]]:
    """Read the stories of one file: entries of consecutive turns, each `> words` and its code."""
    for block in re.split(r"\n(?:[ \t]*\n)+", re.sub(r"(?m)^#.*\n", "", text)):
        turns: list[StoryTurn] = []
        for piece in re.split(r"(?m)^(?=>)", block):
            if not piece.strip():
                continue
            head, _, body = piece.partition("\n")
            entry = Entry(where, head)
            for line in body.splitlines():
                if line.startswith(">"):
                    raise ValueError(f"{where}: two lines of words before {line!r}")
                read_line(entry, line, f"{where}: after {head!r}")
            if len(entry.codes) != 1:
                raise ValueError(f"{where}: {head!r} needs one piece of code")
            words = tuple(part.strip() for part in head.lstrip(">?").split(" / "))
            turns.append(StoryTurn(words, entry.codes[0], head.startswith(">?"), tuple(entry.tags.get("i", ()))))
        if turns:
            yield tuple(turns)


def expand(phrase: str, r: Random) -> str:
    """Draw one wording of a phrase: choices `(a|b)` and optional parts `[a]`, nested as you like. `{...}` stays untouched."""
    while match := re.search(r"\(([^()\[\]]*\|[^()\[\]]*)\)|\[([^()\[\]]*)\]", phrase):
        if match[1] is not None:
            drawn = r.choice(match[1].split("|"))
        else:
            drawn = r.choice(match[2].split("|")) if r.random() < 0.4 else ""
        phrase = phrase[: match.start()] + drawn + phrase[match.end() :]
    return re.sub(r" +([,.?!])", r"\1", re.sub(r"  +", " ", phrase)).strip()


def files(folder: str) -> Iterator[tuple[str, str]]:
    """Return (name, text) of the data files in a folder, in the order of their names."""
    for path in sorted(HERE.joinpath(folder).iterdir(), key=lambda path: path.name):
        if path.name.endswith(".txt"):
            yield f"{folder}/{path.name}", path.read_text(encoding="utf-8")


@cache
def read_operations() -> tuple[Operation, ...]:
    """Read every operation of the tables."""
    return tuple(operation(entry) for name, text in files("operations") for entry in entries(text, name))


@cache
def read_stories() -> tuple[tuple[StoryTurn, ...], ...]:
    """Read every story."""
    return tuple(story for name, text in files("stories") for story in stories(text, name))


LISTS = {"int": ("ints", "n", "number"), "num": ("nums", "n", "number"), "str": ("strs", "word", "word")}
"""Of each element type: the list type, the loop variable, and what one element is called."""

RESULTS = {"int": "ints", "num": "nums", "float": "floats", "str": "strs", "bool": "bools"}
"""The list type that a map to an element type gives."""


@cache
def read_combined() -> tuple[Operation, ...]:
    """Make list operations of the element-wise tables: filters, counts, loops, sorts, groups and so on."""
    made: list[Operation] = []
    for (name, templates), (_, table) in zip(files("combined"), files("elements"), strict=True):
        for element in entries(table, f"elements/{name}"):
            for template in entries(templates, f"combined/{name}"):
                combined = combine(template, element)
                if combined.nouns or combined.verbs:
                    made.append(combined)
    return tuple(made)


def combine(template: Entry, element: Entry) -> Operation:
    """Put a predicate, map or key (`int, pos y -> int : code on {e}`) into a template."""
    signature, _, code = element.head.partition(" : ")
    inputs, _, result = (part.strip() for part in signature.partition("->"))
    kind, *others = (part.strip() for part in inputs.split(","))
    plural, e, thing = LISTS[kind]
    each = code.strip().replace("{e}", e)
    slots = {"element": kind, "list": plural, "e": e, "thing": thing, "things": f"{thing}s", "test": each, "each": each}
    slots |= {"plain": code.strip().replace("{e}", "{x}"), "result": result, "results": RESULTS.get(result, "list")}
    slots["key"] = "len" if each == f"len({e})" else f"lambda {e}: {each}"
    wordings = {tag: [words.removeprefix("the ") for words in element.get(tag)] for tag in "abtvn"}
    superlatives = element.get("s")
    wordings["s"], wordings["u"] = list(superlatives[:1]), list(superlatives[1:2])
    wordings["p"] = " ".join(element.get("p")).split()

    def fill(text: str) -> str:
        return re.sub(r"<(\w+)>", lambda match: slots.get(match[1], match[0]), text)

    def alternatives(tag: str) -> Iterator[str]:
        for words in template.get(tag):
            used = re.findall(r"<([abtvnsup])>", words)
            for wording in wordings[used[0]] if used else [""]:
                whole = place(words, used[0], wording) if used else words
                if not re.search(r"<([abtvnsup])>", whole := complete(whole, wordings)):
                    yield fill(whole)

    head, _, names = template.head.partition(" : ")
    arguments, arrow, given = head.partition("->")
    first, *more = (part.strip() for part in arguments.split(","))
    labels = [fill(complete(name, wordings)) for name in names.split()]
    labels = [
        re.sub(r"\W+", "_", name) for name in labels if "<" not in name and not (others and name.startswith(tuple(wordings["a"])))
    ]
    return operation(
        Entry(
            element.where,
            f"{', '.join([fill(first), *others, *more])} {arrow}{fill(given)} : {' '.join(labels) or 'result'}",
            {tag: [" / ".join(alternatives(tag))] for tag in "nvd"} | {"i": element.tags.get("i", [])},
            [fill(code) for code in template.codes],
        )
    )


def place(words: str, tag: str, wording: str) -> str:
    """Put a wording into a template: `multiply {e} by 3` takes what follows the tag as {e}, `double` stands before it."""
    before, _, after = words.partition(f"<{tag}>")
    return before + (wording.replace("{e}", after.strip()) if "{e}" in wording else wording + after)


def complete(words: str, wordings: dict[str, list[str]]) -> str:
    """Fill every wording that is still open with the first of its kind, where there is one."""
    return re.sub(r"<([abtvnsup])>", lambda match: (wordings[match[1]] or [match[0]])[0], words)


def usable(operations: Sequence[Operation], kind: str) -> list[Operation]:
    """Return the operations that take a value of a type as {x}."""
    return [operation for operation in operations if operation.given and accepts(operation.given, kind)]
