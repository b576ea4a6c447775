"""Which of several executed candidates to keep, without knowing the answer: results vote, the turn's words have a say."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from codegen_chat.turn import Execution

_SHOWING = re.compile(r"\b(?:print|show|display|output|tell me|what|which|how (?:many|much|long|far|old))\b|\?", re.IGNORECASE)
_QUOTED = re.compile(r"[\"'`]([A-Za-z_]\w*)[\"'`]")


def choose(executions: Sequence[Execution], text: str = "") -> int:
    """Return the index of the best candidate; raises ValueError where there is none to choose from.

    Those without error come first; of them those that did what the words ask for, as far as that can be seen (`asked`); of those
    the largest group that wrote and returned the same, in it the largest that left the same names behind; of those the earliest,
    which is the model's own first choice.
    """
    if not executions:
        raise ValueError("no candidates to choose from")
    sound = [index for index, execution in enumerate(executions) if execution.status == "ok"]
    said = Counter(_said(executions[index]) for index in sound)
    left = Counter((_said(executions[index]), _left(executions[index])) for index in sound)

    def votes(index: int) -> tuple[int, int, int]:
        execution = executions[index]
        return asked(execution, text), said[_said(execution)], left[_said(execution), _left(execution)]

    return max(sound, key=votes, default=0)


def asked(execution: Execution, text: str) -> int:
    """Count what a turn's words ask for, as far as that can be seen, that an execution did.

    It shows something where they want to see it, it does anything at all, and it binds a name that they put in quotes.
    """
    shows = bool(execution.stdout.strip() or execution.value)
    changed = {change.name for change in execution.changes}
    quoted = set(_QUOTED.findall(text))
    return (shows or not _SHOWING.search(text)) + (shows or bool(changed)) + (not quoted or bool(quoted & changed) or shows)


def _said(execution: Execution) -> tuple[str, str]:
    # The repr of the typed value, since plain data may not be hashable.
    value = execution.value if execution.typed_value is None else repr(execution.typed_value)
    return execution.stdout.rstrip(), value or ""


def _left(execution: Execution) -> frozenset[tuple[str, str, str]]:
    return frozenset((change.kind, change.name, change.summary) for change in execution.changes)
