"""Turns to prompt text, and a model's text back to code. Pure functions, standard library only.

A conversation is one Python file that grows: the reference's `HEADER`, then for each turn its words as a comment, the code that
answers them, and an empty line. `render` writes that text for training and for use, so that the two cannot drift apart.
Where a completion ends is a `Stop`: data (`Mark`) for one cutter, which serves the stream and the log.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from codegen_chat.errors import ContextWindowExceeded
from codegen_chat.turn import Stop, Turn

HEADER = "# Import libraries.\n\nimport numpy as np\n\n"
END_OF_TEXT = "<|endoftext|>"


# ---------------------------------------------------------------- turns to text


def comment(text: str) -> str:
    """Write a turn's words as comment lines, the last with its newline; no words, no line."""
    return "".join(f"# {line}".rstrip() + "\n" for line in text.strip().splitlines())


def block(text: str, code: str) -> str:
    """Write one whole turn: words, code, an empty line. A turn without words is the person's own code alone."""
    return f"{comment(text)}{code.rstrip()}\n\n"


def render(turns: Sequence[Turn], text: str = "") -> str:
    """Write the prompt that asks for `text` after these turns; without a text, the conversation as it stands."""
    return HEADER + "".join(block(turn.text, turn.code) for turn in turns) + comment(text)


# ---------------------------------------------------------------- text to code


@dataclass(frozen=True, slots=True)
class Mark:
    """A literal before which a completion is cut: anywhere or only where a line starts, at its nth occurrence."""

    literal: str
    line_start: bool = False
    nth: int = 1


def stop_at(*marks: Mark) -> Stop:
    """Make a cutter that ends a text before the mark that is the first to be complete.

    What could still become a mark is held back, so nothing is shown that a later cut would take away. When a text ends without
    a mark, whatever was held back belongs to it.
    """
    if any(not mark.literal for mark in marks):
        raise ValueError("a stop string cannot be empty")

    def stop(text: str) -> tuple[int, bool]:
        complete = [found for mark in marks if (found := _find(text, mark))]
        if complete:
            return min(complete)[1], True
        return min((_begun(text, mark) for mark in marks), default=len(text)), False

    return stop


def _anchored(text: str, mark: Mark) -> tuple[str, str]:
    # A line starts after a newline, so with one more in front, `^literal` is a plain string; a match at i then keeps text[:i].
    return ("\n" + text, "\n" + mark.literal) if mark.line_start else (text, mark.literal)


def _find(text: str, mark: Mark) -> tuple[int, int] | None:
    """Return the end and the start of the mark's nth occurrence."""
    where, what = _anchored(text, mark)
    start = -1
    for _ in range(mark.nth):
        start = where.find(what, start + 1)
        if start < 0:
            return None
    return start + len(mark.literal), start


def _begun(text: str, mark: Mark) -> int:
    """Return where the text's tail starts that more text could make the mark; the text's length where there is none."""
    where, what = _anchored(text, mark)
    if where.count(what) < mark.nth - 1:
        return len(text)
    for size in range(min(len(what) - 1, len(where)), 0, -1):
        if where.endswith(what[:size]):
            return len(where) - size
    return len(text)


def stop_strings(*strings: str) -> Stop:
    """Make a cutter that ends a text before the first of these strings."""
    return stop_at(*(Mark(string) for string in strings))


_CONVERSATION = (
    Mark("#", line_start=True),
    Mark("'''", line_start=True),
    Mark('"""', line_start=True),
    Mark(END_OF_TEXT),
    Mark("\n\n\n"),
)

conversation_stop: Stop = stop_at(*_CONVERSATION)
"""Ends a turn's code: the next words, a docstring out of place, the end of text, two empty lines."""

mtpb_stop: Stop = stop_at(*_CONVERSATION, Mark("print", line_start=True, nth=2), Mark("def", line_start=True, nth=2))
"""The reference's rules for MTPB: prefix matches, so `printer = 1` counts as a print."""


def uncommented_stop(text: str) -> tuple[int, bool]:
    """Cut as `conversation_stop` does, but let the text begin with comment lines."""
    start = 0
    while text.startswith("#", start):
        newline = text.find("\n", start)
        if newline < 0:
            return len(text), False
        start = newline + 1
    shown, ended = conversation_stop(text[start:])
    return start + shown, ended


def code(completion_text: str) -> str:
    """Tidy the kept text of a completion: no blank lines before it, no white space after it.

    The leading ones go because a newline next to that of the words could share a token with it.
    """
    lines = completion_text.rstrip().splitlines(keepends=True)
    while lines and not lines[0].strip():
        del lines[0]
    return "".join(lines)


# ---------------------------------------------------------------- the window


@dataclass(frozen=True, slots=True)
class Fit:
    """A prompt that fits the window. `evicted` names the turns left out of it, `newly` those left out for this prompt's sake."""

    prompt_text: str
    evicted: tuple[str, ...]
    tokens: int
    newly: tuple[str, ...] = ()


def fit(turns: Sequence[Turn], text: str, count: Callable[[str], int], window: int, max_new_tokens: int) -> Fit:
    """Render the prompt, without the oldest turns where all of them would not leave room for `max_new_tokens`.

    Dropping a turn makes the cache behind it worthless, so once the room is gone, whole turns go until half of it is free, and
    the prompts of many turns to come begin alike. What earlier prompts had dropped follows from the turns alone: nothing is
    remembered, and an undo brings turns back. Raises ContextWindowExceeded where the words alone leave no room.
    """
    room = window - max_new_tokens
    whole = render(turns, text)
    tokens = count(whole)
    if tokens <= room:
        return Fit(whole, (), tokens)

    sizes = [count(block(turn.text, turn.code)) for turn in turns]
    asks = [*(count(comment(turn.text)) for turn in turns), count(comment(text))]
    first = before = 0
    used = count(HEADER)
    for index, ask in enumerate(asks):
        before = first
        if used + ask > room:
            while first < index and used + ask > room // 2:
                used -= sizes[first]
                first += 1
        if index < len(turns):
            used += sizes[index]

    while (tokens := count(prompt_text := render(turns[first:], text))) > room:  # blocks may not tokenize quite independently
        if first == len(turns):
            raise ContextWindowExceeded(
                f"the words need {tokens} tokens and the answer {max_new_tokens}, the window has {window}: shorten the words"
            )
        first += 1
    names = tuple(turn.id for turn in turns[:first])
    return Fit(prompt_text, names, tokens, names[before:])
