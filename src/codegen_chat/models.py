"""A model that completes text, loaded: by itself it needs neither sandbox nor session, and imports none."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

from codegen_chat import prompt as prompts
from codegen_chat.attention.record import Attention, Piece, parts, split
from codegen_chat.errors import UsageError
from codegen_chat.lm import hub
from codegen_chat.settings import Settings
from codegen_chat.turn import Completed, Completion, Delta, Prompt, Sampling

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codegen_chat.lm.engine import Engine
    from codegen_chat.lm.model import CodeGen
    from codegen_chat.lm.tokenizer import Tokenizer


def load(model: str | Path = "nano", *, dtype: str = "auto", device: str = "auto", draft: str | Path = "off") -> Model:
    """Load a model: "nano" (embedded), a checkpoint's folder, or a name that `models ls` shows as here. Nothing is downloaded.

    `dtype` is auto, fp32, bf16, fp16, int8 or int4; `device` auto, cpu, cuda, ... On a CPU the native step computes, where it was
    built and knows the dtype, and torch where not; auto is then the dtype that the weights are stored in. `draft` is a smaller
    model of the same vocabulary, loaded with the same dtype and device: it proposes tokens, and the model checks several in one
    run. What is written stays the same, to the last bit on the native step; while it saves no time, it rests.

    Raises ModelUnavailable (also where memory does not hold both), CheckpointError, UsageError (also for what cannot draft).
    """
    folder = hub.locate(str(model))
    small = drafting(folder, draft)
    # The small one first: what it takes of the memory is no longer free for the other.
    drafter = None if small is None else _engine(small, dtype, device, None)
    return Model(_engine(folder, dtype, device, drafter), folder, "" if small is None else hub.name(small))


def by_settings(settings: Settings) -> Model:
    """Load the model that is set, and its draft model. Raises as `load`."""
    return load(settings.model, dtype=settings.dtype, device=settings.device, draft=settings.draft)


def drafting(folder: Path, draft: str | Path) -> Path | None:
    """Return the folder of the model that is to draft for the one in `folder`, None for "off".

    Raises UsageError where it has another vocabulary, or is not smaller, and as `load` does where it is none.
    """
    if draft == "off":
        return None
    small = hub.locate(str(draft))
    from codegen_chat.lm import fit  # noqa: PLC0415  as in `_engine`
    from codegen_chat.lm.config import Config  # noqa: PLC0415
    from codegen_chat.lm.tokenizer import Tokenizer  # noqa: PLC0415

    sizes = [fit.weights(Config.read(each / "config.json"), "int8") for each in (small, folder)]
    same = Tokenizer.load(small).vocabulary() == Tokenizer.load(folder).vocabulary()
    if not same or sizes[0] >= sizes[1]:
        why = "it is not smaller" if same else "their vocabularies differ"
        raise UsageError(
            f"{hub.name(small)} cannot draft for {hub.name(folder)}: {why}. Give a smaller model of its family, or --draft off"
        )
    return small


def _engine(folder: Path, dtype: str, device: str, drafter: Engine | None) -> Engine:
    # They take long to import, torch longest: only who loads a model waits for them, and for torch only who needs it.
    from codegen_chat.lm import sampling, steps  # noqa: PLC0415
    from codegen_chat.lm.engine import Engine  # noqa: PLC0415
    from codegen_chat.lm.tokenizer import Tokenizer  # noqa: PLC0415

    step = steps.load(folder, dtype, device)
    return Engine(step, Tokenizer.load(folder), sampling.defaults(folder), drafter)


class Model:
    """A loaded model. Not for several threads at once: one cache serves one completion at a time.

    Attributes:
        name, revision: which model it is.
        dtype, device, backend: how it computes ("int8", "cpu", "native AVX2").
        draft: the name of the model that drafts for it, "" for none.
        engine: the completer underneath.
    """

    def __init__(self, engine: Engine, folder: Path, draft: str = "") -> None:
        self.engine = engine
        self.name = hub.name(folder)
        self.revision = hub.revision(folder)
        self._folder = folder
        self.dtype = engine.step.dtype
        self.device = engine.step.device
        self.backend = engine.step.backend
        self.draft = draft

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary."""
        return self.engine.tokenizer

    @overload
    def complete(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        seed: int = 0,
    ) -> list[Completion]: ...

    @overload
    def complete(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        seed: int = 0,
    ) -> list[list[Completion]]: ...

    def complete(
        self,
        prompt: str | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        seed: int = 0,
    ) -> list[Completion] | list[list[Completion]]:
        """Continue a text `n` times, with seeds from `seed` on; of several texts each, one after the other, a list for each.

        None is the checkpoint's own default; temperature 0 is greedy, and then all n are alike. The text ends before the first
        of the `stop` strings. Raises UsageError for a value out of range, ContextWindowExceeded for a prompt past the window.
        """
        found: list[list[Completion]] = []
        for text in [prompt] if isinstance(prompt, str) else prompt:
            asked, sampling = self._asked(text, max_new_tokens, temperature, top_p, top_k, stop, seed)
            events = self.engine.complete_many(asked, [replace(sampling, seed=seed + index) for index in range(n)])
            ended = [event for event in events if isinstance(event, Completed)]
            found.append([event.completion for event in sorted(ended, key=lambda event: event.candidate)])
        return found[0] if isinstance(prompt, str) else found

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Generator[Delta | Completion, None, None]:
        """Continue a text, in pieces as they are decided; the Completion comes last. Arguments and errors as in `complete`."""
        return self.engine.complete(*self._asked(prompt, max_new_tokens, temperature, top_p, top_k, stop, seed))

    def _asked(
        self,
        prompt: str,
        max_new_tokens: int,
        temperature: float | None,
        top_p: float | None,
        top_k: int | None,
        stop: Sequence[str],
        seed: int,
    ) -> tuple[Prompt, Sampling]:
        """Check the arguments of `complete`; return what they ask for."""
        wanted = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        settings = Settings().updated({key: value for key, value in wanted.items() if value is not None}, "complete()")
        if isinstance(stop, str) or not all(stop):
            raise UsageError("complete(): stop is a list of strings that are not empty")
        return Prompt(prompt, prompts.stop_strings(*stop), max_new_tokens), drawing(settings, self.engine.sampling)

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        n: int = 1,
        seed: int = 0,
    ) -> list[Completion]:
        """Fill the gap between two texts `n` times: for CodeGen2 models, which were trained to.

        Arguments and errors as in `complete`; UsageError where the model's vocabulary has no `<mask_1>`, `<sep>` and `<eom>`.
        """
        marks = ("<mask_1>", "<sep>", "<eom>")
        if any(len(self.tokenizer.encode(mark)) != 1 for mark in marks):
            raise UsageError(f"{self.name} cannot fill gaps: it knows no {', '.join(marks)}. CodeGen2 models do")
        prompt = f"{prefix}<mask_1>{suffix}<|endoftext|><sep><mask_1>"
        return self.complete(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=["<eom>"],
            n=n,
            seed=seed,
        )

    def logits(self, text: str | Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of T tokens of a text, or of ids, float32 (T, vocabulary)."""
        return self.engine.logits(self._ids(text))

    def features(self, text: str | Sequence[int]) -> NDArray[np.float32]:
        """Return the last hidden states of T tokens of a text, or of ids, after the final LayerNorm: float32 (T, n_embd)."""
        return self.engine.features(self._ids(text))

    def _ids(self, text: str | Sequence[int]) -> Sequence[int]:
        return self.tokenizer.encode(text) if isinstance(text, str) else text

    def attentions(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return what T tokens attend to in each head, float32 (layers, heads, T, T); see `Attention.weights`.

        The reference step of torch computes them, in fp32 where the native step serves this model: its weights are then loaded
        once more, when this is first called. The cache is left as it is. Raises ModelUnavailable where memory does not hold
        those, UsageError for numbers of more than half of it.
        """
        from codegen_chat.lm.model import attentions  # noqa: PLC0415  torch

        array = self.engine.checked(ids)
        config = self.engine.step.config
        size = 4 * config.n_layer * config.n_head * len(array) ** 2
        if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
            raise UsageError(f"the attention of {len(array)} tokens is {size / 1e9:.1f} GB of numbers: shorten the text")
        return attentions(self._reference, array)

    def attention(self, text: str | Sequence[Piece]) -> Attention:
        """Return what the tokens of a text attend to. Of a plain text, lines of comments are a turn's words, the others its code.

        Raises UsageError for an empty one, and as `attentions` does.
        """
        split_up = list(split(text) if isinstance(text, str) else text)
        ids = self.tokenizer.encode("".join(piece for _, _, piece in split_up))
        if not ids:
            raise UsageError("there is no text to look at")
        tokens = [self.tokenizer.token_bytes(token) for token in ids]
        texts = tuple(token.decode("utf-8", "backslashreplace") for token in tokens)
        return Attention(self.name, texts, parts(split_up, tokens), self.attentions(ids))

    @cached_property
    def _reference(self) -> CodeGen:
        from codegen_chat.lm import steps  # noqa: PLC0415  numpy's part of the engine

        return steps.reference(self.engine.step, self._folder)


def drawing(settings: Settings, own: Sampling) -> Sampling:
    """Return how to draw: the checkpoint's own way, changed by what is set."""
    return Sampling(
        own.temperature if settings.temperature is None else settings.temperature,
        own.top_p if settings.top_p is None else settings.top_p,
        own.top_k if settings.top_k is None else settings.top_k,
        settings.seed,
    )
