"""Draw the embedded model's training curve, for its model card: loss, and dev-set score where it was taken, against tokens.

python benchmarks/curve.py        reads nano-curve.csv, writes src/codegen_chat/assets/nano/curve.svg
"""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def column(rows: list[dict[str, str]], name: str) -> tuple[list[float], list[float]]:
    """Return tokens in millions and a column's values, where it has any."""
    pairs = [(int(row["tokens"]) / 1e6, float(row[name])) for row in rows if row[name]]
    return [tokens for tokens, _ in pairs], [value for _, value in pairs]


def main() -> None:
    """Draw it."""
    mpl.rcParams["svg.hashsalt"] = "curve"  # the same file for the same figures
    with (HERE / "nano-curve.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figure, loss = plt.subplots(figsize=(7.2, 3.6))
    loss.plot(*column(rows, "loss"), color="#9db4c8", linewidth=0.8, label="training loss (code 1, words 0.1)")
    loss.plot(*column(rows, "validation"), color="#1f5a8a", linewidth=1.6, label="loss on unseen sessions' code")
    loss.set(yscale="log", xlabel="million tokens", ylabel="loss (nats a token)", xlim=(0, None))
    score = loss.twinx()
    score.plot(*column(rows, "dev"), "o", color="#c2571a", label="dev set, visible half, greedy (%)")
    score.set(ylim=(0, 20), ylabel="problems right (%)")
    lines = [*loss.get_lines(), *score.get_lines()]
    loss.legend(lines, [str(line.get_label()) for line in lines], loc="upper right", fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(HERE.parent / "src/codegen_chat/assets/nano/curve.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
