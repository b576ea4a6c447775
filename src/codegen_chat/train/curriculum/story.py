"""Stories: fixed sequences of turns whose choices are drawn anew each time."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from codegen_chat.train.curriculum.grammar import StoryTurn, expand
from codegen_chat.train.curriculum.running import commit
from codegen_chat.train.curriculum.sources import SOURCES, source
from codegen_chat.train.curriculum.state import State
from codegen_chat.train.curriculum.wording import fresh_name, quoted, spoken_literal

CHOICE = re.compile(r"\{(\w+)(?::(\*|@\w+|[^{}\s]+(?: [^{}\s]+)+))?\}")
"""`{v}`, `{v:one two}`, `{v:@source}`, `{v:*}`; a format spec such as `{v:.2f}` is none of them."""

NUMBER = re.compile(r"0|[1-9]\d*")
"""A number that others of its size can stand for."""

BOUND = re.compile(r"\{(\w+)(?::[^{}]*)?\} =(?!=)")
"""A choice that the code binds: the name of a variable."""


def tell(state: State, story: tuple[StoryTurn, ...]) -> None:
    """Play a fixed sequence, its choices drawn once; its names are written as this person writes names."""
    chosen: dict[str, Any] = {}
    taken = {name for turn in story for name in re.findall(r"[A-Za-z_]\w*", turn.code)}
    for turn in story:
        for text in (*turn.words, turn.code):
            fill_story(text, chosen, state, taken=taken)
    bound = {match[1] for turn in story for match in BOUND.finditer(turn.code)}
    for turn in story:
        if turn.optional and state.r.random() < 0.4:
            continue
        words = fill_story(expand(state.r.choice(turn.words), state.r), chosen, state, names=bound)
        code = fill_story(turn.code, chosen, state, spoken=False)
        if not commit(state, words, code, turn.imports):
            return
    for name, value in chosen.items():
        if isinstance(value, str) and value in state.space and not callable(state.space[value]) and name != "f":
            kind = kind_of(state.space[value])
            if kind:
                state.bind(value, kind)


def fill_story(
    text: str,
    chosen: dict[str, Any],
    state: State,
    *,
    spoken: bool = True,
    names: Collection[str] = frozenset(),
    taken: Collection[str] = frozenset(),
) -> str:
    """Replace choices; what is drawn first stays. A literal is spoken as a person writes it, else written as Python.

    An option `*` is any name that a person may give, but none of those `taken`. `names` are those choices that a person may put
    in quotes.
    """

    def replace(match: re.Match[str]) -> str:
        name, options = match[1], match[2]
        if name not in chosen and not options:
            return match[0]
        if name not in chosen:
            drawn = "@" if options[0] == "@" else state.r.choice(options.split())
            others = {*taken, *(value for value in chosen.values() if isinstance(value, str))}
            if drawn == "@":
                chosen[name] = (SOURCES[options[1:]](state.r),)
            elif (
                len(options.split()) > 2
                and all(NUMBER.fullmatch(option) for option in options.split())
                and state.r.random() < 0.4
            ):
                numbers = list(map(int, options.split()))
                chosen[name] = str(state.r.randint(min(numbers), max(numbers)))
            else:
                chosen[name] = drawn if drawn != "*" else any_name(state, others)
        value = chosen[name]
        if isinstance(value, tuple):
            return spoken_literal(value[0], state.r) if spoken else source(value[0])
        around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
        return quoted(value, state) if spoken and name in names and not set(around) & set("'\"`([.") else str(value)

    return CHOICE.sub(replace, text)


def any_name(state: State, taken: Collection[str]) -> str:
    """Draw a variable's name that nothing else has."""
    while (name := fresh_name(state, ())) in taken or state.named(name) or name == "result":
        pass
    return name


def kind_of(value: object) -> str | None:
    """Name the type of a live value that a story left behind."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, list) and value:
        if all(type(item) is int for item in value):
            return "ints"
        if all(isinstance(item, str) for item in value):
            return "strs"
    return {"int": "int", "float": "float", "str": "str"}.get(type(value).__name__)
