"""Text in, text out: the engine over a *step*, which runs tokens through the weights. No torch here, and no Python either.

The engine owns the cache's truth: the exact tokens that the step holds. A new prompt is compared with them, and only the
difference is run. A conversation's next turn, a retry, an undo and a cut at a stop are all *return to an earlier prefix, go on
from there*: a warm answer equals a cold one, and nobody calls reset.

What a completion shows is decided in text, never in token ids. Text is handed out once the stop says that it may be shown, and,
with a guard, once its line is accepted: what was handed out is never taken back.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from codegen_chat.errors import CheckpointError, ContextWindowExceeded, UsageError
from codegen_chat.lm.drafter import Drafter
from codegen_chat.lm.lookup import Lookup
from codegen_chat.lm.sampling import NOTHING, draw
from codegen_chat.lm.speculation import Speculation
from codegen_chat.turn import Accept, Completed, Completion, Copy, Delta, FinishReason, Prompt, Sampling, Stop, Usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config
    from codegen_chat.lm.tokenizer import Tokenizer

CHUNK = 256
"""Tokens of a prompt that run at once: bounds the memory of the attention scores, and how long an interrupt waits."""

REDRAWS = 4
REDRAW_TEMPERATURE = 0.6

_E = TypeVar("_E")


class Step(Protocol):
    """Runs tokens through weights and cache. The arrays that it returns are the caller's to keep."""

    @property
    def config(self) -> Config:
        """The shape of the model."""
        ...

    @property
    def dtype(self) -> str:
        """How the weights are kept: fp32, bf16, fp16, int8 or int4."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: cpu, cuda:0, ..."""
        ...

    @property
    def backend(self) -> str:
        """What computes, in a few words."""
        ...

    @property
    def length(self) -> int:
        """How many positions the cache holds."""
        ...

    def __call__(self, ids: NDArray[np.int64], *, every: bool = False) -> NDArray[np.float32]:
        """Append T tokens to the cache; return the logits (V,) after the last of them, or (T, V) after each."""
        ...

    def features(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append T tokens to the cache; return their last hidden states (T, C)."""
        ...

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        ...

    def branch(self, count: int) -> Branches:
        """Return `count` empty continuations of what the cache holds now. They are void once it changes."""
        ...


class Branches(Protocol):
    """Several continuations of one cache, which they share and leave as it is."""

    def __call__(self, which: Sequence[int], lengths: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
        """Cut each of these continuations to its length, append its token; return the logits after each, (len(which), V)."""
        ...


class Engine:
    """A model that completes prompts: the product's Completer. `sampling` is the checkpoint's own default.

    `drafter` is a smaller model of the same vocabulary, which proposes tokens to run ahead. Texts and probabilities are the same
    with it and without. It belongs to this engine alone. `speculation` asks it, and may be replaced.

    One completion at a time: one that is resumed after another began raises RuntimeError.
    """

    def __init__(
        self,
        step: Step,
        tokenizer: Tokenizer,
        sampling: Sampling = Sampling(),  # noqa: B008  it is frozen
        drafter: Engine | None = None,
    ) -> None:
        if len(tokenizer) > step.config.vocab_size:
            raise CheckpointError(
                f"the tokenizer has {len(tokenizer)} tokens and the model {step.config.vocab_size}: they are of two checkpoints"
            )
        self.step = step
        self.tokenizer = tokenizer
        self.sampling = sampling
        self._ends = {tokenizer.end_of_text, step.config.eos_token_id}
        # The tokens in the step's cache, or (after an interrupt) the first of them. Each prompt makes it a new list, by which a
        # completion sees whether the cache is still its own.
        self._held: list[int] = []
        # The logits after tokens that were run ahead, by their place in the cache.
        self._ahead: dict[int, NDArray[np.float32]] = {}
        self.speculation = Speculation(Lookup(), *([Drafter(drafter)] if drafter else []))

    @property
    def window(self) -> int:
        """The most tokens that a prompt and its completion may have together."""
        return self.step.config.n_positions

    def count(self, text: str) -> int:
        """Return how many tokens a text has."""
        return len(self.tokenizer.encode(text))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of T tokens, float32 (T, V)."""
        array = self._anew(ids)
        result = self.step(array, every=True)
        self._held.extend(array.tolist())
        return result

    def features(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the last hidden states of T tokens, after the final LayerNorm, float32 (T, C)."""
        array = self._anew(ids)
        result = self.step.features(array)
        self._held.extend(array.tolist())
        return result

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        """Yield the text in pieces, then the Completion, whose text is the pieces joined. An empty prompt is a document's start.

        Ctrl-C inside the engine ends the completion as "interrupted", with the text so far. A consumer that was running itself
        when Ctrl-C came hands it on by `throw(KeyboardInterrupt)`, which returns the next event. `close` may come at any time.

        With `accept`, a line that it refuses is drawn again, from where the line began, at temperature 0.6, four times at most.
        Then it is kept as it is, and the guard, which would refuse all that follows it, is asked no more.

        Raises ContextWindowExceeded, at the first `next`, where the prompt is longer than the window. No completion goes past it.
        """
        return self._write(prompt, [sampling], accept, lambda completion, _: completion)

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        """Draw a candidate for each sampling, all at once: each is what `complete` gives for that sampling.

        The prompt runs once, and then each step runs the tokens of all candidates that go on. Their pieces come mixed, each with
        its `candidate`, counted from 0; `Completed` follows a candidate's last piece. An interrupt ends those that are not
        complete yet. Afterwards the cache holds the prompt. Nothing is run ahead for several, which fill a step themselves.
        Errors as in `complete`.
        """
        return self._write(prompt, samplings, accept, Completed)

    def _write(
        self, prompt: Prompt, samplings: Sequence[Sampling], accept: Accept | None, report: Callable[[Completion, int], _E]
    ) -> Generator[Delta | _E, None, None]:
        """Complete a prompt once for each sampling. `report` makes the last event of a completion, from it and its number."""
        tokens = self.tokenizer.encode(prompt.text) or [self.tokenizer.end_of_text]
        room = self.window - len(tokens)
        if room < 0:
            raise ContextWindowExceeded(f"the prompt has {len(tokens)} tokens and the model's window {self.window}: shorten it")
        budget = min(room, prompt.max_new_tokens)
        candidates = [_Candidate(i, sampling, accept, prompt.stop, budget, prompt.copy) for i, sampling in enumerate(samplings)]
        cached, paused = 0, 0.0
        started = decoding = perf_counter()

        def news(candidate: _Candidate) -> Generator[Delta | _E, None, None]:
            """Tell what is decided and not yet told. No call stands between noting it as told and the yield: nothing is lost."""
            if candidate.decided > candidate.shown:
                piece = Delta(candidate.text[candidate.shown : candidate.decided], candidate.index)
                candidate.shown = candidate.decided
                yield piece
            if candidate.reason and not candidate.told:
                usage = Usage(len(tokens), cached, candidate.draws, decoding - started, perf_counter() - decoding - paused)
                event = report(candidate.completion(usage), candidate.index)
                candidate.told = True
                yield event

        try:
            logits, cached = self.prefill(tokens)
            decoding = perf_counter()
            for candidate in self.decode(candidates, logits):
                turned = perf_counter()
                yield from news(candidate)
                paused += perf_counter() - turned
        except KeyboardInterrupt:
            pass
        for candidate in candidates:
            candidate.end("interrupted")
        alone = candidates[0].kept if len(candidates) == 1 else []
        self._return_to(_shared(self._held, tokens + [drawn.token for drawn in alone]))
        for candidate in candidates:
            while not candidate.told:
                with suppress(KeyboardInterrupt):  # a second one: all that was written comes all the same
                    yield from news(candidate)

    def prefill(self, tokens: list[int]) -> tuple[NDArray[np.float32], int]:
        """Make the cache hold a prompt of one token at least. Return the logits (V,) after it, and how many tokens were there."""
        shared = min(_shared(self._held, tokens), len(tokens) - 1)  # one runs in any case: its logits are wanted
        self._held = self._held[:shared]
        self.step.truncate(shared)
        last = shared + (len(tokens) - shared - 1) // CHUNK * CHUNK
        for start in range(shared, last, CHUNK):
            self._append(tokens[start : start + CHUNK])
        return self._append(tokens[last:]), shared

    def decode(self, candidates: Sequence[_Candidate], logits: NDArray[np.float32]) -> Iterator[_Candidate]:
        """Draw tokens into the candidates, from the logits (V,) after the prompt on. Yield one whenever there is news of it.

        One candidate goes on in the cache itself. Several go on in branches of it, and those that have ended leave the step.
        """
        own, base = self._held, len(self._held)
        self._ahead = {}
        self.speculation.begin()
        branches = self.step.branch(len(candidates)) if len(candidates) > 1 else None
        going, rows = list(candidates), [logits] * len(candidates)
        while going:
            for candidate, row in zip(going, rows, strict=True):
                candidate.draw(row, self.tokenizer, self._ends)
                yield candidate
                if self._held is not own:
                    raise RuntimeError("another completion began on this engine: one at a time")
            going = [candidate for candidate in going if not candidate.reason]
            places, last = [len(candidate.drawn) - 1 for candidate in going], [candidate.drawn[-1].token for candidate in going]
            if branches is None and going:
                rows = [self._follow(base + places[0], last[0], going[0].budget - len(going[0].drawn))]
            elif branches is not None and going:
                rows = list(branches([candidate.index for candidate in going], places, last))

    def _follow(self, place: int, token: int, budget: int) -> NDArray[np.float32]:
        """Return the logits (V,) after a token at this place of the cache, from a run ahead if it was in one."""
        if place in self._ahead and self._held[place] == token:
            self.speculation.served()
            return self._ahead[place]
        self._return_to(place)  # what was proposed is not what was drawn, or a line was refused
        self._ahead = {}
        started = perf_counter()
        proposed = self.speculation.propose([*self._held, token], min(budget - 1, self.window - place - 1))
        if proposed:
            rows = self.step(np.array([token, *proposed], dtype=np.int64), every=True)
            self._held += [token, *proposed]
            self._ahead = dict(enumerate(rows, place))
            logits: NDArray[np.float32] = rows[0]
        else:
            logits = self._append([token])
        self.speculation.ran(perf_counter() - started)
        return logits

    def _append(self, tokens: list[int]) -> NDArray[np.float32]:
        logits = self.step(np.array(tokens, dtype=np.int64))
        self._held.extend(tokens)
        return logits

    def _return_to(self, length: int) -> None:
        """Cut the cache to its first `length` tokens, and to what is known of it after an interrupt."""
        del self._held[length:]
        self.step.truncate(len(self._held))

    def _anew(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Empty the cache for ids that are looked at from the first on, and check them."""
        array = self.checked(ids)
        self._held = []
        self.step.truncate(0)
        return array

    def checked(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return token ids (T,) as an array. Raises UsageError for what is none, ContextWindowExceeded for too many."""
        array = np.asarray(ids, dtype=np.int64)
        if array.ndim != 1 or not len(array):
            raise UsageError("a list of token ids is needed, one at least")
        if array.min() < 0 or array.max() >= self.step.config.vocab_size:
            raise UsageError(f"token ids go from 0 to {self.step.config.vocab_size - 1}")
        if len(array) > self.window:
            raise ContextWindowExceeded(f"{len(array)} tokens are more than the model's window of {self.window}")
        return array


class _Drawn(NamedTuple):
    """A token of a completion, with all the text up to and with it."""

    token: int
    logprob: float
    text: str
    pending: bytes
    """The bytes at the end that are no whole character yet."""

    @property
    def end(self) -> int:
        """The length that a text has at least, when it holds this token whole."""
        return len(self.text) + bool(self.pending)


@dataclass(slots=True)
class _Candidate:
    """A completion while it is drawn. A token joins it in one step, so that an interrupt finds it whole."""

    index: int
    sampling: Sampling
    accept: Accept | None
    """The guard, as long as it is asked."""
    stop: Stop
    budget: int
    copy: Copy | None = None
    drawn: list[_Drawn] = field(default_factory=list)
    draws: int = 0
    """Tokens drawn, those included that were thrown away."""
    redrawn: int = 0
    decided: int = 0
    """Characters that may be handed out."""
    shown: int = 0
    """Characters handed out."""
    reason: FinishReason | None = None
    """Why it ended; None while it goes on."""
    told: bool = False
    """Whether the completion was handed out."""
    _rng: np.random.Generator = field(init=False)
    # Where the line that is being drawn began: tokens and characters before it, and the logits (V,) there, None before they came.
    _line_tokens: int = 0
    _line_start: int = 0
    _line_logits: NDArray[np.float32] | None = None
    _redraws: int = 0

    def __post_init__(self) -> None:
        """Give the candidate its own random numbers."""
        self._rng = np.random.default_rng(self.sampling.seed)

    @property
    def text(self) -> str:
        """All that is drawn so far."""
        return self.drawn[-1].text if self.drawn else ""

    @property
    def kept(self) -> list[_Drawn]:
        """The tokens whose text is all within what the ended candidate shows."""
        return [drawn for drawn in self.drawn if drawn.end <= self.decided]

    def draw(self, logits: NDArray[np.float32], tokenizer: Tokenizer, ends: Collection[int]) -> None:
        """Draw from logits (V,) until a token stands that the model is to run, or the candidate has ended.

        A line that the guard refuses is drawn again from the logits at its beginning.
        """
        if self._line_logits is None:
            self._line_logits = logits
        while len(self.drawn) < self.budget:
            sampling = replace(self.sampling, temperature=REDRAW_TEMPERATURE) if self._redraws else self.sampling
            token, logprob = draw(logits, sampling, self._rng, favoured=self._copied(tokenizer))
            self.draws += 1
            eos = token in ends
            if not eos:
                self._add(token, logprob, tokenizer.token_bytes(token))
            text = self.text
            visible, ended = self.stop(text)
            whole = visible if ended else len(text) if eos else text.rfind("\n") + 1  # where whole lines end
            if self.accept is not None and whole > self._line_start:
                fine = self.accept(text[:whole])
                if not fine and self._redraws < REDRAWS:
                    self.redrawn += self._redraws == 0
                    self._redraws += 1
                    del self.drawn[self._line_tokens :]
                    logits = self._line_logits
                    continue
                self.accept = self.accept if fine else None
                self._redraws = 0
                self._line_tokens, self._line_start, self._line_logits = len(self.drawn), whole, None
            if ended or eos:
                self.end("stop" if ended else "eos")
            else:
                self.decided = visible if self.accept is None else min(visible, whole)
            break
        if len(self.drawn) == self.budget:
            self.end("length")

    def end(self, reason: FinishReason) -> None:
        """End the candidate, unless it has ended: what was held back belongs to it, but for what the stop cuts away."""
        if self.reason is None:
            visible, ended = self.stop(self.text)
            self.decided = visible if ended else len(self.text)
            self.reason = reason

    def completion(self, usage: Usage) -> Completion:
        """Return the completion of an ended candidate."""
        kept = self.kept
        return Completion(
            text=self.text[: self.decided],
            finish_reason=self.reason or "interrupted",
            usage=usage,
            logprob=sum(drawn.logprob for drawn in kept),
            token_ids=tuple(drawn.token for drawn in kept),
            logprobs=tuple(drawn.logprob for drawn in kept),
            seed=self.sampling.seed,
            redrawn=self.redrawn,
        )

    def _copied(self, tokenizer: Tokenizer) -> Mapping[int, float]:
        """Return the tokens that go on with a copy of the words' literals, and by how much they are favoured."""
        if self.copy is None:
            return NOTHING
        favoured: dict[int, float] = {}
        pending = self.drawn[-1].pending if self.drawn else b""
        for rest, rise in self.copy(self.text):
            data = rest.encode("utf-8", "replace")
            if data.startswith(pending) and data != pending:
                for token in tokenizer.agreeing(data[len(pending) :]):
                    favoured[token] = max(rise, favoured.get(token, 0.0))
        return favoured

    def _add(self, token: int, logprob: float, piece: bytes) -> None:
        """Append a token; a character joins the text when its last byte is there, and bytes that are no UTF-8 as U+FFFD."""
        data = (self.drawn[-1].pending if self.drawn else b"") + piece
        fresh, used = codecs.utf_8_decode(data, "replace", False)
        self.drawn.append(_Drawn(token, logprob, self.text + fresh, data[used:]))


def _shared(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
