"""Whoever proposes, and whatever: the same text, the same tokens, the same probabilities. Who does not pay rests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_chat.lm import checkpoint, hub, native, steps
from codegen_chat.lm.config import Config
from codegen_chat.lm.drafter import Drafter
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.lookup import Lookup
from codegen_chat.lm.model import TorchStep
from codegen_chat.lm.speculation import FRESH, PROPOSED, RECENT, REST, TRUST, Speculation
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.turn import Completed, Completion, Prompt, Sampling
from tests.lm.test_engine import FakeStep, Following, drain, everything, hashed, until


class Eager(Speculation):
    """Asks whatever it costs, and counts."""

    right = 0

    def _paying(self) -> Iterator[Any]:
        return iter(self._accounts if self._plain else ())

    def served(self) -> None:
        super().served()
        self.right += 1


def repeating(held: tuple[int, ...]) -> NDArray[np.float32]:
    """Return logits that depend on the last two tokens alone, so that texts run in circles, and at times out of them."""
    random = np.random.default_rng(held[-2:])
    return random.standard_normal(280, dtype=np.float32) * 3 + np.eye(280, dtype=np.float32)[held[-1] % 40 + 66] * 9


def nearly(held: tuple[int, ...]) -> NDArray[np.float32]:
    """Return other logits than `repeating` at every third place, and often one that is no token at all."""
    return repeating(held) if len(held) % 3 else hashed(held) + np.eye(280, dtype=np.float32)[-1] * 5


def sure(held: tuple[int, ...]) -> NDArray[np.float32]:
    """Return logits that leave no choice."""
    return np.eye(280, dtype=np.float32)[held[-1] % 40 + 66] * 50


def proposers(drafts: Following | None, config: Config, tokenizer: Tokenizer) -> Speculation:
    return Eager(Lookup(), *([] if drafts is None else [Drafter(Engine(FakeStep(config, drafts), tokenizer))]))


def timeless(completion: Completion) -> Completion:
    return replace(completion, usage=replace(completion.usage, prefill_seconds=0.0, decode_seconds=0.0))


def completed(
    speculation: Speculation, prompt: Prompt, sampling: Sampling, modulus: int | None, parts: tuple[Config, Tokenizer]
) -> tuple[Completion, FakeStep]:
    step = FakeStep(parts[0], repeating)
    engine = Engine(step, parts[1])
    engine.speculation = speculation
    accept = None if modulus is None else lambda text: len(text) % modulus != 0
    _, done = drain(engine.complete(prompt, sampling, accept=accept))
    assert step.held == engine._held
    _, again = drain(engine.complete(prompt, sampling, accept=accept))
    assert again.token_ids == done.token_ids
    return timeless(done), step


@settings(max_examples=60)
@given(
    drafts=st.sampled_from([None, repeating, nearly, hashed]),
    window=st.sampled_from([256, 24]),
    text=st.sampled_from(["abcabc", "x = 1\nx = 1\n", "é" * 9, "a"]),
    budget=st.integers(0, 60),
    sampling=st.sampled_from([Sampling(), Sampling(0.3, seed=1), Sampling(1.2, 0.95, 20, seed=2)]),
    strings=st.sampled_from([("\n\n",), ("re",), ()]),
    modulus=st.sampled_from([None, 2, 3]),
)
def test_speculation_changes_no_token_and_no_probability(
    *,
    drafts: Following | None,
    window: int,
    text: str,
    budget: int,
    sampling: Sampling,
    strings: tuple[str, ...],
    modulus: int | None,
    tiny_config: Config,
    tiny_tokenizer: Tokenizer,
) -> None:
    prompt, parts = Prompt(text, until(*strings), budget), (tiny_config, tiny_tokenizer)
    plain, _ = completed(Speculation(), prompt, sampling, modulus, parts)
    eager = proposers(drafts, replace(tiny_config, n_positions=window), tiny_tokenizer)
    assert completed(eager, prompt, sampling, modulus, parts)[0] == plain


@pytest.mark.parametrize(("drafts", "at_most"), [(None, 0.6), (repeating, 0.25), (nearly, 0.6)])
def test_what_is_likely_is_run_ahead(
    drafts: Following | None, at_most: float, tiny_config: Config, tiny_tokenizer: Tokenizer
) -> None:
    prompt, parts = Prompt("abcabc", everything, 100), (tiny_config, tiny_tokenizer)
    _, plain = completed(Speculation(), prompt, Sampling(), None, parts)
    _, eager = completed(proposers(drafts, tiny_config, tiny_tokenizer), prompt, Sampling(), None, parts)
    assert eager.calls < plain.calls * at_most


def test_the_window_is_kept_to(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    prompt, eager = Prompt("ab" * 120, everything, 100), proposers(repeating, tiny_config, tiny_tokenizer)
    done, _ = completed(eager, prompt, Sampling(), None, (tiny_config, tiny_tokenizer))  # FakeStep asserts it
    assert len(done.token_ids) == 16


def test_a_drafter_runs_the_difference_alone(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    """After an undo, an edit, and a text that went on without it."""
    step = FakeStep(tiny_config, sure)
    drafter = Drafter(Engine(step, tiny_tokenizer))
    for text, ran in (([70, 71, 72], 3 + 3), ([70, 71, 72, 90, 91, 92], 3 + 3), ([70, 71], 1 + 3), ([70, 80, 81], 2 + 3)):
        cold = Drafter(Engine(FakeStep(tiny_config, sure), tiny_tokenizer))
        step.ran.clear()
        assert drafter.propose(text, PROPOSED) == cold.propose(text, PROPOSED)
        assert len(step.ran) == ran


def test_a_drafter_goes_no_further_than_it_is_sure(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    step = FakeStep(tiny_config, lambda held: sure(held) if len(held) % 3 else np.zeros(280, dtype=np.float32))
    assert [len(Drafter(Engine(step, tiny_tokenizer)).propose([70] * length, PROPOSED)) for length in range(1, 5)] == [3, 2, 1, 3]


def test_an_interrupted_drafter_is_of_use_again(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    class Interrupting(FakeStep):
        left = 9

        def __call__(self, ids: NDArray[np.int64], *, every: bool = False) -> NDArray[np.float32]:
            rows = super().__call__(ids, every=every)
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            return rows

    prompt, parts = Prompt("abcabc", everything, 40), (tiny_config, tiny_tokenizer)
    plain, _ = completed(Speculation(), prompt, Sampling(), None, parts)
    engine = Engine(FakeStep(tiny_config, repeating), tiny_tokenizer)
    engine.speculation = Eager(Drafter(Engine(Interrupting(tiny_config, repeating), tiny_tokenizer)))
    _, broken = drain(engine.complete(prompt, Sampling()))
    assert broken.finish_reason == "interrupted"
    assert plain.text.startswith(broken.text)
    _, whole = drain(engine.complete(prompt, Sampling()))
    assert whole.token_ids == plain.token_ids


# ------------------------------------------------------------------------------------------------ real weights

SAMPLINGS = [Sampling(), Sampling(0.8, 0.95, seed=4), Sampling(1.2, seed=2)]


@pytest.fixture(scope="module")
def drafted() -> tuple[Engine, Engine]:
    """The embedded model in int8, and the same with its own int4 drafting, which is nearly always right."""
    folder = hub.locate("nano")
    tokenizer = Tokenizer.load(folder)
    engine, drafter = (Engine(steps.load(folder, dtype), tokenizer) for dtype in ("int8", "int4"))
    return engine, drafter


@pytest.mark.skipif(not native.instructions(), reason=f"the native step {native.state()}")
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_on_the_native_step_to_the_last_bit(drafted: tuple[Engine, Engine], sampling: Sampling) -> None:
    engine, drafter = drafted
    prompt = Prompt("import numpy as np\n\n# Write a function that adds two numbers.\n", everything, 40)
    told = []
    for speculation in (Speculation(), Eager(Drafter(drafter)), Eager(Lookup(), Drafter(drafter))):
        engine.speculation = speculation
        engine.logits([0])  # all begin cold
        told.append(timeless(drain(engine.complete(prompt, sampling, accept=lambda text: len(text) % 3 != 0))[1]))
        assert not isinstance(speculation, Eager) or speculation.right
    assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_on_the_torch_step(tiny_engine: Engine, tiny_folder: Path, sampling: Sampling) -> None:
    """A run of several may round otherwise than a run of one, by less than what parts two tokens here."""
    drafter = Engine(TorchStep(checkpoint.load(tiny_folder)), tiny_engine.tokenizer)
    prompt = Prompt("def f(x):\n", everything, 40)
    told = []
    for speculation in (Speculation(), Eager(Drafter(drafter)), Eager(Lookup())):
        tiny_engine.speculation = speculation
        told.append(drain(tiny_engine.complete(prompt, sampling))[1])
    for one in told[1:]:
        assert (one.text, one.token_ids) == (told[0].text, told[0].token_ids)
        assert one.logprobs == pytest.approx(told[0].logprobs, abs=1e-4)


def test_several_are_not_drafted_for(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    step = FakeStep(tiny_config, repeating)
    engine = Engine(FakeStep(tiny_config, repeating), tiny_tokenizer)
    engine.speculation = Eager(Drafter(Engine(step, tiny_tokenizer)))
    events = engine.complete_many(Prompt("abc", everything, 9), [Sampling(), Sampling(1.0)])
    assert sum(isinstance(event, Completed) for event in events) == 2
    assert not step.ran


# ------------------------------------------------------------------------------------------------ measuring


class Fixed:
    """Proposes as many as it can."""

    def begin(self) -> None:
        pass

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        return [1] * most


def play(speculation: Speculation, runs: int, right: int, cost: float, *, reads: float = 0.0) -> int:
    """Go on for so many runs: a plain one takes a second, one that is asked for `cost`, the first `reads` more. Count those."""
    asked = 0
    for _ in range(runs):
        if speculation.propose([1, 2, 3], 9):
            speculation.ran(cost + (reads if not asked else 0.0))
            asked += 1
            for _ in range(right):
                speculation.served()
        else:
            speculation.ran(1.0)
    return asked


@pytest.mark.parametrize(("right", "cost"), [(1, 1.5), (4, 3.0), (4, 4.9)])
def test_who_pays_is_asked(right: int, cost: float) -> None:
    """But for the first runs, and one of FRESH, by which the cost of a plain one is known. Reading a prompt first is forgiven."""
    runs = 10 * FRESH
    assert play(Speculation(Fixed()), RECENT + runs, right, cost, reads=100.0) >= runs - runs / FRESH - 1


@pytest.mark.parametrize(("right", "cost"), [(0, 1.3), (0, 3.0), (1, 2.5), (2, 4.0), (4, 6.0)])
def test_who_does_not_pay_rests_and_is_tried_again(right: int, cost: float) -> None:
    """And rests for longer then, until it pays."""
    speculation, loss = Speculation(Fixed()), cost - 1 - right
    for rest in (REST, 2 * REST):
        asked = play(speculation, RECENT + rest // 2, right, cost)
        assert TRUST - 1e-6 < asked * loss < TRUST + 2 * cost
        assert play(speculation, rest // 2 - RECENT - asked, right, cost) == 0
    play(speculation, 4 * REST, PROPOSED, 1.0)
    play(speculation, REST, 0, 3.0)
    assert play(speculation, REST, 0, 3.0) > 0


def test_each_is_measured_by_itself() -> None:
    """The first one proposes wrong tokens and comes to rest; then the second is asked."""

    class Wrong(Fixed):
        asked = 0

        def propose(self, tokens: Sequence[int], most: int) -> list[int]:
            self.asked += 1
            return [0]

    wrong = Wrong()
    speculation = Speculation(wrong, Fixed())
    for _ in range(REST // 2):
        proposed = speculation.propose([1], 9)
        speculation.ran(2.0 if proposed else 1.0)
        for _ in proposed if len(proposed) == PROPOSED else []:
            speculation.served()
    assert wrong.asked == TRUST + 1


def test_what_was_once_saved_is_soon_used_up() -> None:
    speculation = Speculation(Fixed())
    play(speculation, 1000, 4, 2.0)
    assert play(speculation, 100, 0, 2.0) <= 2 * TRUST + 1
