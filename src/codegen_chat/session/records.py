"""Turn, Completion and Execution as JSON, and back.

Format 1, written out field by field: a new field gets a default here, so that old sessions stay readable; a key that this
version does not know stays in the file and is not read.

JSON has no nan, no infinity, no integers that every reader keeps, and only strings as keys. So `plain` writes such a value as an
object with one key that starts with `$`, and `unplain` takes it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from codegen_chat.turn import Change, Completion, Execution, Failure, Turn, Typed, Usage

_LARGE = 1 << 63


def plain(value: Any, levels: int = 100) -> Any:
    """Return a value as strict JSON: finite floats, integers of 64 bits, keys that are strings. A tuple becomes a list.

    What lies deeper than `levels` becomes "...": it comes from code that may mean to exhaust our stack.
    """
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return int(value) if -_LARGE <= value < _LARGE else {"$int": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if levels == 0:
        return "..."
    if not isinstance(value, Mapping):
        return [plain(item, levels - 1) for item in value]
    items = [[plain(key, levels - 1), plain(item, levels - 1)] for key, item in value.items()]
    return dict(items) if all(isinstance(key, str) and not key.startswith("$") for key in value) else {"$dict": items}


def unplain(value: Any) -> Any:
    """Undo `plain`."""
    if isinstance(value, list):
        return [unplain(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$int": digits}:
            return int(digits, 16)
        case {"$float": name}:
            return float(name)
        case {"$dict": items}:
            return {unplain(key): unplain(item) for key, item in items}
    return {key: unplain(item) for key, item in value.items()}


def turn_to_json(turn: Turn) -> dict[str, Any]:
    """Return a turn without `id` and `parent`, which its event carries."""
    return {
        "text": turn.text,
        "code": turn.code,
        "accepted": turn.accepted,
        "completion": turn.completion and completion_to_json(turn.completion),
        "execution": turn.execution and execution_to_json(turn.execution),
        "given": turn.given,
        "remarks": list(turn.remarks),
    }


def turn_from_json(identity: str, parent: str | None, data: Mapping[str, Any]) -> Turn:
    """Undo `turn_to_json`."""
    completion, execution = data.get("completion"), data.get("execution")
    return Turn(
        id=identity,
        parent=parent,
        text=data["text"],
        code=data["code"],
        completion=completion and completion_from_json(completion),
        execution=execution and execution_from_json(execution),
        accepted=data["accepted"],
        given=data.get("given", ""),
        remarks=tuple(data.get("remarks", ())),
    )


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """Return a completion as JSON."""
    usage = completion.usage
    return {
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "completion_tokens": usage.completion_tokens,
            "prefill_seconds": plain(usage.prefill_seconds),
            "decode_seconds": plain(usage.decode_seconds),
        },
        "logprob": plain(completion.logprob),
        "token_ids": plain(completion.token_ids),
        "logprobs": plain(completion.logprobs),
        "seed": plain(completion.seed),
        "redrawn": completion.redrawn,
    }


def completion_from_json(data: Mapping[str, Any]) -> Completion:
    """Undo `completion_to_json`."""
    usage = data.get("usage", {})
    return Completion(
        text=data["text"],
        finish_reason=data["finish_reason"],
        usage=Usage(
            prompt_tokens=usage.get("prompt_tokens", 0),
            cached_tokens=usage.get("cached_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            prefill_seconds=unplain(usage.get("prefill_seconds", 0.0)),
            decode_seconds=unplain(usage.get("decode_seconds", 0.0)),
        ),
        logprob=unplain(data.get("logprob", 0.0)),
        token_ids=tuple(unplain(data.get("token_ids", []))),
        logprobs=tuple(unplain(data.get("logprobs", []))),
        seed=unplain(data.get("seed", 0)),
        redrawn=data.get("redrawn", 0),
    )


def execution_to_json(execution: Execution) -> dict[str, Any]:
    """Return an execution as JSON."""
    failure = execution.failure
    return {
        "status": execution.status,
        "stdout": execution.stdout,
        "stderr": execution.stderr,
        "value": execution.value,
        "typed_value": execution.typed_value and _typed_to_json(execution.typed_value),
        "prints": [_typed_to_json(item) for item in execution.prints],
        "failure": failure
        and {"type": failure.type, "message": failure.message, "line": failure.line, "traceback": failure.traceback},
        "duration": plain(execution.duration),
        "changes": [{"kind": change.kind, "name": change.name, "summary": change.summary} for change in execution.changes],
        "files": list(execution.files),
        "truncated": execution.truncated,
        "note": execution.note,
    }


def execution_from_json(data: Mapping[str, Any]) -> Execution:
    """Undo `execution_to_json`."""
    typed, failure = data.get("typed_value"), data.get("failure")
    return Execution(
        status=data["status"],
        stdout=data.get("stdout", ""),
        stderr=data.get("stderr", ""),
        value=data.get("value"),
        typed_value=typed and _typed_from_json(typed),
        prints=tuple(_typed_from_json(item) for item in data.get("prints", [])),
        failure=failure and Failure(failure["type"], failure["message"], failure["line"], failure["traceback"]),
        duration=unplain(data.get("duration", 0.0)),
        changes=tuple(Change(item["kind"], item["name"], item["summary"]) for item in data.get("changes", [])),
        files=tuple(data.get("files", [])),
        truncated=data.get("truncated", 0),
        note=data.get("note", ""),
    )


def _typed_to_json(typed: Typed) -> dict[str, Any]:
    return {"kind": typed.kind, "data": plain(typed.data)}


def _typed_from_json(data: Mapping[str, Any]) -> Typed:
    return Typed(data["kind"], unplain(data["data"]))
