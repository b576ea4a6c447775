"""Which candidate to keep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.choose import RULES, Choice, Ran, Rule, examples, normal
from codegen_chat.choose import choose as choose_among
from codegen_chat.turn import Change, Execution, Status, Typed


def said(stdout: str = "", value: object = None, *names: str, status: Status = "ok") -> Execution:
    typed = None if value is None else Typed(type(value).__name__, value)
    changes = tuple(Change("+", name, "int") for name in names)
    return Execution(status, stdout=stdout, value=None if value is None else repr(value), typed_value=typed, changes=changes)


def choose(executions: Sequence[Execution], rules: Sequence[Rule] = RULES) -> int:
    return choose_among([Ran(execution) for execution in executions], rules).index


def test_the_largest_group_wins() -> None:
    assert choose([said("1\n"), said("2\n"), said("3\n"), said("2")]) == 1


def test_errors_do_not_vote() -> None:
    failed = said("2\n", status="error")
    assert choose([failed, said("1\n"), failed, said("2\n"), said("1\n"), failed]) == 1
    assert choose([failed, failed, said("3\n")]) == 2


def test_a_tie_goes_to_the_earliest() -> None:
    assert choose([said("1\n"), said("2\n"), said("2\n"), said("1\n")]) == 0


def test_values_vote_with_their_types() -> None:
    assert choose([said(value=1), said(value=True), said(value=True)]) == 1
    assert choose([said(value={"a": [1]}), said(value=2), said(value={"a": [1]})]) == 0
    pair, row = (Execution("ok", typed_value=Typed(kind, [1, 2])) for kind in ("tuple", "list"))
    assert choose([pair, row, row]) == 1


def test_what_a_silent_candidate_leaves_behind_votes() -> None:
    assert choose([said("", None, "b"), said("", None, "a"), said("", None, "a")]) == 1


def test_a_helper_name_does_not_split_those_who_say_the_same() -> None:
    assert (
        choose([said("2\n", None, "x"), said("1\n", None, "x", "i"), said("1\n", None, "x"), said("2\n", None, "x"), said("1\n")])
        == 1
    )


def test_the_order_of_changes_does_not_matter() -> None:
    assert choose([said("", None, "b"), said("", None, "a", "c"), said("", None, "c", "a")]) == 1


def test_where_all_failed_the_first_stays() -> None:
    assert choose([said(status="error"), said(status="timeout")]) == 0


def test_nothing_to_choose_from() -> None:
    with pytest.raises(ValueError, match="no candidates"):
        choose([])


@given(st.lists(st.tuples(st.sampled_from(["1", "2", "3"]), st.sampled_from(["ok", "error"])), min_size=1, max_size=9))
def test_the_chosen_one_has_no_lesser_group(outcomes: list[tuple[str, Status]]) -> None:
    executions = [said(stdout, status=status) for stdout, status in outcomes]
    best = choose(executions)
    sound = [stdout for stdout, status in outcomes if status == "ok"]
    if sound:
        assert outcomes[best][1] == "ok"
        assert sound.count(outcomes[best][0]) == max(map(sound.count, sound))
        assert outcomes.index(outcomes[best]) == best


def test_every_rule_decides_and_gives_its_reason() -> None:
    one, two = said("1\n"), said("2\n")
    cases: dict[Rule, tuple[list[Ran], str]] = {
        "runs": ([Ran(said("3\n", status="error")), Ran(one)], "the others failed"),
        "examples": ([Ran(one), Ran(two, examples=1)], "the examples in the words hold"),
        "asked": ([Ran(one, missed=1), Ran(two)], "it does what the words ask"),
        "agree": ([Ran(one), Ran(two, count=2)], "2 of 3 gave the same"),
        "leave": ([Ran(said("", None, "a")), Ran(said("", None, "b"), count=2)], "2 of 3 left the same names"),
        "likely": ([Ran(one, logprob=-3.0), Ran(two, logprob=-1.0)], "it is the likeliest"),
    }
    assert tuple(cases) == RULES == get_args(Rule)
    for rule, (candidates, reason) in cases.items():
        assert choose_among(candidates) == Choice(1, reason)
        others = tuple(other for other in RULES if other not in {rule, "leave" if rule == "agree" else rule})
        assert choose_among(candidates, others).index == 0, rule


def test_the_reason_says_where_there_was_nothing_to_choose() -> None:
    assert choose_among([Ran(said("1\n"), count=4)]) == Choice(0, "all 4 wrote the same program")
    assert choose_among([Ran(said("1\n"))]) == Choice(0, "no other ran")
    assert choose_among([Ran(said("1\n")), Ran(said("2\n"))]) == Choice(0, "it came first")
    assert choose_among([Ran(said(status="error")), Ran(said(status="error"))]) == Choice(0, "none of them ran")


def test_functions_that_nobody_called_are_not_said_to_be_the_same() -> None:
    defined = said("", None, "f")
    assert choose_among([Ran(defined, logprob=-2.0), Ran(defined, count=2)]) == Choice(1, "no result tells the 3 apart")
    one_holds = [Ran(defined), Ran(defined, examples=1), Ran(said(status="error"))]
    assert choose_among(one_holds) == Choice(1, "the examples in the words hold")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Write square, so that square(3) is 9.", ["square(3) == (9)"]),
        ("f('ab') should return 'ba', f(\"\") -> \"\"", ["f('ab') == ('ba')", 'f("") == ("")']),
        ("For example `top([1, [2]], 2)` gives `[1, [2]]`.", ["top([1, [2]], 2) == ([1, [2]])"]),
        (">>> add(1, 2)\n3\n>>> add(-1, 1.5)\n0.5", ["add(1, 2) == (3)", "add(-1, 1.5) == (0.5)"]),
        ("f(g(2)) == {'a': 1} and f(0) evaluates to None", ["f(g(2)) == ({'a': 1})"]),
        ("pair(1) must be equal to (1, 1)", ["pair(1) == ((1, 1))"]),
        ("What is square(12)?", []),
        ("Call it f(x) = x + 1", []),
        ("Print f(3).", []),
        ("f(1) is 3rd, f(2) is a number", []),
        ("f(1 is 2", []),
    ],
)
def test_examples_in_words(text: str, found: list[str]) -> None:
    assert examples(text) == found


def test_programs_that_differ_in_nothing_but_their_looks_are_one() -> None:
    assert normal("x = 'a'  # so\n\n") == normal('x="a"')
    assert normal("x = 1") != normal("x = 1.0")
    assert normal(" x = (") == "x = ("
