"""Which of several executed candidates to keep, without knowing the answer: results vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from codegen_chat.turn import Execution


def choose(executions: Sequence[Execution]) -> int:
    """Return the index of the best candidate; raises ValueError where there is none to choose from.

    Those without error come first; of them the largest group that wrote and returned the same, in it the largest that left the
    same names behind; of those the earliest, which is the model's own first choice.
    """
    if not executions:
        raise ValueError("no candidates to choose from")
    sound = [index for index, execution in enumerate(executions) if execution.status == "ok"]
    said = Counter(_said(executions[index]) for index in sound)
    left = Counter((_said(executions[index]), _left(executions[index])) for index in sound)

    def votes(index: int) -> tuple[int, int]:
        execution = executions[index]
        return said[_said(execution)], left[_said(execution), _left(execution)]

    return max(sound, key=votes, default=0)


def _said(execution: Execution) -> tuple[str, str]:
    # The repr of the typed value, since plain data may not be hashable.
    value = execution.value if execution.typed_value is None else repr(execution.typed_value)
    return execution.stdout.rstrip(), value or ""


def _left(execution: Execution) -> frozenset[tuple[str, str, str]]:
    return frozenset((change.kind, change.name, change.summary) for change in execution.changes)
