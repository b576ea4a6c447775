"""What a dtype costs and saves, and whether a model is whole: measured on the model itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from codegen_chat.errors import CodegenChatError, UsageError
from codegen_chat.lm import native, steps
from codegen_chat.lm.config import Config
from codegen_chat.lm.fetch import damaged
from codegen_chat.lm.fit import DTYPES, free_memory, memory, weights
from codegen_chat.lm.hub import name
from codegen_chat.lm.stored import Weights, shapes
from codegen_chat.lm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.lm.engine import Step

PUBLISHED = {"Salesforce/codegen-350M-mono": ("def hello_world():", '\n    print("Hello World")\n\nhello_world()\n\n')}
"""A prompt and what the model's own documentation and tests say that it continues it with, greedily."""

DECODED = 32
"""Tokens that are run one by one to measure the speed."""

_RUNS = "if x:\n    y = '  '\n\treturn  # é 数\r\n"


class Cost(NamedTuple):
    """What one dtype is like on one text. Perplexity is e to the mean surprise of its tokens."""

    dtype: str
    weights: int
    """Bytes of the weights, in memory or in a file."""
    memory: int
    """Bytes in memory with the past of a whole window."""
    prompt_speed: float
    """Tokens a second, the text at once."""
    speed: float
    """Tokens a second, one by one."""
    perplexity: float
    same: float
    """How often the likeliest token is the reference's."""
    divergence: float
    """Mean Kullback-Leibler divergence from the reference, in nats."""


def costs(folder: Path, text: str, dtypes: Sequence[str] = DTYPES) -> Iterator[Cost]:
    """Yield what each dtype costs; the first of them is the reference for those after it.

    One is in memory at a time. Dtypes that do not fit the free memory, or that nothing here computes, are left out. Raises
    UsageError where the text has fewer than two tokens or none of them is left, and as `steps.load`.
    """
    config, tokenizer = Config.read(folder / "config.json"), Tokenizer.load(folder)
    ids = np.array(tokenizer.encode(text)[: config.n_positions - DECODED], dtype=np.int64)
    if len(ids) < 2:
        raise UsageError("a text of two tokens at least is needed to measure with")
    known = native.FORMATS if native.instructions() else ("fp32", "fp16")
    able = [dtype for dtype in dtypes if dtype in known and memory(config, dtype) < free_memory()]
    if not able:
        raise UsageError(f"none of {', '.join(dtypes)} fits the {free_memory() / 1e9:.1f} GB of memory that are free")
    truth: NDArray[np.float32] | None = None
    for dtype in able:
        step = steps.load(folder, dtype, "cpu")
        step(ids[:2])
        step.truncate(0)
        began = perf_counter()
        logs = _log_probabilities(step(ids[:-1], every=True))
        read = perf_counter() - began
        began = perf_counter()
        for token in ids[:DECODED]:
            step(np.array([token]))
        wrote = perf_counter() - began
        truth = logs if truth is None else truth
        yield Cost(
            dtype,
            weights(config, dtype),
            memory(config, dtype),
            (len(ids) - 1) / read,
            min(DECODED, len(ids)) / wrote,
            float(np.exp(-logs[np.arange(len(logs)), ids[1:]].mean())),
            float((logs.argmax(1) == truth.argmax(1)).mean()),
            float((np.exp(truth) * (truth - logs)).sum(1).mean()),
        )
        del step


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    logits -= logits.max(axis=1, keepdims=True)
    found: NDArray[np.float32] = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return found


def checks(folder: Path) -> Iterator[tuple[bool, str]]:
    """Yield whether each thing that makes a model whole holds, and what it is, until one is not there at all."""
    for file, wrong in damaged(folder):
        yield not wrong, f"{file}: {'its checksum is wrong, fetch it again' if wrong else 'checksum'}"
    try:
        config = Config.read(folder / "config.json")
        stored = Weights(folder, config)
        yield True, f"{len(stored.places)} tensors, every one of the right shape, stored as {stored.dtype}"
        strange = [key for key in shapes(config) if not _finite(stored, key)]
        yield not strange, f"weights that are no finite numbers: {', '.join(strange) or 'none'}"
        tokenizer = Tokenizer.load(folder)
        back = tokenizer.decode(tokenizer.encode(_RUNS)) == _RUNS
        yield back, f"the tokenizer: {len(tokenizer)} tokens, and what is encoded {'comes' if back else 'does not come'} back"
        step = steps.load(folder)
    except CodegenChatError as error:
        yield False, str(error)
        return
    yield from _computed(step, tokenizer, name(folder))


def _finite(stored: Weights, key: str) -> bool:
    rows = stored.shape(key)[0]
    return all(bool(np.isfinite(stored.published(key, start, start + 1024)).all()) for start in range(0, rows, 1024))


def _computed(step: Step, tokenizer: Tokenizer, called: str) -> Iterator[tuple[bool, str]]:
    prompt, published = PUBLISHED.get(called.partition("@")[0], ("def hello_world():\n    print(", None))
    ids = np.array(tokenizer.encode(prompt), dtype=np.int64)
    whole = step(ids, every=True)
    step.truncate(0)
    single = np.concatenate([step(ids[i : i + 1], every=True) for i in range(len(ids))])
    finite = bool(np.isfinite(whole).all())
    yield finite, f"logits are {'finite' if finite else 'not finite'} numbers"
    apart = float(np.abs(whole - single).max() / max(float(whole.std()), 1e-9))
    yield (
        apart < 0.05,
        f"a prompt at once and token by token: logits {apart:.1e} of their spread apart, {step.dtype} on {step.backend}",
    )
    if published is None:
        yield True, "there is no published text to compare with"
        return
    told: list[int] = []
    row = single[-1]
    while len(told) < len(tokenizer.encode(published)):
        told.append(int(row.argmax()))
        row = step(np.array(told[-1:]))
    text = tokenizer.decode(told)
    yield (
        text == published,
        f"{prompt!r} goes on with {text!r}, {'as' if text == published else f'and not with {published!r}, as'} published",
    )
