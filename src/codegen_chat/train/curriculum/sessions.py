"""Whole conversations, made turn by turn against a live namespace: a turn is kept only when its code runs.

A session opens with literals, goes on with operations on what is alive, functions defined and called, and stories. The
namespace is real: every program was executed while it was made, in this process (the grammar is ours, nothing of it is hostile).
"""

from __future__ import annotations

import contextlib
import random
import re
import tempfile
import warnings
from collections.abc import Iterator
from random import Random

import numpy as np

from codegen_chat.train.curriculum.grammar import Operation, read_combined, read_operations, read_stories, usable
from codegen_chat.train.curriculum.state import State, Step
from codegen_chat.train.curriculum.story import tell
from codegen_chat.train.curriculum.turns import assign, bring, call, define, empty, literal_kind, operate, several, show, span

TOGETHER = 0.12
"""How often two turns are asked for in one."""


class Curriculum:
    """The grammar, read once; `session(seed)` makes one conversation, the same for the same seed."""

    def __init__(self) -> None:
        self.tables = (read_operations(), read_combined())
        self.stories = read_stories()
        self.by_kind: dict[tuple[int, str], list[Operation]] = {}

    def draw(self, r: Random, kind: str | None = None) -> Operation | None:
        """Draw an operation, evenly within the tables (7 in 10) or the combined ones; of a type, where one is given."""
        which = int(r.random() > 0.7)
        found = self.by_kind.get((which, kind or ""))
        if found is None:
            table = self.tables[which]
            found = usable(table, kind) if kind else [operation for operation in table if operation.given]
            self.by_kind[which, kind or ""] = found
        return r.choice(found) if found else None

    def session(self, seed: int) -> list[Step]:
        """Make one conversation of 1 to 9 turns."""
        r = Random(seed)
        random.seed(seed)  # for programs that draw numbers themselves
        np.random.seed(seed % 2**32)  # noqa: NPY002 - the same
        state = State(r, style=r.random())
        turns = r.choice((2, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6, 7, 8, 9))
        if r.random() < 0.55 and self.stories:
            if r.random() < 0.25:
                self.opening(state)
            tell(state, r.choice(self.stories))
            if r.random() < 0.2:  # another matter, with what the first left behind still there
                tell(state, r.choice(self.stories))
            turns = min(turns, len(state.steps) + r.choice((0, 0, 0, 1, 2)))
        else:
            self.opening(state)
        for _ in range(3 * turns):
            if len(state.steps) >= turns:
                break
            before = len(state.steps)
            self.extend(state)
            if 0 < before < len(state.steps) and r.random() < TOGETHER:
                state.steps[-2:] = [together(state.steps[-2], state.steps[-1], r)]
        return state.steps

    def sessions(self, seed: int) -> Iterator[list[Step]]:
        """Make conversations without end; of one seed always the same."""
        r = Random(seed)
        with tempfile.TemporaryDirectory(prefix="curriculum-") as folder:  # some of the programs write pictures
            while True:
                with warnings.catch_warnings(action="ignore"), contextlib.chdir(folder):
                    steps = self.session(r.getrandbits(62))
                if steps:
                    yield steps

    def opening(self, state: State) -> None:
        """Begin with a literal that some operation, drawn evenly, can take; or with several, an import, a range, nothing."""
        draw = state.r.random()
        if draw < 0.06:
            bring(state)
        elif draw < 0.2:
            several(state)
            return
        elif draw < 0.26:
            span(state)
            return
        elif draw < 0.3:
            empty(state)
            return
        for _ in range(5):
            operation = self.draw(state.r)
            if operation is None or not assign(state, literal_kind(state.r, operation.given or "str")):
                continue
            if state.r.random() < 0.25:
                assign(
                    state,
                    literal_kind(state.r, state.r.choice(("str", "int", "ints", "strs", "small", operation.given or "str"))),
                )
            if state.r.random() < 0.85:
                operate(state, operation, state.variables[0])
            return

    def extend(self, state: State) -> None:
        """Add one turn: mostly an operation on what is alive."""
        r, draw = state.r, state.r.random()
        if draw < 0.015:
            bring(state)
        elif draw < 0.035:
            several(state)
        elif draw < 0.05:
            span(state)
        elif not state.variables or draw < 0.08:
            assign(state, literal_kind(r, r.choice(("str", "int", "ints", "strs", "float", "dict", "list", "num"))))
        elif draw < 0.12:
            show(state)
        elif draw < 0.18:
            if operation := self.draw(r):
                define(state, operation)
        elif draw < 0.32 and state.functions:
            call(state)
        else:
            variable = state.variables[-1] if r.random() < 0.6 else r.choice(state.variables)
            if operation := self.draw(r, variable.kind):
                operate(state, operation, variable)


def together(one: Step, two: Step, r: Random) -> Step:
    """Ask for two turns in one."""
    joint = r.choice((", then ", " and ", " and then ", ". ", ", and ", "; "))
    rest = two.words if joint == ". " or re.match(r"[A-Z](?![a-z])", two.words) else two.words[:1].lower() + two.words[1:]
    return Step(f"{one.words.rstrip('.?')}{joint}{rest}", f"{one.code}\n{two.code}")
