"""Which candidate to keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.choose import choose
from codegen_chat.turn import Change, Execution, Status, Typed


def said(stdout: str = "", value: object = None, *names: str, status: Status = "ok") -> Execution:
    typed = None if value is None else Typed(type(value).__name__, value)
    changes = tuple(Change("+", name, "int") for name in names)
    return Execution(status, stdout=stdout, value=None if value is None else repr(value), typed_value=typed, changes=changes)


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
