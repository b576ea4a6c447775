from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from codegen_chat.errors import CheckpointError, CodegenChatError
from codegen_chat.lm.sampling import PAPER, defaults, draw, probabilities
from codegen_chat.turn import Sampling

LOGITS = np.log(np.array([0.4, 0.05, 0.3, 0.05, 0.2], dtype=np.float32))

some_logits = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))


def kept(sampling: Sampling) -> list[int]:
    return np.flatnonzero(probabilities(LOGITS.astype(np.float64), sampling)).tolist()


def test_temperature_zero_takes_the_likeliest_and_no_number() -> None:
    rng = np.random.default_rng(0)
    token, logprob = draw(LOGITS, Sampling(), rng)
    assert token == 0
    assert logprob == pytest.approx(np.log(0.4), abs=1e-6)
    assert rng.random() == np.random.default_rng(0).random()


def test_of_equal_logits_greedy_takes_the_first() -> None:
    assert draw(np.zeros(7, dtype=np.float32), Sampling(), np.random.default_rng(0))[0] == 0


@pytest.mark.parametrize("temperature", [0.2, 0.6, 1.0, 2.0])
def test_draws_follow_the_tempered_distribution(temperature: float) -> None:
    rng = np.random.default_rng(11)
    draws = 20_000
    counts = np.bincount([draw(LOGITS, Sampling(temperature), rng)[0] for _ in range(draws)], minlength=5)
    expected = np.exp(LOGITS.astype(np.float64) / temperature)
    expected = draws * expected / expected.sum()
    assert ((counts - expected) ** 2 / expected).sum() < 23.5  # chi-squared of 4 degrees: 1 in 10,000


def test_the_log_probability_is_that_of_the_untempered_model() -> None:
    rng = np.random.default_rng(3)
    for sampling in (Sampling(0.1), Sampling(5.0), Sampling(1.0, top_p=0.5), Sampling(1.0, top_k=2)):
        token, logprob = draw(LOGITS, sampling, rng)
        assert logprob == pytest.approx(float(LOGITS[token]), abs=1e-6)


@pytest.mark.parametrize(
    ("top_p", "tokens"),
    [(1.0, [0, 1, 2, 3, 4]), (0.95, [0, 1, 2, 4]), (0.71, [0, 2, 4]), (0.69, [0, 2]), (0.39, [0]), (1e-9, [0]), (0.0, [0])],
)
def test_top_p_keeps_the_fewest_that_have_its_share(top_p: float, tokens: list[int]) -> None:
    assert kept(Sampling(1.0, top_p=top_p)) == tokens


@pytest.mark.parametrize(
    ("top_k", "tokens"), [(0, [0, 1, 2, 3, 4]), (1, [0]), (3, [0, 2, 4]), (4, [0, 1, 2, 3, 4]), (99, [0, 1, 2, 3, 4])]
)
def test_top_k_keeps_the_likeliest_and_their_ties(top_k: int, tokens: list[int]) -> None:
    assert kept(Sampling(1.0, top_k=top_k)) == tokens


def test_a_share_that_is_just_reached_is_enough() -> None:
    shares = probabilities(np.zeros(4), Sampling(1.0, top_p=0.5))
    assert shares.tolist() == [0.5, 0.5, 0, 0]


def test_the_ends_of_the_unit_interval_draw_tokens_that_were_kept() -> None:
    class Fixed(np.random.Generator):
        number = 0.0

        def random(self) -> float:  # type: ignore[override]
            return self.number

    logits = np.array([-np.inf, 0, 0, -np.inf], dtype=np.float32)
    for number, token in ((0.0, 1), (0.5, 2), (np.nextafter(1, 0), 2)):
        rng = Fixed(np.random.PCG64(0))
        rng.number = number
        assert draw(logits, Sampling(1.0), rng)[0] == token


def test_top_p_is_a_share_of_what_top_k_kept() -> None:
    assert kept(Sampling(1.0, top_p=0.6, top_k=2)) == [0, 2]
    assert kept(Sampling(1.0, top_p=0.5, top_k=2)) == [0]


@given(some_logits, st.floats(0.01, 3), st.floats(0, 1), st.integers(0, 50), st.integers(0, 2**32))
def test_a_draw_has_the_probability_that_it_says(
    logits: NDArray[np.float32], temperature: float, top_p: float, top_k: int, seed: int
) -> None:
    sampling = Sampling(temperature, top_p, top_k)
    scores = logits.astype(np.float64)
    shares = probabilities(scores, sampling)
    assert shares.sum() == pytest.approx(1)
    likeliest = np.exp((scores - scores.max()) / temperature).argmax()  # logits that differ by less than rounding are equal here
    assert shares[likeliest] > 0
    token, logprob = draw(logits, sampling, np.random.default_rng(seed))
    assert shares[token] > 0
    assert logprob <= 0
    assert draw(logits, sampling, np.random.default_rng(seed)) == (token, logprob)


@given(some_logits, st.floats(0, 2), st.floats(0.01, 3), st.floats(0, 0.999), st.integers(0, 50))
def test_top_p_keeps_what_sorting_everything_keeps(
    logits: NDArray[np.float32], spread: float, temperature: float, top_p: float, top_k: int
) -> None:
    logits = np.sin(logits) * np.float32(spread)  # near each other
    scores = logits - logits.max()
    shares = probabilities(scores, Sampling(temperature, top_k=top_k))
    ordered = np.argsort(-shares, kind="stable")
    reached = np.cumsum(shares[ordered])
    count = 1 + int(reached.searchsorted(top_p))
    assume(np.abs(reached - top_p).min() > 1e-12)  # sums in another order differ by less
    wanted = np.zeros(len(shares))
    wanted[ordered[:count]] = shares[ordered[:count]]
    assert probabilities(scores, Sampling(temperature, top_p, top_k)) == pytest.approx(wanted / wanted.sum(), rel=1e-12, abs=0)


def test_of_equal_shares_top_p_keeps_the_first_ids() -> None:
    logits = np.zeros(1000, dtype=np.float32)
    logits[::3] = 0.001
    kept = probabilities(logits, Sampling(1.0, top_p=0.5)) > 0
    assert kept[::3].all()
    others = np.delete(kept, np.arange(0, 1000, 3))
    assert np.flatnonzero(others).tolist() == list(range(166))


def test_top_p_and_top_k_agree_with_transformers() -> None:
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers").generation.logits_process
    logits = np.random.default_rng(1).standard_normal((20, 300), dtype=np.float32) * 2
    for row in logits:
        scores = torch.from_numpy(row[None])
        for warp in (warpers.TemperatureLogitsWarper(0.8), warpers.TopKLogitsWarper(50), warpers.TopPLogitsWarper(0.9)):
            scores = warp(None, scores)
        ours = probabilities(row.astype(np.float64), Sampling(0.8, top_p=0.9, top_k=50))
        assert ours == pytest.approx(scores.softmax(-1)[0].numpy(), abs=1e-6)


def test_a_tiny_temperature_is_greedy_and_does_not_overflow() -> None:
    for seed in range(20):
        assert draw(LOGITS * 1000, Sampling(1e-6), np.random.default_rng(seed))[0] == 0


def test_a_logit_of_minus_infinity_is_never_drawn() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 0], dtype=np.float32)
    assert {draw(logits, Sampling(2.0), np.random.default_rng(seed))[0] for seed in range(30)} == {1, 3}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_one_line(bad: float) -> None:
    with pytest.raises(CodegenChatError, match="not finite"):
        draw(np.array([0, bad, 1], dtype=np.float32), Sampling(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, PAPER),
        ({"eos_token_id": 50256}, PAPER),
        ({"do_sample": False}, Sampling()),
        ({"do_sample": True, "temperature": 0.5, "top_k": 7}, Sampling(0.5, 1.0, 7)),
    ],
)
def test_defaults_belong_to_the_checkpoint(tmp_path: Path, content: dict[str, object] | None, expected: Sampling) -> None:
    if content is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(content), encoding="utf-8")
    assert defaults(tmp_path) == expected


@pytest.mark.parametrize("content", ["{", "[1]", '{"do_sample": true, "temperature": "warm"}', "null"])
def test_damaged_defaults_are_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content, encoding="utf-8")
    with pytest.raises((CheckpointError), match=r"generation_config\.json cannot be read: [^\n]+$"):
        defaults(tmp_path)
