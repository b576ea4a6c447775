"""A session in the making: what lives, and how this person is."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Step:
    """One turn as the model will see it."""

    words: str
    code: str


@dataclass(slots=True)
class Variable:
    """A live name: its type, and how a person may describe it."""

    name: str
    kind: str
    described: tuple[str, ...] = ()


@dataclass(slots=True)
class Function:
    """A function that an earlier turn defined: what it takes, what it returns."""

    name: str
    given: str
    result: str


@dataclass(slots=True)
class State:
    """A session in the making."""

    r: Random
    space: dict[str, Any] = field(default_factory=lambda: {"np": np})
    variables: list[Variable] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    imports: set[str] = field(default_factory=set)
    steps: list[Step] = field(default_factory=list)
    style: float = 0.0

    def named(self, name: str) -> Variable | None:
        """Return the live variable of that name."""
        return next((variable for variable in self.variables if variable.name == name), None)

    def bind(self, name: str, kind: str, described: tuple[str, ...] = ()) -> None:
        """Make a name the latest variable."""
        self.variables = [variable for variable in self.variables if variable.name != name]
        self.variables.append(Variable(name, kind, described))
