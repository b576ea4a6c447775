"""What a dtype costs in quality: perplexity of unseen conversations, and how often the likeliest token is the reference's.

    python benchmarks/quality.py [--model nano] [--documents 200]

The reference is the torch step in float32. Only tokens that the model is to write are scored: code, and where it ends. The
figures go to benchmarks/quality.json; what was measured stands in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from codegen_chat.lm import checkpoint, hub, int8
from codegen_chat.lm.config import Config
from codegen_chat.lm.model import TorchStep
from codegen_chat.lm.native import NativeStep
from codegen_chat.lm.stored import Weights
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.data import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from codegen_chat.lm.engine import Step

SEED = 918_273_645  # no recipe's


def documents(tokenizer: Tokenizer, count: int, longest: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Yield conversations of the curriculum: ids, and which of them are scored."""
    made = 0
    for steps in Curriculum().sessions(SEED):
        ids, scored = document(steps, tokenizer)
        if len(ids) <= longest:
            made += 1
            yield np.array(ids), np.array(scored)
        if made == count:
            return


def logits_of(step: Step, ids: NDArray[np.int64], scored: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the log probabilities (N, V) before each scored token."""
    step.truncate(0)
    logits = step(ids[:-1], every=True)[scored[1:]].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))  # type: ignore[no-any-return]


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--documents", type=int, default=200)
    asked = parser.parse_args()
    folder = hub.locate(asked.model)
    config, tokenizer = Config.read(folder / "config.json"), Tokenizer.load(folder)
    weights = Weights(folder, config)
    texts = list(documents(tokenizer, asked.documents, config.n_positions))
    reference = TorchStep(checkpoint.load(folder, dtype="fp32", device="cpu"))
    truth = [logits_of(reference, *text) for text in texts]
    tokens = [ids[1:][scored[1:]] for ids, scored in texts]
    total = sum(map(len, tokens))

    kinds: dict[str, NativeStep | TorchStep] = {dtype: NativeStep(config, weights, dtype) for dtype in ("fp32", "fp16", "int8")}
    kinds |= {f"int4, {group} columns a scale": NativeStep(config, weights, "int4", group=group) for group in (16, 32, 64, 128)}
    if int8.available():
        kinds["torch int8"] = int8.load(weights)
    found = {"torch fp32": {"perplexity": perplexity(truth, tokens), "agreement": 1.0, "divergence": 0.0, "megabytes": 0.0}}
    for name, step in kinds.items():
        own = [logits_of(step, *text) for text in texts]
        same = sum(int((a.argmax(1) == b.argmax(1)).sum()) for a, b in zip(own, truth, strict=True))
        apart = sum(float((np.exp(b) * (b - a)).sum()) for a, b in zip(own, truth, strict=True))
        figures = {"perplexity": perplexity(own, tokens), "agreement": same / total, "divergence": apart / total}
        found[name] = figures | {"megabytes": step.bytes / 1e6 if isinstance(step, NativeStep) else 0.0}
    Path(__file__).with_name("quality.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    print(f"{hub.name(folder)}, revision {hub.revision(folder)}: {len(texts)} conversations, {total} scored tokens\n")
    print("| weights | MB | perplexity | more | same likeliest token | divergence, nats |\n|---|---|---|---|---|---|")
    base = found["torch fp32"]["perplexity"]
    for name, figures in found.items():
        cells = (
            f"{figures['megabytes']:.1f}" if figures["megabytes"] else "",
            f"{figures['perplexity']:.4f}",
            f"{figures['perplexity'] / base - 1:+.2%}",
            f"{figures['agreement']:.3%}",
            f"{figures['divergence']:.1e}",
        )
        print(f"| {name} | {' | '.join(cells)} |")


def perplexity(logs: list[NDArray[np.float64]], tokens: list[NDArray[np.int64]]) -> float:
    """Return e to the power of the mean surprise."""
    surprise = np.concatenate([-log[np.arange(len(ids)), ids] for log, ids in zip(logs, tokens, strict=True)])
    return float(np.exp(surprise.mean()))


if __name__ == "__main__":
    main()
