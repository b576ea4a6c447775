"""Whole conversations, made turn by turn against a live namespace: a turn is kept only when its code runs.

A session opens with literals, goes on with operations on what is alive, functions defined and called, and stories. The
namespace is real: every program was executed while it was made, in this process (the grammar is ours, nothing of it is hostile).
"""

from __future__ import annotations

import builtins
import contextlib
import datetime as dt
import io
import keyword
import random
import re
import signal
import tempfile
import threading
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from codegen_chat.train.curriculum.grammar import (
    Operation,
    StoryTurn,
    expand,
    read_combined,
    read_operations,
    read_stories,
    usable,
)
from codegen_chat.train.curriculum.sources import (
    CHILDREN,
    SOURCES,
    Code,
    accepts,
    fits,
    natural_name,
    roots,
    source,
    thing,
    type_words,
)
from codegen_chat.train.curriculum.words import FORMS, SYNONYMS, WORDS

LONGEST_VALUE = 400
"""Characters of repr; a longer value ends its turn, so that nothing explodes."""
LONGEST_RUN = 5.0
"""Seconds; importing pandas is a part of them."""
LARGEST_COUNT = 1000
"""The largest number that may be counted to, or be an exponent."""


TOGETHER = 0.12
"""How often two turns are asked for in one."""


@dataclass(frozen=True, slots=True)
class Step:
    """One turn as the model will see it."""

    words: str
    code: str


@dataclass(slots=True)
class Variable:
    """A live name: its type, and how a person may describe it."""

    name: str
    kind: str
    described: tuple[str, ...] = ()


@dataclass(slots=True)
class Function:
    """A function that an earlier turn defined: what it takes, what it returns."""

    name: str
    given: str
    result: str


@dataclass(slots=True)
class State:
    """A session in the making."""

    r: Random
    space: dict[str, Any] = field(default_factory=lambda: {"np": np})
    variables: list[Variable] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    style: float = 0.0

    def named(self, name: str) -> Variable | None:
        """Return the live variable of that name."""
        return next((variable for variable in self.variables if variable.name == name), None)

    def bind(self, name: str, kind: str, described: tuple[str, ...] = ()) -> None:
        """Make a name the latest variable."""
        self.variables = [variable for variable in self.variables if variable.name != name]
        self.variables.append(Variable(name, kind, described))


class Curriculum:
    """The grammar, read once; `session(seed)` makes one conversation, the same for the same seed."""

    def __init__(self) -> None:
        self.tables = (read_operations(), read_combined())
        self.stories = read_stories()
        self.by_kind: dict[tuple[int, str], list[Operation]] = {}

    def draw(self, r: Random, kind: str | None = None) -> Operation | None:
        """Draw an operation, evenly within the tables (7 in 10) or the combined ones; of a type, where one is given."""
        which = int(r.random() > 0.7)
        found = self.by_kind.get((which, kind or ""))
        if found is None:
            table = self.tables[which]
            found = usable(table, kind) if kind else [operation for operation in table if operation.given]
            self.by_kind[which, kind or ""] = found
        return r.choice(found) if found else None

    def session(self, seed: int) -> list[Step]:
        """Make one conversation of 1 to 9 turns."""
        r = Random(seed)
        random.seed(seed)  # for programs that draw numbers themselves
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the same
        state = State(r, style=r.random())
        turns = r.choice((2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 8, 9))
        if r.random() < 0.55 and self.stories:
            if r.random() < 0.25:
                self.opening(state)
            self.story(state, r.choice(self.stories))
            if r.random() < 0.2:  # another matter, with what the first left behind still there
                self.story(state, r.choice(self.stories))
            turns = min(turns, len(state.steps) + r.choice((0, 0, 0, 1, 2)))
        else:
            self.opening(state)
        for _ in range(3 * turns):
            if len(state.steps) >= turns:
                break
            before = len(state.steps)
            self.extend(state)
            if 0 < before < len(state.steps) and r.random() < TOGETHER:
                state.steps[-2:] = [together(state.steps[-2], state.steps[-1], r)]
        return state.steps

    def sessions(self, seed: int) -> Iterator[list[Step]]:
        """Make conversations without end; of one seed always the same."""
        r = Random(seed)
        with tempfile.TemporaryDirectory(prefix="curriculum-") as folder:  # some of the programs write pictures
            while True:
                with warnings.catch_warnings(action="ignore"), contextlib.chdir(folder):
                    steps = self.session(r.getrandbits(62))
                if steps:
                    yield steps

    # Turns ----------------------------------------------------------------------------------------------------------

    def opening(self, state: State) -> None:
        """Begin with a literal that some operation, drawn evenly, can take; or with several, an import, a range, nothing."""
        draw = state.r.random()
        if draw < 0.06:
            bring(state)
        elif draw < 0.2:
            several(state)
            return
        elif draw < 0.26:
            span(state)
            return
        elif draw < 0.3:
            empty(state)
            return
        for _ in range(5):
            operation = self.draw(state.r)
            if operation is None or not assign(state, literal_kind(state.r, operation.given or "str")):
                continue
            if state.r.random() < 0.25:
                assign(
                    state,
                    literal_kind(state.r, state.r.choice(("str", "int", "ints", "strs", "small", operation.given or "str"))),
                )
            if state.r.random() < 0.85:
                operate(state, operation, state.variables[0])
            return

    def extend(self, state: State) -> None:
        """Add one turn: mostly an operation on what is alive."""
        r, draw = state.r, state.r.random()
        if draw < 0.015:
            bring(state)
        elif draw < 0.035:
            several(state)
        elif draw < 0.05:
            span(state)
        elif not state.variables or draw < 0.08:
            assign(state, literal_kind(r, r.choice(("str", "int", "ints", "strs", "float", "dict", "list", "num"))))
        elif draw < 0.12:
            show(state)
        elif draw < 0.18:
            if operation := self.draw(r):
                define(state, operation)
        elif draw < 0.32 and state.functions:
            call(state)
        else:
            variable = state.variables[-1] if r.random() < 0.6 else r.choice(state.variables)
            if operation := self.draw(r, variable.kind):
                operate(state, operation, variable)

    def story(self, state: State, story: tuple[StoryTurn, ...]) -> None:
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


def together(one: Step, two: Step, r: Random) -> Step:
    """Ask for two turns in one."""
    joint = r.choice((", then ", " and ", " and then ", ". ", ", and ", "; "))
    rest = two.words if joint == ". " or re.match(r"[A-Z](?![a-z])", two.words) else two.words[:1].lower() + two.words[1:]
    return Step(f"{one.words.rstrip('.?')}{joint}{rest}", f"{one.code}\n{two.code}")


CHOICE = re.compile(r"\{(\w+)(?::(\*|@\w+|[^{}\s]+(?: [^{}\s]+)+))?\}")
"""`{v}`, `{v:one two}`, `{v:@source}`, `{v:*}`; a format spec such as `{v:.2f}` is none of them."""

NUMBER = re.compile(r"0|[1-9]\d*")
"""A number that others of its size can stand for."""

BOUND = re.compile(r"\{(\w+)(?::[^{}]*)?\} =(?!=)")
"""A choice that the code binds: the name of a variable."""


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


def literal_kind(r: Random, kind: str) -> str:
    """Choose a type that a literal can be written of, at or below `kind`."""
    if kind in SOURCES and kind not in CHILDREN:
        return kind
    children = [child for child in CHILDREN.get(kind, ()) if child in SOURCES]
    if not children:
        return {"df": "records", "series": "floats", "datetime": "datestr", "timedelta": "datestr"}.get(kind, "str")
    return kind if kind in SOURCES and r.random() < 0.6 else r.choice(children)


# Words ----------------------------------------------------------------------------------------------------------------

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


# Turns of each form -----------------------------------------------------------------------------------------------------


def assign(state: State, kind: str) -> bool:
    """Bind a literal to a name, the person's or a natural one."""
    r = state.r
    value = SOURCES[kind](r)
    natural = natural_name(kind)
    thing = r.choice(type_words(kind))
    if isinstance(value, Code):
        thing = r.choice((f"numpy {thing}", "numpy array", f"np {thing}"))
    elif r.random() < 0.15:
        thing = natural.replace("_", " ")
    if r.random() < 0.17:
        name = natural if thing in type_words(kind) or not thing.isidentifier() else thing
        words = expand(r.choice(FORMS["assign_unnamed"]), r)
    else:
        name = fresh_name(state, (natural, natural, thing.replace(" ", "_")), 0.4)
        words = expand(r.choice(FORMS["assign"]), r)
    words = (
        re.sub(r"\ban? (?=\w+s\b)", "the ", words.replace("{t}", thing)) if thing.endswith("s") else words.replace("{t}", thing)
    )
    words = words.replace("{v}", spoken_literal(value, r)).replace("{k}", quoted(name, state))
    imports = ("import datetime",) if isinstance(value, dt.date) else ()
    if state.named(name) or not commit(state, words, f"{name} = {source(value)}", imports):
        return False
    state.bind(name, kind)
    return True


def operate(state: State, operation: Operation, variable: Variable) -> bool:
    """Apply an operation to a live variable, in one of the forms that a person may ask in."""
    r = state.r
    code = operation.codes[0] if len(operation.codes) == 1 or r.random() < 0.85 else r.choice(operation.codes[1:])
    spoken: dict[str, str] = {"{x}": refer(variable, state)}
    written: dict[str, str] = {"{x}": variable.name}
    for kind, letter in operation.others:
        spoken[f"{{{letter}}}"], written[f"{{{letter}}}"] = argument(state, kind, variable)
    if len(set(written.values())) < len(written):
        return False
    if explodes(code, {key: state.space.get(name) for key, name in written.items()}):
        return False
    block = "{out}" in code
    verbs, nouns = operation.verbs, operation.nouns
    if operation.result is None:
        return bool(verbs) and commit(
            state, fill(expand(r.choice(verbs), r), spoken), substitute(code, written), operation.imports
        )
    by_verb = bool(verbs) and (not nouns or r.random() < 0.5)
    phrase = fill(expand(r.choice(verbs if by_verb else nouns), r), spoken) if verbs or nouns else ""
    if not phrase:
        return False
    draw = r.random()
    if draw < 0.4:
        name = fresh_name(state, operation.names)
        if r.random() < 0.06 and operation.result == variable.kind:
            name = variable.name
        words = (
            expand(r.choice(FORMS["store_verb"] if by_verb else FORMS["store"]), r)
            .replace("{k}", quoted(name, state))
            .replace("{a}" if by_verb else "{n}", phrase)
        )
        tail = and_print(r) if r.random() < 0.15 else ""
    elif draw < 0.72 and not block:
        if by_verb:
            words = phrase + and_print(r) if not phrase.startswith(QUESTIONS) else phrase
        else:
            forms = FORMS["print"] if not phrase.startswith(("whether ", "if ")) else FORMS["print"][:2]
            words = phrase if phrase.startswith(QUESTIONS) else expand(r.choice(forms), r).replace("{n}", phrase)
        return commit(state, words, f"print({substitute(code, written)})", operation.imports)
    else:
        name = operation.names[0] if r.random() < 0.85 else r.choice(operation.names)
        if name == variable.name or (state.named(name) and r.random() < 0.7):
            name = next((other for other in operation.names if other != variable.name and not state.named(other)), f"new_{name}")
        words = phrase if by_verb or phrase.startswith(QUESTIONS) else expand(r.choice(FORMS["just"]), r).replace("{n}", phrase)
        tail = and_print(r) if r.random() < (0.6 if block else 0.25) or words.startswith(QUESTIONS) else ""
        if words.startswith(QUESTIONS):
            tail = " "
    body = substitute(code, {**written, "{out}": name}) if block else f"{name} = {substitute(code, written)}"
    if not commit(state, (words + tail).strip(), body + (f"\nprint({name})" if tail else ""), operation.imports):
        return False
    if not fits(operation.result, state.space.get(name)):
        state.steps.pop()
        state.variables = [live for live in state.variables if live.name != name]
        return False
    state.bind(name, operation.result, tuple(expand(d, r) for d in operation.described))
    return True


def explodes(code: str, values: dict[str, object]) -> bool:
    """Say whether a large number would make this code run long or fill the memory: counted to, or an exponent, or a size."""
    large = [key for key, value in values.items() if isinstance(value, int) and abs(value) > LARGEST_COUNT]
    exponents = any(f"** {key}" in code or f"* {key}" in code for key in large)
    return bool(large) and (exponents or re.search(r"\brange\(|factorial|np\.|while|comb\(|timedelta", code) is not None)


def several(state: State) -> bool:
    """Bind two or three simple literals in one turn."""
    r = state.r
    kinds = [
        r.choice(("int", "int", "float", "str", "word", "name", "ints", "strs", "price")) for _ in range(r.choice((2, 2, 2, 3)))
    ]
    if r.random() < 0.5:
        kinds = kinds[:1] * len(kinds)
    names = [fresh_name(state, (natural_name(kind), *WORDS["variables"][:12])) for kind in kinds]
    if len(set(names)) < len(names) or any(state.named(name) for name in names):
        return False
    values = [SOURCES[kind](r) for kind in kinds]
    form = r.choice(FORMS["several"])
    spoken = [spoken_literal(value, r) for value in values]
    heading, each = form.split("|")
    parts = [each.replace("{v}", v).replace("{k}", quoted(name, state)) for name, v in zip(names, spoken, strict=True)]
    words = f"{heading}{', '.join(parts[:-1])}{r.choice((' and ', ' and ', ', '))}{parts[-1]}"
    code = "\n".join(f"{name} = {source(value)}" for name, value in zip(names, values, strict=True))
    if not commit(state, words, code, ()):
        return False
    for name, kind in zip(names, kinds, strict=True):
        state.bind(name, kind)
    return True


def span(state: State) -> bool:
    """Bind the whole numbers of a range, as a list."""
    r = state.r
    low = r.choice((0, 1, 1, 1, 1, r.randint(-5, 20)))
    high = low + r.randint(3, 19)
    name = fresh_name(state, ("numbers", "nums", "values"))
    words = (
        expand(r.choice(FORMS["span"]), r).replace("{v}", str(low)).replace("{n}", str(high)).replace("{k}", quoted(name, state))
    )
    if state.named(name) or not commit(state, words, f"{name} = list(range({low}, {high + 1}))", ()):
        return False
    state.bind(name, "ints")
    return True


def empty(state: State) -> bool:
    """Bind an empty value."""
    r = state.r
    called, code, kind = r.choice([line.split(" | ") for line in FORMS["empty_kinds"]])
    name = fresh_name(state, (natural_name(kind), "result", "items"))
    words = expand(r.choice(FORMS["empty"]), r).replace("{t}", called).replace("{k}", quoted(name, state))
    if state.named(name) or not commit(state, words, f"{name} = {code}", ()):
        return False
    state.bind(name, kind)
    return True


def bring(state: State) -> bool:
    """Import a module, as a turn of its own."""
    r = state.r
    line = r.choice(FORMS["imports"])
    module, _, alias = line.removeprefix("import ").partition(" as ")
    if line.startswith("from "):
        _, module, _, called = line.split(" ")
        words = f"{r.choice(('import', 'import', 'get'))} {called} from [the] {module} [module]"
        words = r.choice((words, f"from [the] {module} [module] import {called}"))
    else:
        words = f"import [the [module|library]] {module}" + (f" as {alias}" if alias else r.choice(("", " [module]")))
    if line in state.imports or not commit(state, expand(words, r), line, ()):
        return False
    state.imports.add(line)
    return True


def and_print(r: Random) -> str:
    """Return the end of a turn that asks to see the result."""
    ending = r.choice(FORMS["and_print"])
    return ending if ending.startswith(",") else f" {ending}"


def argument(state: State, kind: str, variable: Variable) -> tuple[str, str]:
    """Draw a further argument: a live variable now and then, else a literal that suits the value at hand."""
    r = state.r
    live = [other for other in state.variables if other.name != variable.name and accepts(kind, other.kind)]
    if live and r.random() < (0.5 if kind not in {"char", "sep", "word", "small", "int", "pos", "num"} else 0.25):
        other = r.choice(live)
        return quoted(other.name, state), other.name
    if kind not in SOURCES:
        kind = literal_kind(r, kind)
    held = state.space.get(variable.name)
    value = SOURCES[kind](r)
    draw = r.random()
    if kind == "char" and isinstance(held, str) and draw < 0.7:
        value = r.choice([char for char in held.lower() if char.isalpha()] or ["a"])
    elif kind in {"word", "str", "name"} and isinstance(held, str) and draw < 0.5:
        value = r.choice(held.split() or ["word"])
    elif kind in {"word", "str", "name"} and isinstance(held, (list, dict)) and draw < 0.75:
        value = r.choice([item for item in held if isinstance(item, str)] or [value])
    elif kind in {"int", "num", "pos"} and isinstance(held, list) and draw < 0.4:
        value = r.choice([item for item in held if isinstance(item, int)] or [value])
    return spoken_literal(value, r), source(value)


def fill(phrase: str, spoken: dict[str, str]) -> str:
    """Put references and literals into a phrase."""
    for key, value in spoken.items():
        phrase = phrase.replace(key, value)
    return phrase


def substitute(code: str, written: dict[str, str]) -> str:
    """Put names and literals into code; a compound literal that a method is called on keeps its brackets."""
    for key, value in written.items():
        code = code.replace(key, value)
    return code


def show(state: State) -> bool:
    """Print a live variable."""
    variable = state.variables[-1] if state.r.random() < 0.6 else state.r.choice(state.variables)
    return commit(
        state,
        expand(state.r.choice(FORMS["show"]), state.r).replace("{x}", refer(variable, state)),
        f"print({variable.name})",
        (),
    )


PARAMETERS = {
    "str": ("s", "text", "word"),
    "list": ("items", "lst", "values", "numbers"),
    "dict": ("d", "data"),
    "int": ("n", "x", "number"),
    "num": ("x", "n", "value"),
}


def define(state: State, operation: Operation) -> bool:
    """Define a function of one argument from an operation."""
    r = state.r
    if (
        operation.others
        or operation.result is None
        or not operation.nouns
        or "{out}" in operation.codes[0]
        or not operation.names
    ):
        return False
    family = next((name for name in roots(operation.given or "") if name in PARAMETERS), None)
    if not family:
        return False
    parameter, name = (
        r.choice(PARAMETERS[family]),
        r.choice(
            (
                f"get_{operation.names[0]}",
                operation.names[0],
                f"find_{operation.names[0]}",
                f"my_{operation.names[0]}",
                r.choice(WORDS["variables"]) + "_func",
                "f",
            )
        ),
    )
    if state.named(name) or name in state.space:
        return False
    noun = expand(r.choice(operation.nouns), r)
    if noun.startswith("how "):
        return False
    words = (
        expand(r.choice(FORMS["define"]), r)
        .replace("{f}", quoted(name, state) if r.random() < 0.5 else name)
        .replace("{p}", parameter)
        .replace("{t}", r.choice(type_words(operation.given or "")))
    )
    words = words.replace("{n}", noun.replace("{x}", r.choice((parameter, "it", f"the {type_words(operation.given or '')[0]}"))))
    body = operation.codes[0].replace("{x}", parameter)
    if not commit(state, words, f"def {name}({parameter}):\n    return {body}", operation.imports):
        return False
    state.functions.append(Function(name, operation.given or "", operation.result))
    if r.random() < 0.85:
        call(state)
    return True


def call(state: State) -> bool:
    """Call the latest function with a live value or a literal."""
    r, function = state.r, state.functions[-1]
    live = [variable for variable in state.variables if accepts(function.given, variable.kind)]
    if live and r.random() < 0.6:
        variable = r.choice(live)
        spoken, written = quoted(variable.name, state) if r.random() < 0.7 else refer(variable, state), variable.name
    else:
        kind = literal_kind(r, function.given)
        if function.given in {"df", "series", "datetime", "timedelta", "date", "grid", "array"}:
            return False
        value = SOURCES[kind](r)
        spoken = written = source(value)
    label = r.choice((function.name, function.name, "it", "the function", f"{function.name}()"))
    if r.random() < 0.7:
        words = (
            expand(r.choice(FORMS["call_print"]), r)
            .replace("{f}({a})", f"{function.name}({written})")
            .replace("{f}", label)
            .replace("{a}", spoken)
        )
        return commit(state, words, f"print({function.name}({written}))", ())
    name = fresh_name(state, ("result",))
    words = (
        expand(r.choice(FORMS["call_store"]), r)
        .replace("{f}({a})", f"{function.name}({written})")
        .replace("{f}", label)
        .replace("{a}", spoken)
        .replace("{k}", quoted(name, state))
    )
    if not commit(state, words, f"{name} = {function.name}({written})", ()):
        return False
    state.bind(name, function.result)
    return True


# Running ----------------------------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """A program did not end in time."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Break off what runs longer than LONGEST_RUN: a drawn number can make a loop endless. For a main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, LONGEST_RUN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def commit(state: State, words: str, code: str, imports: tuple[str, ...]) -> bool:
    """Run a turn's code in the live namespace; keep the turn when it runs and stays small."""
    needed = [line for line in imports if line not in state.imports]
    whole = "\n".join([*needed, code])
    loops = set(re.findall(r"\bfor (\w+)", whole))
    if "{x}" in words or "{y}" in words or "\n\n" in whole or not words or any(state.named(name) for name in loops):
        return False
    space = dict(state.space)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as output, limited():
            exec(compile(whole, "<curriculum>", "exec"), space)  # noqa: S102 - the grammar's own code
    except (Exception, TooLong):  # noqa: BLE001 - whatever fails is not kept
        return False
    changed = [value for name, value in space.items() if name != "__builtins__" and state.space.get(name) is not value]
    try:
        if len(output.getvalue()) > 2 * LONGEST_VALUE or any(
            len(repr(value)) > LONGEST_VALUE for value in changed if not callable(value)
        ):
            return False
    except Exception:  # noqa: BLE001 - a repr that fails
        return False
    state.space = space
    state.imports.update(needed)
    state.steps.append(Step(surface(words, whole, state), whole))
    return True


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
