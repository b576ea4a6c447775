"""A turn's own account of itself, checked: the bytes come from code that nobody trusts.

Only what the code knows best is taken from here (values, its exception, its names); that it may lie about those is documented.
Status, time and signals are init's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

from codegen_chat.sandbox.clean import clean
from codegen_chat.turn import Change, Failure, Typed

_DEPTH = 64
_KIND = re.compile(r"[\w.\[\]<>, -]{1,200}")
_T = TypeVar("_T")


class BrokenReportError(ValueError):
    """What a turn sent is not a report."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a turn says of itself."""

    value: str | None
    typed_value: Typed | None
    prints: tuple[Typed, ...]
    failure: Failure | None
    changes: tuple[Change, ...]
    names: dict[str, str]


def parse(body: bytes) -> Report:
    """Read a report.

    Raises:
        BrokenReportError: It is not JSON, too deep, or of another shape.
    """
    try:
        text = body.decode("utf-8")
        if _depth(text) > _DEPTH:
            raise BrokenReportError("too deep")
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenReportError(f"not a report: {error}") from error
    fields = _dict(data)
    names = _dict(fields.get("names"))
    return Report(
        value=_optional(fields.get("value"), _text),
        typed_value=_optional(fields.get("typed"), _typed),
        prints=tuple(_typed(item) for item in _list(fields.get("prints"))),
        failure=_optional(fields.get("failure"), _failure),
        changes=tuple(_change(item) for item in _list(fields.get("changes"))),
        names={clean(name): _text(summary) for name, summary in names.items()},
    )


def _depth(text: str) -> int:
    """How deep brackets nest, strings left out, without building anything."""
    deepest = depth = 0
    for bracket in re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        if bracket in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif bracket in "]}":
            depth -= 1
    return deepest


def _optional(value: object, read: Callable[[object], _T]) -> _T | None:
    return None if value is None else read(value)


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BrokenReportError("an object is wanted")
    return cast("dict[str, object]", value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise BrokenReportError("a list is wanted")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise BrokenReportError("a string is wanted")
    return clean(value)


def _typed(value: object) -> Typed:
    """The kind is a name; the data stays exact, since it is compared and never shown."""
    pair = _list(value)
    if len(pair) != 2 or not isinstance(pair[0], str) or not _KIND.fullmatch(pair[0]):
        raise BrokenReportError("a kind and its data are wanted")
    return Typed(pair[0], _without_surrogates(pair[1]))


def _without_surrogates(data: object) -> object:
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode("utf-8")
    if isinstance(data, list):
        return [_without_surrogates(item) for item in data]
    if isinstance(data, dict):
        return {str(_without_surrogates(name)): _without_surrogates(item) for name, item in data.items()}
    return data


def _failure(value: object) -> Failure:
    fields = _dict(value)
    line = fields.get("line")
    if not isinstance(line, int) or isinstance(line, bool) or line < 0:
        raise BrokenReportError("a line number is wanted")
    return Failure(_text(fields.get("type")), _text(fields.get("message")), line, _text(fields.get("traceback")))


def _change(value: object) -> Change:
    parts = [_text(item) for item in _list(value)]
    if len(parts) != 3 or parts[0] not in {"+", "~", "-"}:
        raise BrokenReportError("a change is +, ~ or -, a name and a summary")
    kind, name, summary = parts
    return Change(cast("Literal['+', '~', '-']", kind), name, summary)
