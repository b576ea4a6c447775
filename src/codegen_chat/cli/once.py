"""`complete` and `exec`: the model without a sandbox, the sandbox without a model."""

from __future__ import annotations

import json
import sys
from importlib.util import decode_source
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codegen_chat.cli.options import (
    CODE_FAILED,
    AllowRead,
    AllowWrite,
    Device,
    Draft,
    Dtype,
    Json,
    MaxNewTokens,
    Memory,
    Model,
    Samples,
    Seed,
    Temperature,
    Timeout,
    TopK,
    TopP,
    UnsafeExec,
    decoded,
    settled,
    source,
)
from codegen_chat.errors import INTERRUPTED, SandboxUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from codegen_chat.turn import Execution


def complete(
    ctx: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="What the model continues, as it is; - is standard input.")],
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    suffix: Annotated[str | None, typer.Option(help="What follows the gap that is to be filled: for CodeGen2 models.")] = None,
    logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Add each token of the answer with its natural-log probability.")
    ] = False,
    as_json: Json = False,
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    draft: Draft = None,
    samples: Samples = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    max_new_tokens: MaxNewTokens = None,
    seed: Seed = None,
) -> int:
    """Let the model continue a text as it is.

    No session, no sandbox, no conversation format.
    """
    settings = settled(ctx)
    prompt = decoded(source("-"), "standard input") if text == "-" else text

    from codegen_chat.models import by_settings
    from codegen_chat.session.records import completion_to_json
    from codegen_chat.turn import Completion, Delta

    loaded = by_settings(settings)
    show: Callable[[str], str] = str
    if sys.stdout.isatty():
        from codegen_chat.terminal.printing import visible  # a terminal's library takes as long to import as the model to load

        show = visible

    def ended(completion: Completion) -> None:
        pieces = [loaded.tokenizer.decode([token]) for token in completion.token_ids]
        if as_json:
            data = completion_to_json(completion) | ({"tokens": pieces} if logprobs else {})
            sys.stdout.write(json.dumps(data) + "\n")
        else:
            lines = [f"{score:9.4f}  {piece!r}" for piece, score in zip(pieces, completion.logprobs, strict=True)]
            sys.stdout.write("\n" + "".join(f"{line}\n" for line in lines if logprobs))
        sys.stdout.flush()

    drawing: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "seed": settings.seed,
    }
    if suffix is not None or settings.samples > 1:  # drawn together, told one after another
        if suffix is not None:
            completions = loaded.infill(prompt, suffix, n=settings.samples, **drawing)
        else:
            completions = loaded.complete(prompt, n=settings.samples, stop=stop or (), **drawing)
        for completion in completions:
            sys.stdout.write("" if as_json else show(completion.text))
            ended(completion)
        return INTERRUPTED if any(completion.finish_reason == "interrupted" for completion in completions) else 0
    for event in loaded.stream(prompt, stop=stop or (), **drawing):
        if isinstance(event, Delta):
            sys.stdout.write("" if as_json else show(event.text))
            sys.stdout.flush()
        else:
            ended(event)
            if event.finish_reason == "interrupted":
                return INTERRUPTED
    return 0


def execute(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="A Python file; - is standard input.")],
    as_json: Json = False,
    files: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy the files that it wrote into this folder, which is new or empty.")
    ] = None,
    timeout: Timeout = None,
    memory: Memory = None,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    unsafe_exec: UnsafeExec = False,
) -> int:
    """Run one Python file in the sandbox.

    No model. With --json one line: status, stdout, stderr, value, error, duration, tier. The status is one of ok, error, timeout,
    memory, output, killed, interrupted, refused (no sandbox holds here, and nothing was executed).
    """
    settings = settled(ctx)
    data = source(file)
    try:
        code = decode_source(data)  # a first line may name its encoding
    except (SyntaxError, UnicodeDecodeError):
        code = decoded(data, file)

    from codegen_chat.sandbox.by_settings import sandbox, walls
    from codegen_chat.turn import Execution

    result = Execution("interrupted")
    kernel, refusal = sandbox(settings, unsafe=unsafe_exec)
    if kernel is None:
        if as_json:
            sys.stdout.write(_told(result, None, refusal) + "\n")
        raise SandboxUnavailable(f"nothing was executed: {refusal}")
    with kernel:
        if unsafe_exec:
            sys.stderr.writelines(f"! {line}\n" for line in walls(kernel))
        for event in kernel.execute(code, parent=None, turn=None):
            if isinstance(event, Execution):
                result = event
            elif not as_json:
                stream = sys.stdout if event.stream == "stdout" else sys.stderr
                stream.write(event.text)
                stream.flush()
        if files is not None:
            for name in kernel.save_files(result.files, files):
                sys.stderr.write(f"! {name} was left out: it is no ordinary file\n")
        tier = kernel.tier
    if as_json:
        sys.stdout.write(_told(result, tier) + "\n")
    else:
        if result.value is not None:
            sys.stdout.write(result.value + "\n")
        if result.failure:
            sys.stderr.write(result.failure.traceback.rstrip() + "\n")
        if result.status not in {"ok", "error"}:
            sys.stderr.write(f"codegen-chat: {result.status} after {result.duration:.1f} s {result.note}".rstrip() + "\n")
    if result.status == "interrupted":
        return INTERRUPTED
    return 0 if result.status == "ok" else CODE_FAILED


def _told(result: Execution, tier: str | None, refusal: str | None = None) -> str:
    """Return what came of a file as a line of JSON."""
    from codegen_chat.session.records import execution_to_json

    data = execution_to_json(result)
    status, error = data["status"], data["failure"]
    if refusal is not None:
        status, error = "refused", {"type": "SandboxUnavailable", "message": refusal, "line": 0, "traceback": ""}
    elif status not in {"ok", "error"}:  # the code's own exception then says where it was, and not what was the matter
        said = result.note or f"{status} after {result.duration:.1f} s"
        error = {"line": 0, "traceback": "", **(error or {}), "type": status, "message": said}
    told = {key: data[key] for key in ("stdout", "stderr", "value")}
    return json.dumps({"status": status, **told, "error": error, "duration": data["duration"], "tier": tier})
