"""Text in, text out: the engine over a *step*, which runs tokens through the weights. No torch here, and no Python either.

The engine owns the cache's truth: the exact tokens that the step holds. A new prompt is compared with them, and only the
difference is run. A conversation's next turn, a retry, an undo and a cut at a stop are all *return to an earlier prefix, go on
from there*: a warm answer equals a cold one, and nobody calls reset.

What a completion shows is decided in text, never in token ids. Text is handed out once the stop says that it may be shown, and,
with a guard, once its line is accepted: what was handed out is never taken back.
"""

from __future__ import annotations

import codecs
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from codegen_chat.errors import CheckpointError, ContextWindowExceeded, UsageError
from codegen_chat.lm.sampling import draw
from codegen_chat.turn import Accept, Completion, Delta, FinishReason, Prompt, Sampling, Stop, Usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config
    from codegen_chat.lm.tokenizer import Tokenizer

CHUNK = 512
"""Tokens of a prompt that run at once: bounds the memory of the attention scores, and how much an interrupt loses."""

REDRAWS = 4
REDRAW_TEMPERATURE = 0.6


class Step(Protocol):
    """Runs tokens through weights and cache. The arrays that it returns are the caller's to keep."""

    @property
    def config(self) -> Config:
        """The shape of the model."""
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


class Engine:
    """A model that completes prompts: the product's Completer. `sampling` is the checkpoint's own default.

    One completion at a time: one that is resumed after another began raises RuntimeError.
    """

    def __init__(self, step: Step, tokenizer: Tokenizer, sampling: Sampling = Sampling()) -> None:  # noqa: B008  it is frozen
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
        tokens = self.tokenizer.encode(prompt.text) or [self.tokenizer.end_of_text]
        room = self.window - len(tokens)
        if room < 0:
            raise ContextWindowExceeded(f"the prompt has {len(tokens)} tokens and the model's window {self.window}: shorten it")
        draft = _Draft(len(tokens), prompt.stop, min(room, prompt.max_new_tokens))
        reason: FinishReason = "interrupted"
        cached = 0
        started = decoding = perf_counter()
        try:
            logits, cached = self.prefill(tokens)
            decoding = perf_counter()
            reason = yield from self.decode(draft, logits, sampling, accept)
        except KeyboardInterrupt:
            pass
        usage = Usage(len(tokens), cached, draft.draws, decoding - started, perf_counter() - decoding - draft.paused)
        visible, ended = prompt.stop(draft.text)
        text = draft.text[:visible] if ended else draft.text
        kept = [drawn for drawn in draft.drawn if drawn.end <= len(text)]
        self._return_to(len(tokens) + len(kept))
        if len(text) > draft.shown:
            with suppress(KeyboardInterrupt):  # the Completion comes all the same
                yield Delta(text[draft.shown :])
        yield Completion(
            text=text,
            finish_reason=reason,
            usage=usage,
            logprob=sum(drawn.logprob for drawn in kept),
            token_ids=tuple(drawn.token for drawn in kept),
            logprobs=tuple(drawn.logprob for drawn in kept),
            seed=sampling.seed,
            redrawn=draft.redrawn,
        )

    def prefill(self, tokens: list[int]) -> tuple[NDArray[np.float32], int]:
        """Make the cache hold a prompt of one token at least. Return the logits (V,) after it, and how many tokens were there."""
        shared = min(_shared(self._held, tokens), len(tokens) - 1)  # one runs in any case: its logits are wanted
        self._held = self._held[:shared]
        self.step.truncate(shared)
        last = shared + (len(tokens) - shared - 1) // CHUNK * CHUNK
        for start in range(shared, last, CHUNK):
            self._append(tokens[start : start + CHUNK])
        return self._append(tokens[last:]), shared

    def decode(
        self, draft: _Draft, logits: NDArray[np.float32], sampling: Sampling, accept: Accept | None
    ) -> Generator[Delta, None, FinishReason]:
        """Draw tokens into the draft, from the logits (V,) after the prompt on. Yield text once decided, return why it ended."""
        rng = np.random.default_rng(sampling.seed)
        own = self._held
        line = _Line(0, 0, logits)
        redraws = 0
        while len(draft.drawn) < draft.budget:
            if self._held is not own:
                raise RuntimeError("another completion began on this engine: one at a time")
            token, logprob = draw(logits, replace(sampling, temperature=REDRAW_TEMPERATURE) if redraws else sampling, rng)
            draft.draws += 1
            eos = token in self._ends
            if not eos:
                draft.add(token, logprob, self.tokenizer.token_bytes(token))
            text = draft.text
            visible, ended = draft.stop(text)
            whole = visible if ended else len(text) if eos else text.rfind("\n") + 1  # where whole lines end
            turned = accept is not None and whole > line.start
            if accept is not None and turned:
                fine = accept(text[:whole])
                if not fine and redraws < REDRAWS:
                    draft.redrawn += redraws == 0
                    redraws += 1
                    del draft.drawn[line.tokens :]
                    self._return_to(draft.prompt_tokens + line.tokens)
                    logits = line.logits
                    continue
                accept = accept if fine else None
                redraws = 0
            if ended or eos:
                return "stop" if ended else "eos"
            decided = visible if accept is None else min(visible, whole)
            if decided > draft.shown:
                delta, paused = Delta(text[draft.shown : decided]), perf_counter()
                draft.shown = decided  # no call between this and the yield: an interrupt cannot part them
                yield delta
                draft.paused += perf_counter() - paused
            logits = self._append([token])
            if turned:
                line = _Line(len(draft.drawn), whole, logits)
        return "length"

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
        array = np.asarray(ids, dtype=np.int64)
        if array.ndim != 1 or not len(array):
            raise UsageError("logits and features take a list of token ids, one at least")
        if array.min() < 0 or array.max() >= self.step.config.vocab_size:
            raise UsageError(f"token ids go from 0 to {self.step.config.vocab_size - 1}")
        if len(array) > self.window:
            raise ContextWindowExceeded(f"{len(array)} tokens are more than the model's window of {self.window}")
        self._held = []
        self.step.truncate(0)
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


class _Line(NamedTuple):
    """Where the line that is being drawn began: tokens and characters before it, and the logits (V,) there."""

    tokens: int
    start: int
    logits: NDArray[np.float32]


@dataclass(slots=True)
class _Draft:
    """A completion while it is drawn. A token joins it in one step, so that an interrupt finds it whole."""

    prompt_tokens: int
    stop: Stop
    budget: int
    drawn: list[_Drawn] = field(default_factory=list)
    draws: int = 0
    """Tokens drawn, those included that were thrown away."""
    redrawn: int = 0
    shown: int = 0
    """Characters handed out."""
    paused: float = 0.0
    """Seconds that the consumer took."""

    @property
    def text(self) -> str:
        return self.drawn[-1].text if self.drawn else ""

    def add(self, token: int, logprob: float, piece: bytes) -> None:
        """Append a token; a character joins the text when its last byte is there, and bytes that are no UTF-8 as U+FFFD."""
        data = (self.drawn[-1].pending if self.drawn else b"") + piece
        fresh, used = codecs.utf_8_decode(data, "replace", False)
        self.drawn.append(_Drawn(token, logprob, self.text + fresh, data[used:]))


def _shared(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
