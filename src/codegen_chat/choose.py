"""Which of several executed candidates to keep, without knowing the answer: results vote, the turn's words have a say.

Rules in a fixed order; the first one in which two candidates differ decides between them.

| rule | asks |
|---|---|
| runs | did it run without error? |
| examples | of the examples in the turn's words, such as `square(3) is 9`, how many hold? |
| asked | how much of what the words plainly ask for did it leave undone? |
| agree | how many candidates wrote and returned the same? |
| leave | how many of those left the same names behind? |
| likely | how likely did the model find it? |

What each is worth on the dev set, benchmarks/choosing.py measures by taking it out; docs/log.md has the figures.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from codegen_chat.turn import Execution

Rule = Literal["runs", "examples", "asked", "agree", "leave", "likely"]

RULES: tuple[Rule, ...] = ("runs", "examples", "asked", "agree", "leave", "likely")

_CALL = r"[A-Za-z_]\w*\((?:[^()\n]|\([^()\n]*\))*\)"
_LITERAL = (
    r"-?\d+(?:\.\d+)?(?![\w.]*\w)|'[^'\n]*'|\"[^\"\n]*\"|True|False|None"
    r"|\[(?:[^\[\]\n]|\[[^\[\]\n]*\])*\]|\((?:[^()\n]|\([^()\n]*\))*\)|\{[^{}\n]*\}"
)
_MEANS = r"(?:==?|[-=]>|→|(?:(?:should|must|will|would)\s+)?(?:be|is|returns?|gives?|equals?|yields?)(?:\s+(?:equal\s+)?to)?)"
_EXAMPLE = re.compile(rf"`?({_CALL})`?,?\s*{_MEANS}:?\s*`?({_LITERAL})|>>>\s*({_CALL})\s*\n\s*({_LITERAL})")


@dataclass(frozen=True, slots=True)
class Ran:
    """A candidate that has run.

    `count` is how many candidates wrote the same program, `examples` how many of those in the words hold in its state, `missed`
    how much of what the words plainly ask for it did not do (`wishes`).
    """

    execution: Execution
    logprob: float = 0.0
    count: int = 1
    examples: int = 0
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """The index of the candidate to keep, and in a few words why."""

    index: int
    reason: str


def choose(candidates: Sequence[Ran], rules: Sequence[Rule] = RULES) -> Choice:
    """Return the best candidate by these rules; where none tells two apart, the earlier, the model's own first choice.

    Raises ValueError where there is none to choose from.
    """
    if not candidates:
        raise ValueError("no candidates to choose from")
    if "runs" in rules and all(candidate.execution.status != "ok" for candidate in candidates):
        return Choice(0, "none of them ran")
    said: Counter[object] = Counter()
    left: Counter[object] = Counter()
    for candidate in candidates:
        said[_said(candidate.execution)] += candidate.count
        left[_left(candidate.execution)] += candidate.count
    scores = [
        {
            "runs": candidate.execution.status == "ok",
            "examples": candidate.examples,
            "asked": -candidate.missed,
            "agree": said[_said(candidate.execution)],
            "leave": left[_left(candidate.execution)],
            "likely": candidate.logprob,
        }
        for candidate in candidates
    ]

    def rank(index: int) -> tuple[float, ...]:
        return tuple(scores[index][rule] for rule in rules)

    def known(candidate: Ran) -> object:
        return _left(candidate.execution), candidate.examples, candidate.missed

    best = max(range(len(candidates)), key=rank)
    total = sum(candidate.count for candidate in candidates)
    if len(candidates) == 1:
        return Choice(best, f"all {total} wrote the same program" if total > 1 else "no other ran")
    others = [index for index, other in enumerate(candidates) if known(other) != known(candidates[best])]
    if not others:  # functions may differ all the same: nobody has called them
        return Choice(best, f"no result tells the {total} apart")
    second = rank(max(others, key=rank))
    decided = next((rule for rule, mine, other in zip(rules, rank(best), second, strict=True) if mine != other), None)
    words = {
        "runs": "the others failed",
        "examples": "the examples in the words hold",
        "asked": "it does what the words ask",
        "agree": f"{scores[best]['agree']} of {total} gave the same",
        "leave": f"{scores[best]['leave']} of {total} left the same names",
        "likely": "it is the likeliest",
    }
    return Choice(best, words[decided] if decided else "it came first")


def examples(text: str) -> list[str]:
    """Return the examples in a turn's words as expressions that should hold: `square(3) returns 9` is `square(3) == (9)`."""
    return list(_examples(text))


def _examples(text: str) -> Iterator[str]:
    for found in _EXAMPLE.finditer(text):
        call, literal = found[1] or found[3], found[2] or found[4]
        try:
            ast.parse(call, mode="eval")
            ast.literal_eval(literal)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        yield f"{call} == ({literal})"


def normal(code: str) -> str:
    """Return what two programs share that differ in comments, blanks and quotes only."""
    try:
        return ast.dump(ast.parse(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code.strip()


def _said(execution: Execution) -> object:
    # The repr of the typed value, since plain data may not be hashable.
    value = execution.value if execution.typed_value is None else repr(execution.typed_value)
    return execution.status, execution.stdout.rstrip(), value or ""


def _left(execution: Execution) -> object:
    return _said(execution), frozenset((change.kind, change.name, change.summary) for change in execution.changes)
