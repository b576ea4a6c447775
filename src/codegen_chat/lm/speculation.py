"""Speculation: tokens that are likely to come are run ahead, in one run with the token that must be run.

Where they are what is drawn, their logits are there already. Nothing else changes: tokens are drawn one by one from the same
logits, with the same random numbers. Whether it pays depends on the models, the machine and the text, so it is measured, for
each proposer by itself, its own seconds included; and one that does not pay rests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import Protocol

PROPOSED = 4
"""Tokens that are run ahead: five cost a large model little more than one, and longer guesses are seldom right to the end."""

RECENT = 5
"""Runs of a kind, the latest ones, whose median is what such a run costs: one that the machine held up decides nothing."""

FRESH = 32
"""Runs after which what a plain one costs is measured anew: the text grows, and the machine does other things."""

TRUST = 6.0
"""Plain runs that a proposer may lose before it rests, and the most that counts of what it saved: texts change."""

REST = 256
"""Runs that a proposer rests, and twice as many each time that it did not pay again. A trial that fails costs TRUST of them."""


class Proposer(Protocol):
    """Says which tokens may come. It is right or wrong at the cost of time alone."""

    def begin(self) -> None:
        """Take note that another text begins."""
        ...

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return what may follow a text: `most` tokens, fewer or none. It may have been cut and written anew since the last."""
        ...


@dataclass(slots=True)
class _Account:
    """What a proposer has saved of late, in plain runs."""

    proposer: Proposer
    saved: float = 0.0
    resting: int = 0
    """The runs that it still sits out."""
    rest: int = REST
    """How many it sits out the next time."""
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    """What its runs took."""


class Speculation:
    """Asks its proposers, in their order, those that pay. `ran` and `served` tell it whether they do."""

    def __init__(self, *proposers: Proposer) -> None:
        self._accounts = [_Account(proposer) for proposer in proposers]
        self._asked: _Account | None = None  # whose proposal was in the last run
        self._plain: deque[float] = deque(maxlen=RECENT)
        self._since = 0  # runs since the last plain one

    def begin(self) -> None:
        """Begin another text. What was measured stays."""
        for account in self._accounts:
            account.proposer.begin()

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        """Return tokens to run after these, `most` or fewer. `ran` is to be told of the run, with the seconds that this took."""
        self._asked = None
        for account in self._paying() if most > 0 else ():
            found = account.proposer.propose(tokens, min(most, PROPOSED))
            if found:
                self._asked = account
                return found
        return []

    def _paying(self) -> Iterator[_Account]:
        """Yield who is expected to save time, or should be tried."""
        known = len(self._plain) == RECENT and self._since < FRESH
        for account in self._accounts:
            if account.saved <= -TRUST:
                account.saved, account.resting, account.rest = 0.0, account.rest, 2 * account.rest
            account.resting = max(0, account.resting - 1)
            if known and not account.resting:
                yield account

    def ran(self, seconds: float) -> None:
        """Note a run and what it took, with what `propose` took before it."""
        if self._asked is None:
            self._plain.append(seconds)
            self._since = 0
        else:
            self._asked.seconds.append(seconds)
            if len(self._asked.seconds) > 1:  # in its very first one a draft model reads the whole conversation
                self._asked.saved -= median_low(self._asked.seconds) / median_low(self._plain) - 1
            self._since += 1

    def served(self) -> None:
        """Note that a proposed token was drawn: the model need not run for it."""
        if self._asked is not None:
            self._asked.saved = min(self._asked.saved + 1, TRUST)
            if self._asked.saved == TRUST:
                self._asked.rest = REST
