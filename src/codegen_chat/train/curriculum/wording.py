"""How a person says it: names, references to what is alive, literals, and the look of their typing."""

from __future__ import annotations

import builtins
import datetime as dt
import keyword
import re
from random import Random
from typing import Any

from codegen_chat.train.curriculum.sources import Code, source, thing, type_words
from codegen_chat.train.curriculum.state import State, Variable
from codegen_chat.train.curriculum.words import FORMS, SYNONYMS, WORDS

QUOTES = r"\"[^\"]*\"|'[^']*'|`[^`]*`"

SWAPPED = re.compile(
    QUOTES + r"|(?<![\w.-])(?P<word>" + "|".join(sorted(map(re.escape, SYNONYMS), key=len, reverse=True)) + r")(?![\w(=-])",
    re.IGNORECASE,
)
"""A word that others can stand for, or something in quotes, which is to be left alone."""

MISTYPED = re.compile(QUOTES + r"|(?<![\w.])(?P<word>[a-z]{4,})(?![\w(])")
"""A word that can be mistyped, or something in quotes, which is to be left alone."""

IMPERATIVES = frozenset(FORMS["imperatives"][0].split())
"""Verbs that a turn's lead ("can you", "next") can stand before."""

QUESTIONS = ("what", "how", "is ", "which", "does")


def surface(words: str, code: str, state: State) -> str:
    """Give a turn the look of a person's typing: words of their own, leads, case, full stop, small typos."""
    r = state.r
    if r.random() < 0.4:
        words = reword(words, code, r)
    first = re.match(r"[A-Za-z]+(?= )", words)
    if first and first[0].lower() in IMPERATIVES and "?" not in words and r.random() < 0.18:
        words = f"{r.choice(FORMS['lead'])} {words[0].lower()}{words[1:]}"
    if r.random() < 0.04:
        words = typo(words, code, r)
    if state.style < 0.55 and words.split(" ")[0].strip("\"'`.,:?") not in code:
        words = words[:1].upper() + words[1:]
    question = words.lower().startswith(QUESTIONS) or words.lower().startswith(("can you", "could you"))
    if "?" in words:
        return words
    if question and r.random() < 0.8:
        return words.rstrip(".") + "?"
    if not question and state.style < 0.6 and r.random() < 0.75 and words[-1:] not in ".?!:":
        return words + "."
    return words


def reword(words: str, code: str, r: Random) -> str:
    """Swap one or two words for others of their group, outside of quotes and where they are no names of the code."""
    spots = [spot for spot in SWAPPED.finditer(words) if spot["word"] and not re.search(rf"\b{re.escape(spot['word'])}\b", code)]
    for spot in sorted(r.sample(spots, min(len(spots), r.choice((1, 1, 2)))), key=re.Match.start, reverse=True):
        word = r.choice(SYNONYMS[spot["word"].lower()])
        words = words[: spot.start()] + (word.capitalize() if spot["word"][0].isupper() else word) + words[spot.end() :]
    return words


def typo(words: str, code: str, r: Random) -> str:
    """Swap or drop a letter in one plain word, outside of quotes and where it is no name of the code."""
    spots = [spot for spot in MISTYPED.finditer(words) if spot["word"] and not re.search(rf"\b{spot['word']}\b", code)]
    if not spots:
        return words
    spot = r.choice(spots)
    word, i = spot["word"], r.randrange(1, len(spot["word"]) - 1)
    wrong = word[:i] + word[i + 1] + word[i] + word[i + 2 :] if r.random() < 0.5 else word[:i] + word[i + 1 :]
    return words[: spot.start()] + wrong + words[spot.end() :]


def quoted(name: str, state: State) -> str:
    """Write a variable's name as this person does: bare, in quotes or in backticks."""
    draw = state.r.random() * 0.5 + (0.5 if 0.3 < state.style < 0.6 else 0)
    return name if draw < 0.55 else f'"{name}"' if draw < 0.75 else f"`{name}`" if draw < 0.88 else f"'{name}'"


def refer(variable: Variable, state: State) -> str:
    """Refer to a live variable: by name, by its kind and name, by description, by pronoun."""
    r, latest = state.r, state.variables[-1].name == variable.name
    kinds = type_words(variable.kind)
    draw = r.random()
    if latest and draw < 0.22:
        return r.choice(("it", "it", "it", "that", "this", "the result"))
    if variable.described and draw < 0.36:
        return r.choice(variable.described)
    rivals = [other for other in state.variables if set(type_words(other.kind)) & set(kinds)]
    if draw < 0.55 and (len(rivals) == 1 or (latest and draw < 0.4)):
        return f"{r.choice(('the', 'the', 'the', 'this', 'my'))} {r.choice(kinds)}"
    if draw < 0.68:
        return f"the {r.choice(kinds)} {quoted(variable.name, state)}"
    return quoted(variable.name, state)


def spoken_literal(value: object, r: Random) -> str:
    """Write a literal in words as a person would."""
    if isinstance(value, Code):
        return re.sub(r"^np\.array\((.*)\)$", r"\1", value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if isinstance(value, str):
        if "\n" in value:
            return source(value)
        plain = re.fullmatch(r"\w+", value) is not None
        draw = r.random()
        return value if plain and draw < 0.2 else f"'{value}'" if draw < 0.4 and "'" not in value else f'"{value}"'
    if isinstance(value, bool):
        return r.choice((str(value), str(value).lower()))
    if (
        isinstance(value, list)
        and value
        and all(isinstance(item, (int, float, str)) and not isinstance(item, bool) for item in value)
    ):
        return spoken_list(value, r)
    if isinstance(value, dict) and r.random() < 0.5:
        return spoken_dict(value, r)
    if isinstance(value, int) and 0 <= value <= 6 and r.random() < 0.15:
        return ("zero", "one", "two", "three", "four", "five", "six")[value]
    return source(value) if r.random() < 0.85 else source(value).replace('"', "'")


def spoken_list(value: list[Any], r: Random) -> str:
    """Write a list as Python, or as a person enumerates: bare or in quotes, with an "and" or without."""
    if r.random() < 0.4:
        return source(value)
    bare = [str(item) for item in value]
    if r.random() < 0.5 or any(not re.fullmatch(r"[\w.@-]+", item) for item in bare):
        bare = [source(item) for item in value]
    draw = r.random()
    if len(bare) > 1 and draw < 0.6:
        return f"{', '.join(bare[:-1])}{r.choice((' and ', ' and ', ', and '))}{bare[-1]}"
    return " ".join(bare) if draw < 0.65 else ", ".join(bare)


def spoken_dict(value: dict[str, Any], r: Random) -> str:
    """Write a dict as a person tells its entries."""
    link = r.choice((": ", ": ", " to ", " = ", " -> ", " is ", " costs ", " has "))
    entries = [f"{source(key)}{link}{source(item)}" for key, item in value.items()]
    lead = {" to ": "mapping ", " costs ": "where ", " is ": "where ", " has ": "where "}.get(link, "")
    return f"{lead}{', '.join(entries[:-1])} and {entries[-1]}" if len(entries) > 1 else lead + entries[0]


def fresh_name(state: State, natural: tuple[str, ...], chance: float = 0.45) -> str:
    """Choose a name that a person would give: natural for the value, or any."""
    r = state.r
    draw = r.random()
    if natural and draw < chance:
        name = r.choice(natural)
    elif draw < 0.75:
        name = r.choice(WORDS["variables"])
    else:
        name = thing(r) + r.choice(("", "", "s", "_list", "_name", "_count"))
    if draw > 0.96:
        name = f"{name}_{r.choice(WORDS['words'])}"
    taken = (
        keyword.iskeyword(name)
        or name in dir(builtins)
        or name == "np"
        or any(function.name == name for function in state.functions)
    )
    return "result" if taken or not name.isidentifier() else name
