"""The forms of a turn: literals, operations on what is alive, functions and their calls. Each says whether it came about."""

from __future__ import annotations

import datetime as dt
import re
from random import Random

from codegen_chat.train.curriculum.grammar import Operation, expand
from codegen_chat.train.curriculum.running import commit
from codegen_chat.train.curriculum.sources import CHILDREN, SOURCES, Code, accepts, fits, natural_name, roots, source, type_words
from codegen_chat.train.curriculum.state import Function, State, Variable
from codegen_chat.train.curriculum.wording import QUESTIONS, fresh_name, quoted, refer, spoken_literal
from codegen_chat.train.curriculum.words import FORMS, WORDS

LARGEST_COUNT = 1000
"""The largest number that may be counted to, or be an exponent."""


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


def explodes(code: str, values: dict[str, object]) -> bool:
    """Say whether a large number would make this code run long or fill the memory: counted to, or an exponent, or a size."""
    large = [key for key, value in values.items() if isinstance(value, int) and abs(value) > LARGEST_COUNT]
    exponents = any(f"** {key}" in code or f"* {key}" in code for key in large)
    return bool(large) and (exponents or re.search(r"\brange\(|factorial|np\.|while|comb\(|timedelta", code) is not None)


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


def and_print(r: Random) -> str:
    """Return the end of a turn that asks to see the result."""
    ending = r.choice(FORMS["and_print"])
    return ending if ending.startswith(",") else f" {ending}"


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


def literal_kind(r: Random, kind: str) -> str:
    """Choose a type that a literal can be written of, at or below `kind`."""
    if kind in SOURCES and kind not in CHILDREN:
        return kind
    children = [child for child in CHILDREN.get(kind, ()) if child in SOURCES]
    if not children:
        return {"df": "records", "series": "floats", "datetime": "datestr", "timedelta": "datestr"}.get(kind, "str")
    return kind if kind in SOURCES and r.random() < 0.6 else r.choice(children)
