"""Attention on the terminal: a heat map with a row for each token, and how far the last turn's code looks back.

A cell is a token's weight on another (or on the strongest of several, where the line has not room for all), from none to the most
of its row. What a token may not attend to, because it comes later, stays empty. Without colour the cells are shades of grey in
characters; plain output says the strongest in words.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import set_cell_size
from rich.style import Style
from rich.text import Text

from codegen_chat.attention.files import write
from codegen_chat.terminal.printing import visible
from codegen_chat.terminal.screen import Screen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from codegen_chat.attention.record import Attention, Part

ROWS = 48
"""Rows shown of a longer text, the last ones."""

SHADES = "·░▒▓█"
COLOURS = ("#1f2a44", "#2b4a7d", "#2f77a8", "#39a59c", "#8fce6b", "#f7e35a")
"""From no weight to the most of a row: dark to light, so that they also differ without hue."""

_LABEL, _TOLD = 16, 24


def command(screen: Screen, look: Callable[[int | None], Attention], argument: str) -> None:
    """Act on `/attention [K] [FILE]`: draw it, or write it to a file. Raises UsageError."""
    first, _, rest = argument.partition(" ")
    number = int(first) if first.isdecimal() else None
    name = (argument if number is None else rest).strip()
    screen.note("looking ...")
    attention = look(number)
    if name:
        write(attention, Path(name).expanduser())
        screen.note(f"wrote {name}")
    else:
        draw(screen, attention)


def draw(screen: Screen, attention: Attention, layer: int | None = None, head: int | None = None) -> None:
    """Draw the weights of one head, or an average. Raises UsageError for a layer or a head that there is not."""
    weights = attention.mean(layer, head)
    layers, heads = attention.weights.shape[:2]
    which = ("the average of all layers" if layer is None else f"layer {layer}") + (
        " and heads" if head is None else f", head {head}"
    )
    screen.note(f"{attention.model}, {len(attention.tokens)} tokens, {layers} layers of {heads} heads; {which}")
    last = attention.parts[-1]
    rows = _rows(attention, last)
    if screen.plain:
        for row in rows:
            screen.say(f"{row} {label(attention.tokens[row])}: " + ", ".join(_strongest(attention, weights[row], 3)))
    else:
        _map(screen, attention, weights, rows)
    if len(attention.parts) > 1:
        _look_back(screen, attention, weights, last)


def label(token: str) -> str:
    """Return a token on one line, its spaces and line ends visible."""
    return visible(token).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "␣")


def _rows(attention: Attention, last: Part) -> range:
    """Return the tokens that get a row: of a conversation those that predict the last turn's code, of other texts all."""
    asking = last.asking if len(attention.parts) > 1 else slice(0, len(attention.tokens))
    return range(max(asking.start, asking.stop - ROWS), asking.stop)


def _strongest(attention: Attention, row: NDArray[np.float32], count: int) -> list[str]:
    """Name the tokens that get most of a row."""
    order = np.argsort(-row, kind="stable")[:count]
    return [f"{label(attention.tokens[i])} ({i}) {row[i]:.0%}" for i in order if row[i] > 0]


def _map(screen: Screen, attention: Attention, weights: NDArray[np.float32], rows: range) -> None:
    """Draw the heat map, and above it where the parts begin."""
    count = len(attention.tokens)
    room = max(10, screen.console.width - 5 - _LABEL - _TOLD)
    each = -(-count // room)  # tokens of a cell
    begins = np.arange(0, count, each)
    ruler = [" "] * len(begins)
    for part in attention.parts if len(attention.parts) > 1 else ():
        for place, letter in enumerate("│" + part.name, part.start // each):
            if place < min(-(-part.end // each), len(ruler)):
                ruler[place] = letter
    screen.say(" " * (5 + _LABEL) + "".join(ruler), "dim")
    for row in rows:
        line = Text().append(f"{row:>4} ", "dim")
        line.append(set_cell_size(label(attention.tokens[row]), _LABEL))
        cells = np.maximum.reduceat(weights[row], begins)
        scale = np.sqrt(cells / cells.max())  # small weights show too
        for place, value in enumerate(scale):
            if begins[place] > row:  # the mask
                line.append(" ")
            elif screen.console.color_system:
                line.append(" ", Style(bgcolor=COLOURS[round(float(value) * (len(COLOURS) - 1))]))
            else:
                line.append(SHADES[round(float(value) * (len(SHADES) - 1))])
        line.append(f" {_strongest(attention, weights[row], 1)[0]}", "dim")
        screen.console.print(line)
    if each > 1:
        screen.note(f"a cell is the strongest of {each} tokens")


def _look_back(screen: Screen, attention: Attention, weights: NDArray[np.float32], last: Part) -> None:
    """Say how the tokens of the last part shared out their attention while they were predicted."""
    screen.note(f"how far {last.name} looks back, while it is written:")
    width = max(len(part.name) for part in attention.parts)
    for part, share in zip(attention.parts, attention.back(last, weights), strict=True):
        bar = "" if screen.plain else "█" * round(float(share) * 40)
        screen.say(f"  {part.name:<{width}} {share:>6.1%} {bar}".rstrip())
