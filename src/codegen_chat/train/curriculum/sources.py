"""Sources: each makes a random literal of one type. The name of a source is the name of its type."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from codegen_chat.train.curriculum.words import WORDS, type_table

THINGS, NAMES, CITIES = WORDS["words"], WORDS["names"], WORDS["cities"]

# fmt: off
CHILDREN: dict[str, tuple[str, ...]] = {
    "str": (
        "word", "name", "sentence", "text", "email", "url", "path", "digits", "datestr", "timestr", "csvline",
        "csvtext", "html", "logline", "binary", "char", "sep", "brackets", "kvtext", "phone", "camel", "snake",
        "hexstr",
    ),
    "int": ("index", "small", "pos", "big", "year"),
    "num": ("int", "float", "price", "percent"),
    "nums": ("ints", "floats"),
    "strs": ("names", "emails"),
    "list": ("ints", "floats", "strs", "bools", "rows", "nested", "pairs", "points", "records"),
    "dict": ("counts", "prices", "strdict", "groups"),
}
# fmt: on
"""The types that accept others; the rest accept only themselves."""

PYTHON_TYPES: dict[str, tuple[str, ...]] = {
    "str": ("str",),
    "int": ("int", "int64"),
    "num": ("int", "float", "int64", "float64"),
    "float": ("float", "float64", "int"),
    "bool": ("bool", "bool_"),
    "list": ("list",),
    "dict": ("dict", "Counter", "defaultdict"),
    "set": ("set",),
    "strset": ("set",),
    "tuple": ("tuple",),
    "array": ("ndarray",),
    "grid": ("ndarray",),
    "date": ("date",),
    "datetime": ("datetime",),
    "timedelta": ("timedelta",),
    "df": ("DataFrame",),
    "series": ("Series",),
}
"""What a live value of a type may be, by the name of its class; children inherit from their parents."""


@cache
def accepts(wanted: str, given: str) -> bool:
    """Say whether a value of type `given` can stand where `wanted` is asked for."""
    return wanted == given or any(accepts(child, given) for child in CHILDREN.get(wanted, ()))


def roots(kind: str) -> list[str]:
    """Return the type and every type that accepts it."""
    return [kind, *(parent for parent in CHILDREN if parent != kind and accepts(parent, kind))]


def fits(kind: str, value: object) -> bool:
    """Say whether a live value is what its declared type promises."""
    for name in roots(kind):
        if name in PYTHON_TYPES:
            return type(value).__name__ in PYTHON_TYPES[name]
    return True


def pick(r: Random, section: str) -> str:
    """Draw a word of one section of the vocabulary."""
    return r.choice(WORDS[section])


def coin(r: Random) -> str:
    """Make up a word of one to three syllables, so that a model learns to copy words that it has never seen."""
    onsets, codas = WORDS["onsets"], ["", "", "", *WORDS["codas"]]
    return "".join(r.choice(onsets) + r.choice("aeiou") + r.choice(codas) for _ in range(r.choice((1, 2, 2, 2, 3))))


def thing(r: Random) -> str:
    """Draw a word, or make one up."""
    return r.choice(THINGS) if r.random() < 0.6 else coin(r)


def things(r: Random, count: int) -> list[str]:
    """Draw different words."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[thing(r)] = None
    return list(drawn)


def person(r: Random) -> str:
    """Draw a first name, or make one up."""
    return r.choice(NAMES) if r.random() < 0.75 else coin(r).capitalize()


def people(r: Random, count: int) -> list[str]:
    """Draw different first names."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        drawn[person(r)] = None
    return list(drawn)


def sentence(r: Random) -> str:
    """Return a short sentence without a full stop, mostly."""
    shape = r.random()
    if shape < 0.4:
        words = things(r, r.randint(2, 6))
    elif shape < 0.7:
        words = [
            "the",
            pick(r, "adjectives"),
            thing(r),
            pick(r, "verbs"),
            "the",
            thing(r),
        ]
    else:
        words = [
            person(r),
            pick(r, "verbs"),
            r.choice(("a", "the", "two", "my", "some")),
            pick(r, "adjectives"),
            thing(r),
        ]
        words += ["in", r.choice(CITIES)] if r.random() < 0.4 else []
    if r.random() < 0.25:
        words.insert(r.randrange(len(words)), r.choice(words))
    line = " ".join(words)
    return line[0].upper() + line[1:] if r.random() < 0.5 else line


def text(r: Random) -> str:
    """Return a text with punctuation, digits, capitals or odd spaces."""
    shape = r.random()
    if shape < 0.4:
        return ". ".join(sentence(r).capitalize() for _ in range(r.randint(2, 3))) + "."
    if shape < 0.6:
        return f"{sentence(r)}, {sentence(r)}{r.choice('!?.')}"
    if shape < 0.8:
        return f"{thing(r)} {r.randint(1, 99)} {thing(r)} {r.randint(1, 999)} {thing(r)}"
    if shape < 0.9:
        odd = r.choice(
            (
                _email,
                _date,
                lambda r: f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}",
                lambda r: f"${_floats(r)}",
                lambda r: f"#{thing(r)}",
            )
        )
        return f"{sentence(r)} {odd(r)} {thing(r)} {odd(r)}"
    return r.choice(("  {}  ", "{}!!!", "#{} is nice", "{} {} {}", "{}-{}-{}", "Hello, {}!")).replace("{}", thing(r))


def _domain(r: Random) -> str:
    return pick(r, "domains")


def _date(r: Random) -> str:
    return f"{r.randint(1980, 2030)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"


def _email(r: Random) -> str:
    return f"{person(r).lower()}{r.choice(('', '.' + person(r).lower(), str(r.randint(1, 99))))}@{_domain(r)}"


def _html(r: Random) -> str:
    tag = pick(r, "tags")
    return f"<{tag}>{thing(r)} {thing(r)}</{tag}>"


def _url(r: Random) -> str:
    query = f"?{thing(r)}={r.randint(1, 50)}&{thing(r)}={thing(r)}" if r.random() < 0.4 else ""
    return f"{r.choice(('https', 'http'))}://{r.choice(('', 'www.'))}{_domain(r)}/{thing(r)}/{thing(r)}{query}"


def _path(r: Random) -> str:
    return f"{r.choice(('/home', '/var', 'docs', 'src'))}/{thing(r)}/{thing(r)}.{pick(r, 'extensions')}"


def _brackets(r: Random) -> str:
    return "".join(r.choice("()[]{}" if r.random() < 0.3 else "()") for _ in range(r.randint(2, 8)))


def _csvtext(r: Random) -> str:
    rows = [f"{person(r)},{r.randint(1, 90)}" for _ in range(r.randint(2, 4))]
    return "\n".join([r.choice(("name,age", "name,score", "item,price")), *rows])


def _floats(r: Random) -> float:
    return round(r.uniform(-20, 100) if r.random() < 0.2 else r.uniform(0, 100), r.choice((1, 1, 2)))


def _int(r: Random) -> int:
    shape = r.random()
    return (
        r.randint(0, 20)
        if shape < 0.5
        else r.randint(-50, -1)
        if shape < 0.6
        else r.randint(20, 200)
        if shape < 0.9
        else r.randint(200, 5000)
    )


def _ints(r: Random) -> list[int]:
    shape, size = r.random(), r.choice((3, 4, 4, 5, 5, 5, 6, 6, 7, 8))
    if shape < 0.1:
        return list(range(1, size + 1))
    if shape < 0.3:
        return [r.randint(1, 5) for _ in range(size)]
    if shape < 0.45:
        return [r.randint(-20, 20) for _ in range(size)]
    return [r.randint(0, r.choice((10, 10, 50, 100))) for _ in range(size)]


def _strs(r: Random) -> list[str]:
    words = things(r, r.randint(3, 6))
    shape = r.random()
    if shape < 0.3:
        return [r.choice(words) for _ in words]
    if shape < 0.45:
        word = r.choice(words)
        odd = (word.upper(), word.capitalize(), f"{word}{r.randint(1, 9)}", str(r.randint(1, 99)), f"{word} {words[0]}", "")
        return [r.choice((other, r.choice(odd))) for other in words]
    return words


def _rows(r: Random) -> list[list[int]]:
    width = r.randint(2, 3)
    height = width if r.random() < 0.5 else r.randint(2, 3)
    return [[r.randint(0, 9) for _ in range(width)] for _ in range(height)]


FIELDS: dict[str, Callable[[Random], Any]] = {
    "name": person,
    "age": lambda r: r.randint(5, 80),
    "city": lambda r: r.choice(CITIES),
    "price": lambda r: round(r.uniform(1, 60), 2),
    "score": lambda r: r.randint(10, 100),
    "qty": lambda r: r.randint(1, 12),
}


def _records(r: Random) -> list[dict[str, Any]]:
    keys = ["name", *r.sample(["age", "city", "price", "score", "qty"], r.choice((1, 2, 2, 3)))]
    return [{key: FIELDS[key](r) for key in keys} for _ in range(r.randint(2, 3))]


def _keys(r: Random) -> list[str]:
    return r.sample(r.choice((THINGS, THINGS, NAMES, list("abcdefgh"))), r.randint(2, 4))


SOURCES: dict[str, Callable[[Random], Any]] = {
    "word": thing,
    "name": person,
    "sentence": sentence,
    "text": text,
    "str": lambda r: r.choice((sentence, sentence, text, SOURCES["word"], SOURCES["word"], SOURCES["name"]))(r),
    "email": _email,
    "url": _url,
    "path": _path,
    "digits": lambda r: str(r.randint(10, 999999)),
    "datestr": _date,
    "timestr": lambda r: f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}",
    "csvline": lambda r: r.choice((",", ",", ", ", ";")).join(str(r.randint(1, 99)) for _ in range(r.randint(3, 6))),
    "csvtext": _csvtext,
    "html": _html,
    "logline": lambda r: f"{_date(r)} {SOURCES['timestr'](r)}:{r.randint(0, 59):02d} {pick(r, 'levels')} {thing(r)} {thing(r)}",
    "binary": lambda r: f"{r.randint(2, 255):b}",
    "char": lambda r: r.choice("aeiourstlnmdcp"),
    "sep": lambda r: r.choice((",", "-", ";", " ", ":", "|", "/", "_", ", ")),
    "brackets": _brackets,
    "kvtext": lambda r: ";".join(f"{key}={r.randint(1, 50)}" for key in things(r, r.randint(2, 3))),
    "phone": lambda r: f"{r.randint(200, 999)}-{r.randint(100, 999)}-{r.randint(1000, 9999)}",
    "camel": lambda r: thing(r) + "".join(word.capitalize() for word in things(r, r.randint(1, 2))),
    "snake": lambda r: "_".join(things(r, r.randint(2, 3))),
    "hexstr": lambda r: f"{r.randint(16, 65535):x}",
    "index": lambda r: r.randint(0, 2),
    "small": lambda r: r.randint(1, 6),
    "pos": lambda r: r.choice((r.randint(1, 20), r.randint(1, 100))),
    "int": _int,
    "big": lambda r: r.choice((r.randint(1000, 99999), r.randint(10, 999) * 1000)),
    "year": lambda r: r.randint(1900, 2035),
    "float": _floats,
    "price": lambda r: round(r.uniform(0.5, 200), 2),
    "percent": lambda r: r.choice((5, 7, 10, 12, 15, 20, 25, 30, 40, 50, 7.5, 2.5)),
    "num": lambda r: r.choice((_int, _int, _floats))(r),
    "ints": _ints,
    "floats": lambda r: [_floats(r) for _ in range(r.randint(3, 6))],
    "nums": lambda r: SOURCES[r.choice(("ints", "ints", "floats"))](r),
    "strs": _strs,
    "names": lambda r: people(r, r.randint(2, 6)),
    "emails": lambda r: [_email(r) for _ in range(r.randint(2, 4))],
    "bools": lambda r: [r.random() < 0.5 for _ in range(r.randint(3, 6))],
    "rows": _rows,
    "nested": lambda r: [[r.randint(0, 9) for _ in range(r.randint(1, 4))] for _ in range(r.randint(2, 4))],
    "pairs": lambda r: [(key, r.randint(1, 50)) for key in r.sample(r.choice((THINGS, NAMES)), r.randint(2, 4))],
    "points": lambda r: [(r.randint(-9, 9), r.randint(-9, 9)) for _ in range(r.randint(2, 4))],
    "records": _records,
    "list": lambda r: SOURCES[r.choice(("ints", "ints", "strs", "floats", "names"))](r),
    "counts": lambda r: {key: r.randint(1, 99) for key in _keys(r)},
    "prices": lambda r: {key: round(r.uniform(0.5, 50), 2) for key in _keys(r)},
    "strdict": lambda r: {key: r.choice((*CITIES, *THINGS)) for key in _keys(r)},
    "groups": lambda r: {key: [r.randint(1, 9) for _ in range(r.randint(1, 4))] for key in _keys(r)},
    "dict": lambda r: SOURCES[r.choice(("counts", "counts", "prices", "strdict"))](r),
    "set": lambda r: set(r.sample(range(1, 30), r.randint(3, 6))),
    "strset": lambda r: set(things(r, r.randint(2, 5))),
    "tuple": lambda r: tuple(r.randint(0, 50) for _ in range(r.randint(2, 5))),
    "bool": lambda r: r.random() < 0.5,
    "date": lambda r: dt.date(r.randint(1990, 2030), r.randint(1, 12), r.randint(1, 28)),
    "array": lambda r: Code(f"np.array({source(_ints(r))})"),
    "grid": lambda r: Code(f"np.array({source(_rows(r))})"),
}
"""How each literal is drawn. A `Code` is an expression that makes the value; anything else is written as a Python literal."""

NAMES_AND_WORDS = type_table()


def natural_name(kind: str) -> str:
    """What a value of this type is called when nobody named it."""
    return NAMES_AND_WORDS[kind][0] if kind in NAMES_AND_WORDS else "value"


def type_words(kind: str) -> tuple[str, ...]:
    """How a person may call a value of this type."""
    return next((NAMES_AND_WORDS[name][1] for name in roots(kind) if NAMES_AND_WORDS.get(name, ("", ()))[1]), ("value",))


class Code(str):
    """An expression whose text is code, not a literal."""

    __slots__ = ()


def source(value: object) -> str:
    """Write a literal as Python source, strings in double quotes."""
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, dt.date):
        return f"datetime.date({value.year}, {value.month}, {value.day})"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple, set)):
        inside = ", ".join(source(item) for item in (sorted(value) if isinstance(value, set) else value))
        opening, closing = {"list": ("[", "]"), "set": ("{", "}")}.get(type(value).__name__, ("(", ")"))
        return f"{opening}{inside}{',' if isinstance(value, tuple) and len(value) == 1 else ''}{closing}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{source(key)}: {source(item)}" for key, item in value.items()) + "}"
    return repr(value)
