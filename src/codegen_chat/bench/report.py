"""A run as a page to be looked at: one HTML file that needs nothing else, and the plots as PNG files beside it."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codegen_chat.bench.samples import Sample, Samples
from codegen_chat.bench.summary import by_problem, curves
from codegen_chat.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EACH_KIND = 100
"""Failures of one kind that the page shows whole; the samples file has all."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
pre { overflow-x: auto; padding: .6rem; background: #8881; } img { max-width: 100%; background: #fff; }
summary { cursor: pointer; } .bad { color: #c33; } nav a { margin-right: 1rem; } dt { float: left; clear: left; width: 12rem; }
"""


def write(folder: Path, samples: Samples, result: Mapping[str, Any]) -> list[str]:
    """Write `report.html` and, where matplotlib is there, the plots. Return the names of the files."""
    plots = _plots(list(samples), result)
    try:
        for name, picture in plots.items():
            (folder / name).write_bytes(picture)
        (folder / "report.html").write_text(page(samples, result, plots), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
    return ["report.html", *plots]


def page(samples: Samples, result: Mapping[str, Any], plots: Mapping[str, bytes]) -> str:
    """Return the page. Programs and what they wrote are shown as text: they come from nobody who is trusted."""
    header = samples.header
    title = f"{header['benchmark']}: {header.get('model', 'the canonical solutions')}"
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in header.items())
    pictures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></figure>'
        for name, picture in plots.items()
    )
    kinds: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        if not sample.passed:
            kinds[sample.reason].append(sample)
    ordered = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    links = "".join(f'<a href="#{_anchor(kind)}">{escape(kind)} ({len(failed)})</a> ' for kind, failed in ordered)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{_rates(result)}{pictures}<h2>Failures by kind</h2><nav>{links or 'none'}</nav>"
        f"{''.join(_failures(kind, failed) for kind, failed in ordered)}<h2>The run</h2><dl>{facts}</dl></html>\n"
    )


def _rates(result: Mapping[str, Any]) -> str:
    rows = [("all", result)]
    rows += [(f"{turns} turns", rate) for turns, rate in result.get("by_turns", {}).items()]
    rows += [(category, rate) for category, rate in result.get("by_category", {}).items()]
    body = "".join(
        f"<tr><td>{escape(name)}<td>{rate['passed']} of {rate['samples']}<td>{rate['pass_rate']:.1%}"
        f"<td>{rate['interval'][0]:.1%} to {rate['interval'][1]:.1%}"
        for name, rate in rows
    )
    best = "".join(
        f"<p>pass@{k}: {at['rate']:.1%}" + ("" if at["temperature"] is None else f", at temperature {at['temperature']:g}")
        for k, at in result["pass_at"].items()
    )
    cost = f"<p>A problem costs {result['seconds_per_problem']:.2f} s and {result['tokens_per_problem']:.0f} tokens."
    return f"<table><tr><th><th>passed<th>rate<th>95 % interval{body}</table>{best}{cost}"


def _failures(kind: str, failed: Sequence[Sample]) -> str:
    shown = "".join(
        f"<details><summary>{escape(_named(sample))}</summary>"
        f'<pre>{escape(sample.program)}</pre><pre class="bad">{escape(sample.output) or "(no output)"}</pre></details>'
        for sample in failed[:EACH_KIND]
    )
    more = f"<p>{len(failed) - EACH_KIND} more are in the samples file." if len(failed) > EACH_KIND else ""
    return f'<h3 id="{_anchor(kind)}">{escape(kind)}</h3>{shown}{more}'


def _named(sample: Sample) -> str:
    case = f", case {sample.case}" if sample.category or sample.case else ""  # HumanEval's tasks have one
    at = "" if sample.temperature is None else f" at temperature {sample.temperature:g}"
    return f"{sample.task}{case}, answer {sample.number}{at}"


def _anchor(kind: str) -> str:
    return "kind-" + "".join(letter if letter.isalnum() else "-" for letter in kind)


def _plots(samples: Sequence[Sample], result: Mapping[str, Any]) -> dict[str, bytes]:
    """Draw what there are data for; nothing where matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  it takes a second, and is no must
    except ImportError:
        return {}
    mpl.use("agg")
    found: dict[str, bytes] = {}
    lines = curves(samples)
    if any(len(points) > 1 for points in lines.values()):

        def pass_at_k(axes: Axes) -> None:
            for temperature, points in lines.items():
                axes.plot(*zip(*points, strict=True), marker="o", label=f"temperature {temperature}")
            axes.set(xscale="log", xlabel="k", ylabel="pass@k", ylim=(0, 1))
            ks = {k for points in lines.values() for k, _ in points}
            axes.set_xticks(sorted(ks & {1, 2, 3, 5, 10, 20, 50, 100, 200, max(ks)}))
            _numbered(axes)
            axes.legend()

        found["pass_at_k.png"] = _drawn(pass_at_k)
    if result.get("by_turns"):
        turns = result["by_turns"]

        def by_turns(axes: Axes) -> None:
            rates = [rate["pass_rate"] for rate in turns.values()]
            below = [max(0.0, rate["pass_rate"] - rate["interval"][0]) for rate in turns.values()]
            above = [max(0.0, rate["interval"][1] - rate["pass_rate"]) for rate in turns.values()]
            axes.bar(list(turns), rates, yerr=[below, above], capsize=4, color="#4477aa")
            axes.set(xlabel="turns", ylabel="pass rate", ylim=(0, 1))

        found["by_turns.png"] = _drawn(by_turns)
    measured = [(perplexity, rate) for perplexity, rate in by_problem(samples).values() if perplexity is not None]
    if len(measured) > 1:
        least, most = min(measured)[0], max(measured)[0]

        def perplexity(axes: Axes) -> None:
            axes.scatter(*zip(*measured, strict=True), alpha=0.5, color="#4477aa")
            axes.set(xscale="log", xlabel="perplexity of a problem's words", ylabel="pass rate", ylim=(-0.05, 1.05))
            axes.set_xticks([tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if least / 2 < tick < 2 * most])
            _numbered(axes)

        found["perplexity.png"] = _drawn(perplexity)
    return found


def _numbered(axes: Axes) -> None:
    """Write the numbers of a logarithmic axis as people do."""
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _drawn(draw: Any) -> bytes:
    from io import BytesIO  # noqa: PLC0415  with the rest of drawing

    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    draw(figure.subplots())
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
