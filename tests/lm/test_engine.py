from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from codegen_chat.errors import CheckpointError, ContextWindowExceeded, UsageError
from codegen_chat.lm.config import Config
from codegen_chat.lm.engine import CHUNK, Branches, Engine
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.turn import Accept, Completed, Completion, Delta, Prompt, Sampling, Stop

Following = Callable[[tuple[int, ...]], NDArray[np.float32]]


class FakeStep:
    """A step whose logits are a function of the exact tokens that it holds."""

    dtype, device, backend = "fp64", "nowhere", "fake"

    def __init__(self, config: Config, following: Following) -> None:
        self.config = config
        self.following = following
        self.held: list[int] = []
        self.ran: list[int] = []
        self.ran_together: list[int] = []
        self.calls = 0

    @property
    def length(self) -> int:
        return len(self.held)

    def __call__(self, ids: NDArray[np.int64], *, every: bool = False) -> NDArray[np.float32]:
        self.calls += 1
        rows = []
        for token in ids.tolist():
            self.held.append(token)
            self.ran.append(token)
            rows.append(self.following(tuple(self.held)))
        assert len(self.held) <= self.config.n_positions
        return np.stack(rows) if every else rows[-1]

    def features(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self(ids, every=True)

    def truncate(self, length: int) -> None:
        assert 0 <= length <= len(self.held)
        del self.held[length:]

    def branch(self, count: int) -> Branches:
        shared = tuple(self.held)
        tails: list[list[int]] = [[] for _ in range(count)]

        def run(which: Sequence[int], lengths: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
            assert tuple(self.held) == shared  # they are void otherwise
            assert len(set(which)) == len(which) == len(lengths) == len(ids)
            for tail, length, token in zip((tails[i] for i in which), lengths, ids, strict=True):
                assert length <= len(tail)
                tail[length:] = [token]
            self.ran_together.append(len(ids))
            return np.stack([self.following((*shared, *tails[i])) for i in which])

        return run


def hashed(held: tuple[int, ...]) -> NDArray[np.float32]:
    """Return logits that depend on every token held, on nothing else, and exactly."""
    return np.random.default_rng(held).standard_normal(280, dtype=np.float32) * 3


def scripted(tokenizer: Tokenizer, *answers: Iterable[int], prompt: int = 1) -> Following:
    """Return logits that force one of the answers, then the end of text. Where answers part, the earlier is a little likelier."""
    paths = [(*answer, tokenizer.end_of_text) for answer in answers]

    def following(held: tuple[int, ...]) -> NDArray[np.float32]:
        logits = np.full(len(tokenizer), -1e4, dtype=np.float32)
        said = held[prompt:]
        for rank, path in enumerate(paths):
            if len(path) > len(said) and path[: len(said)] == said:
                logits[path[len(said)]] = max(logits[path[len(said)]], -0.1 * rank)
        return logits

    return following


def until(*strings: str) -> Stop:
    """Stop before the first of the strings, holding back what may become one."""

    def stop(text: str) -> tuple[int, bool]:
        found = [at for at in (text.find(string) for string in strings) if at >= 0]
        if found:
            return min(found), True
        held = max((n for s in strings for n in range(len(s)) if n <= len(text) and text.endswith(s[:n])), default=0)
        return len(text) - held, False

    return stop


def everything(text: str) -> tuple[int, bool]:
    return len(text), False


def drain(events: Iterable[Delta | Completion]) -> tuple[list[str], Completion]:
    """Return the pieces and the Completion. The pieces joined are its text, and none is empty."""
    *deltas, last = events
    assert isinstance(last, Completion)
    pieces = [delta.text for delta in deltas if isinstance(delta, Delta)]
    assert len(pieces) == len(deltas)
    assert all(pieces)
    assert "".join(pieces) == last.text
    return pieces, last


@pytest.fixture
def say(tiny_config: Config, tiny_tokenizer: Tokenizer) -> Callable[..., Engine]:
    """Return an engine that answers a prompt of one token with the given tokens."""

    def build(*answers: Iterable[int]) -> Engine:
        return Engine(FakeStep(tiny_config, scripted(tiny_tokenizer, *answers)), tiny_tokenizer)

    return build


def ids(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    """Return one token for each piece of text, whether a text would be encoded so or not."""
    by_bytes = {tokenizer.token_bytes(token): token for token in range(len(tokenizer))}
    return [by_bytes[piece.encode()] for piece in pieces]


# ------------------------------------------------------------------------------------------------ warm and cold

TEXTS = ["a", "b = 1\n", "# x\n", "def f():\n    return 'é'\n", "  \n\n", "print(x)\n", "🙂", "    "]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    history=st.lists(
        st.tuples(
            st.sampled_from(["append", "undo", "retry", "edit", "anew", "look"]),
            st.sampled_from(TEXTS),
            st.integers(0, 12),
            st.sampled_from([Sampling(), Sampling(0.7, 0.95, 20)]),
            st.sampled_from([("\n",), ("re", "\n\n"), ("z",), ()]),
            st.sampled_from([None, 2, 3]),
            st.sampled_from(["", "leave", "close", "interrupt"]),
        ),
        min_size=2,
        max_size=8,
    ),
)
def test_a_warm_answer_equals_a_cold_one(
    data: st.DataObject,
    history: list[tuple[str, str, int, Sampling, tuple[str, ...], int | None, str]],
    tiny_config: Config,
    tiny_tokenizer: Tokenizer,
) -> None:
    """Whatever was asked, cut, abandoned or interrupted before: the same prompt, the same tokens."""
    engine = Engine(FakeStep(tiny_config, hashed), tiny_tokenizer)
    turns: list[str] = ["# start\n"]
    for i, (action, text, budget, sampling, strings, modulus, end) in enumerate(history):
        if action == "append":
            turns.append(text)
        elif action == "undo":
            turns = turns[:-1]
        elif action == "edit" and turns:
            turns[data.draw(st.integers(0, len(turns) - 1))] = text
        elif action == "anew":
            turns = [text]
        elif action == "look":
            engine.logits(tiny_tokenizer.encode(text))
        prompt = Prompt("".join(turns), until(*strings), budget)
        seeded = replace(sampling, seed=i)
        accept = None if modulus is None else lambda code, modulus=modulus: len(code) % modulus != 0
        if end:
            abandoned = engine.complete(prompt, seeded, accept=accept)
            next(abandoned)
            if end == "interrupt":
                with suppress(StopIteration, KeyboardInterrupt):  # it may have ended already
                    abandoned.throw(KeyboardInterrupt)
            elif end == "close":
                abandoned.close()
        _, warm = drain(engine.complete(prompt, seeded, accept=accept))
        _, cold = drain(Engine(FakeStep(tiny_config, hashed), tiny_tokenizer).complete(prompt, seeded, accept=accept))
        assert replace(warm, usage=cold.usage) == cold
        assert tuple(engine.step.held) == tuple(engine._held)  # type: ignore[attr-defined]
        turns.append(warm.text)


def test_a_warm_answer_equals_a_cold_one_with_real_weights(tiny_engine: Engine) -> None:
    prompts = ["# one\nx = 1\n", "# one\nx = 1\n\n# two\n", "# one\nx", "# one\nx = 1\n\n# two\n", "def f():\n    return 1\n"]
    for sampling in (Sampling(), Sampling(0.8, 0.95, seed=4)):
        for text in prompts:
            prompt = Prompt(text, everything, 40)
            _, warm = drain(tiny_engine.complete(prompt, sampling))
            tiny_engine.logits([1])  # makes the next one cold
            _, cold = drain(tiny_engine.complete(prompt, sampling))
            assert warm.token_ids == cold.token_ids
            assert warm.logprob == pytest.approx(cold.logprob, abs=1e-3)


def test_only_the_difference_runs(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    step = FakeStep(tiny_config, hashed)
    engine = Engine(step, tiny_tokenizer)
    first = tiny_tokenizer.encode("uvwxyz")
    drain(engine.complete(Prompt("uvwxyz", everything, 0), Sampling()))
    assert step.ran == first
    _, longer = drain(engine.complete(Prompt("uvwxyzUV", everything, 0), Sampling()))
    assert (longer.usage.prompt_tokens, longer.usage.cached_tokens) == (8, 6)
    _, again = drain(engine.complete(Prompt("uvwxyzUV", everything, 0), Sampling()))
    assert again.usage.cached_tokens == 7  # one runs, for its logits
    _, shorter = drain(engine.complete(Prompt("uvXxyzUV", everything, 0), Sampling()))
    assert shorter.usage.cached_tokens == 2
    assert len(step.ran) == 6 + 2 + 1 + 6


def test_a_long_prompt_runs_in_chunks_and_gives_the_same(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    config = replace(tiny_config, n_positions=2048)
    for length in (CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 4 * CHUNK + 1):
        step = FakeStep(config, lambda held: np.array([len(held)], dtype=np.float32))
        logits, cached = Engine(step, tiny_tokenizer).prefill(list(range(length)))
        assert (logits.tolist(), cached) == ([length], 0)
        assert step.calls == -(-length // CHUNK)
        assert step.held == list(range(length))


# ------------------------------------------------------------------------------------------------ stops and text


def test_a_stop_inside_a_token_cuts_text_tokens_and_cache(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    engine = say(ids(tiny_tokenizer, "x", " =", "1", "\n#", "y"))
    _, done = drain(engine.complete(Prompt("a", until("#"), 20), Sampling()))
    assert (done.text, done.finish_reason) == ("x =1\n", "stop")
    assert done.token_ids == tuple(ids(tiny_tokenizer, "x", " =", "1"))  # the stop splits the last token
    assert engine.step.length == 1 + 3
    assert len(done.logprobs) == 3
    assert done.logprob == pytest.approx(sum(done.logprobs))


def test_a_stop_across_tokens_is_held_back_from_its_first_character_on(
    say: Callable[..., Engine], tiny_tokenizer: Tokenizer
) -> None:
    engine = say(ids(tiny_tokenizer, "a", "'", "b", "''", "'", "c"))
    pieces, done = drain(engine.complete(Prompt("a", until("'''"), 20), Sampling()))
    assert pieces == ["a", "'b"]
    assert (done.text, done.finish_reason) == ("a'b", "stop")
    assert engine.step.length == 1 + 3


def test_what_was_held_back_comes_when_no_stop_follows(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    answer = ids(tiny_tokenizer, "a", "''")
    for budget, reason in ((20, "eos"), (2, "length")):
        pieces, done = drain(say(answer).complete(Prompt("a", until("'''"), budget), Sampling()))
        assert pieces == ["a", "''"]
        assert done.finish_reason == reason
        assert done.token_ids == tuple(answer)


@settings(deadline=None)
@given(
    text=st.text("ab\n #'é🙂", max_size=30),
    string=st.text("ab\n #'é", min_size=1, max_size=4),
    splits=st.sets(st.integers(1, 60)),
)
def test_nothing_past_a_stop_is_shown_however_tokens_lie(
    text: str, string: str, splits: set[int], tiny_config: Config, tiny_tokenizer: Tokenizer
) -> None:
    data = text.encode()
    cuts = sorted({0, len(data), *(cut for cut in splits if cut < len(data))})
    by_bytes = {tiny_tokenizer.token_bytes(token): token for token in range(len(tiny_tokenizer))}
    answer: list[int] = []
    for start, end in pairwise(cuts):
        piece = data[start:end]
        answer.extend([by_bytes[piece]] if piece in by_bytes else [by_bytes[bytes([byte])] for byte in piece])
    engine = Engine(FakeStep(tiny_config, scripted(tiny_tokenizer, answer)), tiny_tokenizer)
    pieces, done = drain(engine.complete(Prompt("a", until(string), 200), Sampling()))
    before, found, _ = text.partition(string)
    assert done.text == before
    assert done.finish_reason == ("stop" if found else "eos")
    assert all("\ufffd" not in piece for piece in pieces)
    kept = b"".join(map(tiny_tokenizer.token_bytes, done.token_ids))
    assert before.encode().startswith(kept)
    assert tuple(answer[: len(done.token_ids)]) == done.token_ids
    following = answer[len(done.token_ids) : len(done.token_ids) + 1]
    assert not following or not before.encode().startswith(kept + tiny_tokenizer.token_bytes(following[0]))
    assert engine.step.length == 1 + len(done.token_ids)


def test_a_character_comes_whole_or_not_at_all(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    answer = tiny_tokenizer.encode("é🙂")
    assert len(answer) == 6
    pieces, done = drain(say(answer).complete(Prompt("a", everything, 20), Sampling()))
    assert pieces == ["é", "🙂"]
    pieces, done = drain(say(answer).complete(Prompt("a", everything, 4), Sampling()))
    assert (pieces, done.token_ids) == (["é"], tuple(answer[:2]))


def test_bytes_that_are_no_utf8_are_replaced(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    lead = tiny_tokenizer.encode("é")[0]
    _, done = drain(say([lead, *tiny_tokenizer.encode("a")]).complete(Prompt("a", everything, 20), Sampling()))
    assert done.text == "\ufffda"


def test_the_end_of_text_ends_and_is_not_kept(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    engine = say(ids(tiny_tokenizer, "x"))
    _, done = drain(engine.complete(Prompt("a", everything, 20), Sampling()))
    assert (done.text, done.finish_reason, len(done.token_ids)) == ("x", "eos", 1)
    assert engine.step.length == 2


def test_an_empty_prompt_is_the_start_of_a_document(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    step = FakeStep(tiny_config, hashed)
    drain(Engine(step, tiny_tokenizer).complete(Prompt("", everything, 0), Sampling()))
    assert step.held == [tiny_tokenizer.end_of_text]


# ------------------------------------------------------------------------------------------------ the window


def test_a_prompt_past_the_window_is_refused_and_one_that_fills_it_says_nothing(
    tiny_config: Config, tiny_tokenizer: Tokenizer
) -> None:
    engine = Engine(FakeStep(tiny_config, hashed), tiny_tokenizer)
    assert engine.count("x" * 257) == 257
    with pytest.raises(ContextWindowExceeded, match=r"257 tokens and the model's window 256"):
        next(engine.complete(Prompt("x" * 257, everything, 1), Sampling()))
    _, done = drain(engine.complete(Prompt("x" * 256, everything, 9), Sampling()))
    assert (done.text, done.finish_reason) == ("", "length")


def test_no_completion_passes_the_window(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    engine = Engine(FakeStep(tiny_config, lambda held: np.eye(280, dtype=np.float32)[70]), tiny_tokenizer)
    _, done = drain(engine.complete(Prompt("x" * 250, everything, 100), Sampling()))
    assert len(done.token_ids) == 6
    assert done.finish_reason == "length"


def test_max_new_tokens_is_kept_to(tiny_engine: Engine) -> None:
    for budget in (0, 1, 5):
        _, done = drain(tiny_engine.complete(Prompt("x = ", everything, budget), Sampling(1.0, seed=1)))
        assert done.usage.completion_tokens <= budget


# ------------------------------------------------------------------------------------------------ probabilities and seeds


def test_log_probabilities_are_those_of_the_model(tiny_engine: Engine) -> None:
    prompt = Prompt("def f(x):\n", everything, 30)
    for sampling in (Sampling(), Sampling(0.5, seed=3), Sampling(1.5, 0.9, 40, seed=3)):
        _, done = drain(tiny_engine.complete(prompt, sampling))
        tokens = [*tiny_engine.tokenizer.encode(prompt.text), *done.token_ids]
        logits = tiny_engine.logits(tokens).astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        start = len(tokens) - len(done.token_ids)
        expected = [logs[i - 1, tokens[i]] for i in range(start, len(tokens))]
        assert done.logprobs == pytest.approx(expected, abs=1e-4)
        assert done.logprob == pytest.approx(sum(expected), abs=1e-3)


def test_a_seed_names_a_completion(tiny_engine: Engine) -> None:
    prompt = Prompt("def f(x):\n", everything, 30)
    runs = [drain(tiny_engine.complete(prompt, Sampling(1.0, seed=seed)))[1] for seed in (1, 2, 1)]
    assert runs[0].token_ids == runs[2].token_ids != runs[1].token_ids
    assert [run.seed for run in runs] == [1, 2, 1]


def test_logits_and_features_of_ids(tiny_engine: Engine, tiny_config: Config) -> None:
    assert tiny_engine.logits([1, 2, 3]).shape == (3, tiny_config.vocab_size)
    assert tiny_engine.features([1, 2, 3]).shape == (3, tiny_config.n_embd)
    for bad in ([], [-1], [tiny_config.vocab_size]):
        with pytest.raises(UsageError):
            tiny_engine.logits(bad)
    with pytest.raises(ContextWindowExceeded):
        tiny_engine.features([1] * 257)


def test_a_tokenizer_of_another_checkpoint_is_refused(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match="they are of two checkpoints"):
        Engine(FakeStep(replace(tiny_config, vocab_size=10), hashed), tiny_tokenizer)


# ------------------------------------------------------------------------------------------------ interrupts


class Interrupting(FakeStep):
    """Ctrl-C at the n-th call, before or after the tokens reached the cache."""

    def __init__(self, config: Config, at: int, *, after: bool) -> None:
        super().__init__(config, lambda held: np.eye(280, dtype=np.float32)[66 + len(held) % 20])
        self.at = at
        self.after = after

    def __call__(self, ids: NDArray[np.int64], *, every: bool = False) -> NDArray[np.float32]:
        self.at -= 1
        if self.at == 0 and not self.after:
            raise KeyboardInterrupt
        logits = super().__call__(ids, every=every)
        if self.at == 0:
            raise KeyboardInterrupt
        return logits


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("at", "tokens"), [(1, 0), (2, 1), (5, 4)])
def test_an_interrupt_keeps_what_was_drawn(
    at: int, tokens: int, *, after: bool, tiny_config: Config, tiny_tokenizer: Tokenizer
) -> None:
    step = Interrupting(tiny_config, at, after=after)
    engine = Engine(step, tiny_tokenizer)
    prompt = Prompt("abc", everything, 20)
    _, done = drain(engine.complete(prompt, Sampling()))
    assert done.finish_reason == "interrupted"
    assert len(done.token_ids) == len(done.text) == tokens
    _, whole = drain(engine.complete(prompt, Sampling()))
    assert len(whole.token_ids) == 20
    assert whole.text.startswith(done.text)
    assert step.held == engine._held


def test_a_consumer_hands_its_interrupt_on(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    events = say(ids(tiny_tokenizer, "a", "b", "c", "d")).complete(Prompt("a", everything, 20), Sampling())
    assert [next(events), next(events)] == [Delta("a"), Delta("b")]
    done = events.throw(KeyboardInterrupt)
    assert isinstance(done, Completion)
    assert (done.text, done.finish_reason) == ("ab", "interrupted")
    with pytest.raises(StopIteration):
        next(events)


def test_an_interrupt_at_the_last_piece_still_gives_the_completion(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    events = say(ids(tiny_tokenizer, "a", "'")).complete(Prompt("a", until("'''"), 20), Sampling())
    assert next(events) == Delta("a")
    assert next(events) == Delta("'")
    done = events.throw(KeyboardInterrupt)
    assert isinstance(done, Completion)
    assert done.text == "a'"


def test_a_completion_left_behind_cannot_spoil_the_next(tiny_engine: Engine) -> None:
    prompt = Prompt("def f(x):\n", everything, 30)
    first = tiny_engine.complete(prompt, Sampling(1.0, seed=1))
    next(first)
    second = tiny_engine.complete(prompt, Sampling(1.0, seed=2))
    next(second)
    with pytest.raises(RuntimeError, match="another completion began"):
        next(first)
    _, again = drain(tiny_engine.complete(prompt, Sampling(1.0, seed=2)))
    assert len(again.token_ids) > 1


# ------------------------------------------------------------------------------------------------ several candidates


def gather(events: Iterable[Delta | Completed]) -> list[Completion]:
    """Return the completions by candidate. Each candidate's pieces joined are its text, and none comes after its Completed."""
    texts: dict[int, str] = {}
    done: dict[int, Completion] = {}
    for event in events:
        assert event.candidate not in done
        if isinstance(event, Completed):
            done[event.candidate] = event.completion
            assert texts.get(event.candidate, "") == event.completion.text
        else:
            assert event.text
            texts[event.candidate] = texts.get(event.candidate, "") + event.text
    assert sorted(done) == list(range(len(done)))
    return [done[index] for index in sorted(done)]


def without_usage(completion: Completion) -> Completion:
    return replace(completion, usage=replace(completion.usage, cached_tokens=0, prefill_seconds=0.0, decode_seconds=0.0))


MANY = [Sampling(), Sampling(0.7, 0.95, 20, seed=1), Sampling(1.5, seed=2), Sampling(0.2, seed=3), Sampling(1.5, seed=2)]


@settings(max_examples=60, deadline=None)
@given(
    text=st.sampled_from(TEXTS),
    budget=st.integers(0, 12),
    strings=st.sampled_from([("\n",), ("re", "\n\n"), ("z",), ()]),
    modulus=st.sampled_from([None, 2, 3]),
    count=st.integers(1, 5),
)
def test_candidates_are_what_single_completions_are(
    text: str,
    budget: int,
    strings: tuple[str, ...],
    modulus: int | None,
    count: int,
    tiny_config: Config,
    tiny_tokenizer: Tokenizer,
) -> None:
    """Token for token and to the last bit, where the step's logits are; whatever stops, guard and budget do to each."""
    prompt = Prompt(text, until(*strings), budget)
    accept: Accept | None = None if modulus is None else lambda code: len(code) % modulus != 0
    engine = Engine(FakeStep(tiny_config, hashed), tiny_tokenizer)
    together = gather(engine.complete_many(prompt, MANY[:count], accept=accept))
    alone = [drain(engine.complete(prompt, sampling, accept=accept))[1] for sampling in MANY[:count]]
    assert [without_usage(one) for one in together] == [without_usage(one) for one in alone]
    assert tuple(engine.step.held) == tuple(engine._held)  # type: ignore[attr-defined]


@pytest.mark.parametrize("guarded", [False, True])
def test_candidates_with_real_weights(tiny_engine: Engine, *, guarded: bool) -> None:
    """A step of several may round otherwise than a step of one, by less than what parts two tokens here."""
    accept = (lambda text: len(text) % 3 != 0) if guarded else None
    for text in ("def f(x):\n", "# one\nx = 1\n\n# two\n"):
        prompt = Prompt(text, until("q"), 80)
        together = gather(tiny_engine.complete_many(prompt, MANY, accept=accept))
        for one, sampling in zip(together, MANY, strict=True):
            _, single = drain(tiny_engine.complete(prompt, sampling, accept=accept))
            assert (one.text, one.token_ids, one.redrawn) == (single.text, single.token_ids, single.redrawn)
            assert one.logprobs == pytest.approx(single.logprobs, abs=1e-4)
        assert together[2].token_ids == together[4].token_ids != together[1].token_ids


def test_the_prompt_runs_once_and_the_cache_holds_it_afterwards(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    step = FakeStep(tiny_config, hashed)
    engine = Engine(step, tiny_tokenizer)
    gather(engine.complete_many(Prompt("uvwxyz", everything, 5), MANY))
    assert step.ran == step.held == tiny_tokenizer.encode("uvwxyz")
    _, longer = drain(engine.complete(Prompt("uvwxyzUV", everything, 0), Sampling()))
    assert longer.usage.cached_tokens == 6


def test_a_candidate_that_has_ended_leaves_the_step(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    long, short = ids(tiny_tokenizer, *"abcd"), ids(tiny_tokenizer, "b")
    engine = say(long, short)
    samplings = [Sampling(), *(Sampling(2.0, seed=seed) for seed in range(7))]
    texts = [one.text for one in gather(engine.complete_many(Prompt("a", everything, 20), samplings))]
    assert set(texts) == {"abcd", "b"}
    step = engine.step
    assert isinstance(step, FakeStep)
    assert step.ran_together == [8, *[texts.count("abcd")] * 3]


def test_one_candidate_goes_on_in_the_cache(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    engine = say(ids(tiny_tokenizer, *"abcd"))
    (one,) = gather(engine.complete_many(Prompt("a", everything, 20), [Sampling()]))
    assert one.text == "abcd"
    assert engine.step.length == 1 + 4


def test_no_candidates_are_none(tiny_engine: Engine) -> None:
    assert gather(tiny_engine.complete_many(Prompt("a", everything, 20), [])) == []


@pytest.mark.parametrize("at", range(1, 12))
def test_an_interrupted_consumer_of_candidates_gets_all_that_was_written(at: int, tiny_engine: Engine) -> None:
    """Whatever event the Ctrl-C comes at: each candidate is completed once, with its pieces, and begins as it would have."""
    prompt = Prompt("def f(x):\n", until("\n"), 5)
    whole = gather(tiny_engine.complete_many(prompt, MANY))
    events = tiny_engine.complete_many(prompt, MANY)
    seen: list[Delta | Completed] = [next(events) for _ in range(at)]
    with suppress(StopIteration):
        seen.append(events.throw(KeyboardInterrupt))
        seen.append(events.throw(KeyboardInterrupt))  # and an impatient second one
    seen.extend(events)
    done = gather(seen)
    assert len(done) == len(MANY)
    for one, full in zip(done, whole, strict=True):
        assert one.finish_reason == "interrupted" or one.text == full.text
        assert full.text.startswith(one.text)
    _, after = drain(tiny_engine.complete(prompt, MANY[1]))
    assert after.token_ids == whole[1].token_ids


class InterruptingBranches(FakeStep):
    """Ctrl-C in the n-th step of the branches."""

    at = 3

    def branch(self, count: int) -> Branches:
        inner = super().branch(count)

        def run(which: Sequence[int], lengths: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
            self.at -= 1
            if not self.at:
                raise KeyboardInterrupt
            return inner(which, lengths, ids)

        return run


def test_an_interrupt_inside_the_step_keeps_what_each_candidate_has(tiny_config: Config, tiny_tokenizer: Tokenizer) -> None:
    step = InterruptingBranches(tiny_config, lambda held: np.eye(280, dtype=np.float32)[66 + len(held) % 20])
    engine = Engine(step, tiny_tokenizer)
    done = gather(engine.complete_many(Prompt("abc", everything, 20), [Sampling(), Sampling()]))
    assert [(one.finish_reason, len(one.token_ids)) for one in done] == [("interrupted", 3)] * 2
    assert step.held == engine._held == tiny_tokenizer.encode("abc")


def test_candidates_left_behind_cannot_spoil_the_next(tiny_engine: Engine) -> None:
    prompt = Prompt("def f(x):\n", everything, 30)
    left = tiny_engine.complete_many(prompt, MANY)
    next(left)
    _, single = drain(tiny_engine.complete(prompt, MANY[1]))
    with pytest.raises(RuntimeError, match="another completion began"):
        list(left)
    _, again = drain(tiny_engine.complete(prompt, MANY[1]))
    assert single.token_ids == again.token_ids


# ------------------------------------------------------------------------------------------------ the guard


def test_a_refused_line_is_drawn_again_from_where_it_began(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    good = ids(tiny_tokenizer, "a", "\n", "c", "\n", "d", "\n")
    bad = ids(tiny_tokenizer, "a", "\n", "b", "\n", "d", "\n")
    asked: list[str] = []

    def accept(text: str) -> bool:
        asked.append(text)
        return "b" not in text

    engine = say(bad, good)
    pieces, done = drain(engine.complete(Prompt("a", everything, 20), Sampling(seed=1), accept=accept))
    assert done.text == "a\nc\nd\n"
    assert pieces == ["a\n", "c\n", "d\n"]  # nothing is shown before its line is accepted
    assert done.token_ids == tuple(good)
    assert done.redrawn == 1
    assert asked[0] == "a\n"
    assert set(asked[1:-2]) == {"a\nb\n"}
    assert asked[-2:] == ["a\nc\n", "a\nc\nd\n"]
    assert done.usage.completion_tokens > len(good)


def test_a_line_refused_five_times_is_kept_and_the_guard_asked_no_more(
    say: Callable[..., Engine], tiny_tokenizer: Tokenizer
) -> None:
    asked: list[str] = []

    def accept(text: str) -> bool:
        asked.append(text)
        return False

    _, done = drain(
        say(ids(tiny_tokenizer, "b", "\n", "c", "\n")).complete(Prompt("a", everything, 20), Sampling(), accept=accept)
    )
    assert done.text == "b\nc\n"
    assert asked == ["b\n"] * 5
    assert done.redrawn == 1


def test_a_line_that_ends_the_text_is_judged_too(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    bad, good = ids(tiny_tokenizer, "b"), ids(tiny_tokenizer, "c")
    asked: list[str] = []

    def accept(text: str) -> bool:
        asked.append(text)
        return "b" not in text

    for stop, tail in ((everything, []), (until("#"), ids(tiny_tokenizer, "#"))):
        _, done = drain(say(bad + tail, good + tail).complete(Prompt("a", stop, 20), Sampling(seed=3), accept=accept))
        assert done.text == "c"
        assert set(asked) == {"b", "c"}
        asked.clear()


def test_a_line_cut_by_the_budget_is_not_judged(say: Callable[..., Engine], tiny_tokenizer: Tokenizer) -> None:
    answer = ids(tiny_tokenizer, "b", "c", "\n")
    pieces, done = drain(say(answer).complete(Prompt("a", everything, 2), Sampling(), accept=lambda text: False))
    assert (pieces, done.finish_reason) == (["bc"], "length")


def test_a_guard_that_accepts_changes_nothing(tiny_engine: Engine) -> None:
    prompt = Prompt("def f(x):\n", until("q"), 60)
    for seed in range(3):
        sampling = Sampling(1.0, seed=seed)
        _, free = drain(tiny_engine.complete(prompt, sampling))
        _, guarded = drain(tiny_engine.complete(prompt, sampling, accept=lambda text: True))
        assert (guarded.text, guarded.token_ids, guarded.redrawn) == (free.text, free.token_ids, 0)


# ---------------------------------------------------------------- copies


def copy(text: str) -> list[tuple[str, float]]:
    wanted = "x = 'Zürich 🙂'\n"
    return [(wanted[len(text) :], 1e3)] if wanted.startswith(text) else []


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.8, 0.9, seed=3)])
def test_a_copy_is_drawn_and_the_probabilities_stay_the_models(tiny_engine: Engine, sampling: Sampling) -> None:
    _, done = drain(tiny_engine.complete(Prompt("ab", everything, 40, copy), sampling))
    assert done.text.startswith("x = 'Zürich 🙂'\n")
    ids = tiny_engine.tokenizer.encode("ab")
    rows = tiny_engine.logits([*ids, *done.token_ids])[len(ids) - 1 :].astype(np.float64)
    expected = [row[token] - np.log(np.exp(row).sum()) for row, token in zip(rows, done.token_ids, strict=False)]
    np.testing.assert_allclose(done.logprobs, expected, atol=1e-4)


def test_candidates_copy_as_single_completions_do(tiny_engine: Engine) -> None:
    prompt, samplings = Prompt("ab", everything, 40, copy), [Sampling(0.8, seed=seed) for seed in range(3)]
    together = {
        event.candidate: event.completion
        for event in tiny_engine.complete_many(prompt, samplings)
        if isinstance(event, Completed)
    }
    alone = [drain(tiny_engine.complete(prompt, sampling))[1] for sampling in samplings]
    assert [together[index].text for index in range(3)] == [done.text for done in alone]
