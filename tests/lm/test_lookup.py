from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_chat.lm.config import Config
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.lookup import PROPOSED, TRIALS, Lookup
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.turn import Completion, Prompt, Sampling
from tests.lm.test_engine import FakeStep, drain, everything, until


class Eager(Lookup):
    """Proposes whatever it costs."""

    pays = True


class Never(Lookup):
    """Proposes nothing."""

    pays = False


def repeating(held: tuple[int, ...]) -> NDArray[np.float32]:
    """Return logits that depend on the last two tokens alone, so that texts run in circles, and at times out of them."""
    random = np.random.default_rng(held[-2:])
    return random.standard_normal(280, dtype=np.float32) * 3 + np.eye(280, dtype=np.float32)[held[-1] % 40 + 66] * 9


def completed(
    lookup: Lookup, prompt: Prompt, sampling: Sampling, modulus: int | None, parts: tuple[Config, Tokenizer]
) -> tuple[Completion, FakeStep]:
    step = FakeStep(parts[0], repeating)
    engine = Engine(step, parts[1])
    engine._lookup = lookup
    accept = None if modulus is None else lambda text: len(text) % modulus != 0
    _, done = drain(engine.complete(prompt, sampling, accept=accept))
    assert step.held == engine._held
    _, again = drain(engine.complete(prompt, sampling, accept=accept))
    assert again.token_ids == done.token_ids
    return replace(done, usage=replace(done.usage, prefill_seconds=0.0, decode_seconds=0.0)), step


@given(
    text=st.sampled_from(["abcabc", "x = 1\nx = 1\n", "é" * 9, "a"]),
    budget=st.integers(0, 60),
    sampling=st.sampled_from([Sampling(), Sampling(0.3, seed=1), Sampling(1.2, 0.95, 20, seed=2)]),
    strings=st.sampled_from([("\n\n",), ("re",), ()]),
    modulus=st.sampled_from([None, 2, 3]),
)
def test_speculation_changes_no_token_and_no_probability(
    text: str,
    budget: int,
    sampling: Sampling,
    strings: tuple[str, ...],
    modulus: int | None,
    tiny_config: Config,
    tiny_tokenizer: Tokenizer,
) -> None:
    prompt = Prompt(text, until(*strings), budget)
    plain, _ = completed(Never(), prompt, sampling, modulus, (tiny_config, tiny_tokenizer))
    eager, _ = completed(Eager(), prompt, sampling, modulus, (tiny_config, tiny_tokenizer))
    assert eager == plain


def test_what_repeats_is_run_ahead(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    prompt = Prompt("abcabc", everything, 100)
    _, plain = completed(Never(), prompt, Sampling(), None, (tiny_config, tiny_tokenizer))
    _, eager = completed(Eager(), prompt, Sampling(), None, (tiny_config, tiny_tokenizer))
    assert eager.calls < plain.calls * 0.6


def test_the_window_is_kept_to(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    prompt = Prompt("ab" * 120, everything, 100)
    done, _ = completed(Eager(), prompt, Sampling(), None, (tiny_config, tiny_tokenizer))  # FakeStep asserts it
    assert len(done.token_ids) == 16


def test_what_followed_last_is_proposed() -> None:
    lookup = Eager()
    assert lookup.propose([1], 9) == []
    assert lookup.propose([1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2], 9) == [4, 5, 6, 7]
    assert lookup.propose([1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2], 2) == [4, 5]
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2], 9) == []  # cut and written anew: what was read is no longer there
    lookup.begin()
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2], 9) == [3, 9, 9, 1]
    assert len([3, 9, 9, 1]) == PROPOSED


@pytest.mark.parametrize(("right", "pays"), [(4, True), (0, False)])
def test_it_is_off_while_it_does_not_pay(right: int, *, pays: bool) -> None:
    """A run with proposals costs twice a plain one here."""
    lookup = Lookup()
    assert not lookup.pays
    for _ in range(TRIALS + 1):
        lookup.ran(0, 1.0)
    assert lookup.pays  # to be tried
    for _ in range(TRIALS + 1):
        lookup.ran(4, 2.0)
        for _ in range(right):
            lookup.served()
    assert lookup.pays == pays
    for _ in range(100):
        lookup.ran(0, 1.0)
    assert lookup.pays  # to be tried again
