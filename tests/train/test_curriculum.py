"""The grammar: every entry of its files can be said, and what is said runs."""

from __future__ import annotations

import warnings
from importlib import import_module
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from codegen_chat.train.curriculum.grammar import Entry, combine, entries, expand, operation, stories
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.curriculum.sources import SOURCES, accepts, fits, source
from codegen_chat.train.curriculum.state import State, Variable
from codegen_chat.train.curriculum.story import fill_story, tell
from codegen_chat.train.curriculum.turns import explodes, operate
from codegen_chat.train.curriculum.wording import spoken_literal, typo

TRIES = 60
TABLE = {"name": ["Ann", "Bob"], "age": [31, 7], "city": ["Oslo", "Rome"], "price": [3.5, 2.0], "score": [50, 90], "qty": [2, 5]}


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs of the curriculum write pictures."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.fixture(scope="module")
def curriculum() -> Curriculum:
    """The grammar. What its programs import is there already: on a busy machine pyplot takes longer than a program may."""
    import_module("matplotlib.pyplot")
    import_module("pandas")
    return Curriculum()


def prepared(seed: int, kind: str) -> State | None:
    """Return a state with one live value, from which an operation on this type can start."""
    state = State(Random(seed))
    if kind == "df":
        exec(f"import pandas as pd\nsubject = pd.DataFrame({TABLE})", state.space)
        state.imports.add("import pandas as pd")
    elif kind == "series":
        exec("import pandas as pd\nsubject = pd.Series([3, 1, 2])", state.space)
        state.imports.add("import pandas as pd")
    elif kind in {"datetime", "timedelta"}:
        code = {"datetime": "datetime.datetime(2024, 3, 5, 14, 30)", "timedelta": "datetime.timedelta(days=3, hours=2)"}[kind]
        exec(f"import datetime\nsubject = {code}", state.space)
        state.imports.add("import datetime")
    else:
        value = SOURCES[kind](state.r)
        exec(f"import datetime\nsubject = {source(value)}", state.space)
        state.imports.add("import datetime")
    state.variables.append(Variable("subject", kind))
    return state


@pytest.mark.filterwarnings("ignore")
def test_every_operation_runs_for_some_literal(curriculum: Curriculum) -> None:
    """An operation that never runs teaches nothing: its code, its types or its wordings are wrong."""
    never = []
    for table in curriculum.tables:
        for number, each in enumerate(table):
            if each.given is None:
                continue
            for seed in range(TRIES):
                state = prepared(seed * 7919 + number, each.given)
                if state and operate(state, each, state.variables[0]):
                    break
            else:
                never.append((each.given, each.codes[0], each.nouns[:1], each.verbs[:1]))
    assert not never, "\n".join(map(str, never))


@pytest.mark.filterwarnings("ignore")
def test_every_story_runs_to_its_end(curriculum: Curriculum) -> None:
    broken = []
    for story in curriculum.stories:
        state = State(Random(3))
        tell(state, story)
        if len(state.steps) < sum(not turn.optional for turn in story):
            broken.append(story[0].words[0])
    assert not broken


def test_a_seed_makes_the_same_sessions_and_another_does_not(curriculum: Curriculum) -> None:
    assert list(islice(curriculum.sessions(5), 20)) == list(islice(curriculum.sessions(5), 20))
    assert list(islice(curriculum.sessions(5), 20)) != list(islice(curriculum.sessions(6), 20))


def test_sessions_run_from_their_first_turn_on(curriculum: Curriculum, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    for steps in islice(curriculum.sessions(11), 60):
        space: dict[str, object] = {"np": np}
        for step in steps:
            assert "{x}" not in step.words
            assert "\n\n" not in step.code
            with warnings.catch_warnings(action="ignore"):
                exec(compile(step.code, "turn", "exec"), space)
    capsys.readouterr()


def test_an_operation_is_read() -> None:
    (entry,) = entries(
        "# words\nstr, char y -> int : count hits\n= {x}.count({y})\nn how many {y} / the {y}s\nv count {y}\n", "f"
    )
    read = operation(entry)
    assert (read.given, read.others, read.result, read.names) == ("str", (("char", "y"),), "int", ("count", "hits"))
    assert read.codes == ("{x}.count({y})",)
    assert read.nouns == ("how many {y}", "the {y}s")


@pytest.mark.parametrize(
    ("head", "why"),
    [("str : count", "needs '->'"), ("nothing -> int : n", "unknown type"), ("str, -> int : n", "not enough values")],
)
def test_a_bad_head_is_refused(head: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        operation(Entry("f:1", head, {}, ["1"]))


def test_a_predicate_fills_a_template_once_for_each_wording() -> None:
    template = Entry(
        "t", "<list> -> <list> : <a>_<things>", {"n": ["the <a> ones / those that <t>"]}, ["[<e> for <e> in {x} if <test>]"]
    )
    even = Entry("p", "int : {e} % 2 == 0", {"a": ["even"], "t": ["are even / divide by two"]})
    made = combine(template, even)
    assert made.given == "ints"
    assert made.codes == ("[n for n in {x} if n % 2 == 0]",)
    assert made.nouns == ("the even ones", "those that are even", "those that divide by two")
    assert made.names == ("even_numbers",)


def test_a_story_without_code_is_refused() -> None:
    with pytest.raises(ValueError, match="needs one piece of code"):
        list(stories("> say something\n", "f"))


def test_phrases_expand_to_plain_words() -> None:
    drawn = {expand("(get|find) [all] the (big|small (red|blue)) {x}", Random(seed)) for seed in range(200)}
    assert drawn == {
        f"{v} {a}the {s} {{x}}" for v in ("get", "find") for a in ("", "all ") for s in ("big", "small red", "small blue")
    }


def test_choices_of_a_story_stay() -> None:
    chosen: dict[str, object] = {}
    words = fill_story("call it {v:a b c} with {n:@small}", chosen, State(Random(1)))
    code = fill_story('print({v}, f"{total:.2f} {v:>5}", {n})', chosen, State(Random(2)), spoken=False)
    name = str(chosen["v"])
    assert f"call it {name} with" in words
    assert code.startswith(f'print({name}, f"{{total:.2f}} {{v:>5}}", ')


def test_types_accept_their_children_only() -> None:
    assert accepts("num", "small")
    assert accepts("list", "names")
    assert not accepts("small", "num")
    assert fits("names", ["Ann"])
    assert not fits("ints", {1: 2})


def test_literals_are_python() -> None:
    r = Random(4)
    for make in SOURCES.values():
        value = make(r)
        written = source(value)
        if isinstance(value, (str, int, float, list, dict, tuple, set)) and type(value).__name__ != "Code":
            assert eval(written) == value
        assert spoken_literal(value, r)


def test_large_numbers_are_not_counted_to() -> None:
    assert explodes("list(range({x}))", {"{x}": 731000})
    assert explodes("2 ** {y}", {"{x}": 2, "{y}": 731000})
    assert not explodes("{x} + 1", {"{x}": 731000})
    assert not explodes("round({x} ** {y}, 2)", {"{x}": 731000, "{y}": 3})
    assert not explodes("list(range({x}))", {"{x}": 12})


def test_a_typo_changes_one_word_outside_of_quotes() -> None:
    assert typo('print "hello"', "", Random(1)) in {
        'pritn "hello"',
        'pirnt "hello"',
        'prnit "hello"',
        'prnt "hello"',
        'pint "hello"',
        'prit "hello"',
    }
    assert typo('"hello"', "", Random(1)) == '"hello"'
