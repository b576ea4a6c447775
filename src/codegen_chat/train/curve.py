"""The loss curve of a run as a picture."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def draw(log: Path, out: Path) -> None:
    """Draw what a run's `curve.jsonl` tells, training and held-out loss (nats a token), as SVG; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  an extra, and heavy
    except ImportError:
        return
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    trained = [(event["step"], event["loss"]) for event in events if event["loss"] is not None]
    axes.plot(*zip(*trained, strict=True) if trained else ([], []), color="#9db4c8", linewidth=1, label="training")
    axes.plot(
        [event["step"] for event in events], [event["validation"] for event in events], "o-", color="#1f5a8a", markersize=3,
        label="held out",
    )  # fmt: skip
    axes.set(xlabel="steps", ylabel="loss (nats a token)", ylim=(0, 1.08 * axes.dataLim.ymax))
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False)
    figure.savefig(out, format="svg", metadata={"Date": None})
