from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.bench.estimate import interval, mcnemar, mean_pass_at_k, pass_at_k, sign_flips, wilson


def published(n: int, c: int, k: int) -> float:
    """As printed in "Evaluating Large Language Models Trained on Code", figure 3."""
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


@given(st.data())
def test_pass_at_k_is_the_published_estimator(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 300))
    table = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=20))
    k = data.draw(st.integers(1, n))
    wanted = np.mean([published(n, c, k) for c in table])
    assert math.isclose(mean_pass_at_k([(n, c) for c in table], k), wanted, abs_tol=1e-9)


def test_pass_at_k_is_the_share_of_draws_with_one_that_passes() -> None:
    answers = [True, False, False, True, False]
    draws = list(itertools.combinations(answers, 3))
    assert math.isclose(pass_at_k(5, 2, 3), sum(map(any, draws)) / len(draws))


def test_pass_at_k_needs_k_answers() -> None:
    with pytest.raises(ValueError, match="pass@10 needs 10"):
        pass_at_k(5, 1, 10)


def test_an_interval_holds_its_rate_and_is_no_point() -> None:
    assert interval([1.0] * 164)[0] == pytest.approx(0.977, abs=1e-3)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert interval([]) == (0.0, 1.0)
    low, high = interval([0.5] * 10)
    assert low < 0.5 < high


def test_many_answers_to_a_problem_narrow_an_interval_as_far_as_they_differ() -> None:
    alike, mixed = [0.0, 1.0] * 20, [0.4, 0.6] * 20
    assert interval(mixed)[1] - interval(mixed)[0] < interval(alike)[1] - interval(alike)[0]


def test_mcnemar() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    assert mcnemar(0, 6) == pytest.approx(2 / 64)
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)


def test_flipped_signs_agree_with_mcnemar_where_all_differences_are_one() -> None:
    assert sign_flips([1.0] * 6) == pytest.approx(mcnemar(0, 6))
    assert sign_flips([1.0] * 9 + [-1.0]) == pytest.approx(mcnemar(1, 9))
    assert sign_flips([]) == sign_flips([0.0, 0.0]) == 1.0
    assert sign_flips([1.0] * 40) < 0.001
