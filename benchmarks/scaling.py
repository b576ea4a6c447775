"""What a token costs against the length of the conversation, and against the size of the model: the native step alone.

    python benchmarks/scaling.py [--rounds 5] [--dtype int8] [--sizes nano,350M,2B]

Weights are random, made as they are packed: a size is a shape, and nothing is written to a disk. Lengths are measured in turns:
what disturbs the machine disturbs all alike. Printed are medians with their spread, and how fast the weights were read; the
figures go to benchmarks/scaling.json, the chart to docs/scaling.svg.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.lm import hub, native, stored
from codegen_chat.lm.config import PUBLISHED, Config

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
LENGTHS = (64, 256, 512, 1024, 2048)
NEW = 8
"""Tokens that a decode is timed over."""


class RandomWeights(stored.Weights):
    """Weights of a shape that no file holds: the same few random rows again and again."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._shapes = stored.shapes(config)
        widest = max(shape[-1] for shape in self._shapes.values())
        self._rows = np.random.default_rng(0).integers(-127, 128, size=(64, widest), dtype=np.int8)

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key]

    def is_int8(self, key: str) -> bool:
        return len(self._shapes[key]) == 2

    def ordered(self, key: str, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        rows = len(range(*slice(start, stop).indices(self._shapes[key][0])))
        matrix = np.ascontiguousarray(np.resize(self._rows, (rows, self._rows.shape[1]))[:, : self._shapes[key][1]])
        return matrix, np.full(rows, 0.0003, dtype=np.float32)

    def floats(self, key: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        if not self.is_int8(key):
            return np.full(len(range(*slice(start, stop).indices(self._shapes[key][0]))), float("ln_" in key), dtype=np.float32)
        matrix, scales = self.ordered(key, start, stop)
        return matrix.astype(np.float32) * scales[:, None]


def measure(step: native.NativeStep, ids: NDArray[np.int64], length: int) -> tuple[float, float]:
    """Return the seconds a token of a prompt of this length, and of the tokens after it."""
    step.truncate(0)
    started = perf_counter()
    for start in range(0, length - NEW, 256):
        step(ids[start : min(start + 256, length - NEW)])
    prefilled = perf_counter()
    for token in ids[length - NEW : length]:
        step(np.array([token]))
    return (prefilled - started) / (length - NEW), (perf_counter() - prefilled) / NEW


def chart(found: dict[str, Any], path: Path) -> None:
    """Draw milliseconds a token against the length, a line a size."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    drawing = Figure(figsize=(9, 4), layout="constrained")
    for axes, what in zip(drawing.subplots(1, 2), ("prompt", "decode"), strict=True):
        for name, own in found.items():
            points = [(int(length), 1e3 * statistics.median(rounds)) for length, rounds in own[what].items()]
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
        axes.set(xscale="log", yscale="log", xticks=LENGTHS, xticklabels=LENGTHS, xlabel="tokens", title=f"{what}: ms a token")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend()
    drawing.savefig(path)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="int8", choices=native.FORMATS)
    parser.add_argument("--sizes", default="nano,350M,2B", help="sizes, separated by commas")
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for name in asked.sizes.split(","):
        config = PUBLISHED.get(name) or Config.read(hub.locate(name) / "config.json")
        step = native.NativeStep(config, RandomWeights(config), asked.dtype)
        ids = np.random.default_rng(1).integers(0, config.vocab_size, size=config.n_positions)
        lengths = [length for length in LENGTHS if length <= config.n_positions]
        own: dict[str, Any] = {what: {str(length): [] for length in lengths} for what in ("prompt", "decode")}
        for _ in range(asked.rounds):
            for length in lengths:
                for what, seconds in zip(own, measure(step, ids, length), strict=True):
                    own[what][str(length)].append(seconds)
        found[name] = own | {"bytes": step.bytes}
        print(f"{name} {asked.dtype}, {step.bytes / 1e6:.0f} MB\n")
        print("| tokens | prompt, tokens/s | decode, tokens/s | weights read, GB/s |\n|---|---|---|---|")
        for length in lengths:
            cells = []
            for what in ("prompt", "decode"):
                rounds = own[what][str(length)]
                middle = statistics.median(rounds)
                cells.append(f"{1 / middle:.0f} ±{50 * (max(rounds) - min(rounds)) / middle:.0f} %")
            print(f"| {length} | {' | '.join(cells)} | {step.bytes / middle / 1e9:.1f} |", flush=True)
        print()
        del step
    (HERE / "scaling.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    chart(found, HERE.parent / "docs" / "scaling.svg")


if __name__ == "__main__":
    main()
