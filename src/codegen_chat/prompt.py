"""Turns to prompt text, and a model's text back to code. Pure functions, standard library only.

A conversation is one Python file that grows: the reference's `HEADER`, then for each turn its words as a comment, the code that
answers them, and an empty line. `render` writes that text for training and for use, so that the two cannot drift apart.
Where a completion ends is a `Stop`: data (`Mark`) for one cutter, which serves the stream and the log.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal

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


def ask(text: str, remarks: Sequence[str] = (), given: str = "") -> str:
    """Write what asks for a turn: remarks, its words, and first lines of the code, which the model goes on with.

    The words stand next to the code, as they do without remarks: a small model is thrown off by anything between.
    """
    return "".join(map(comment, remarks)) + comment(_plain(text, remarks)) + given.rstrip()


def render(turns: Sequence[Turn], text: str = "", remarks: Sequence[str] = (), given: str = "") -> str:
    """Write the prompt that asks for `text` after these turns; without a text, the conversation as it stands.

    Remarks are for the answer to their own turn: later a value may be another, and an error is mended.
    """
    return HEADER + "".join(map(_block, turns)) + ask(text, remarks, given)


def _block(turn: Turn) -> str:
    return block(_plain(turn.text, turn.remarks), turn.code)


def _plain(text: str, remarks: Sequence[str]) -> str:
    """Return words in which a name that a remark tells of has lost the `@` that asked for it."""
    told = {remark.partition(":")[0] for remark in remarks}
    return _MENTION.sub(lambda found: found[1] if found[1] in told else found[0], text)


def mentioned(text: str) -> tuple[str, ...]:
    """Return the names that words ask the values of, by `@name`."""
    return tuple(dict.fromkeys(_MENTION.findall(text)))


_MENTION = re.compile(r"(?<![\w@.])@([A-Za-z_]\w*)")


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


def continuing(stop: Stop) -> Stop:
    """Cut a text that goes on in the middle of a line, as code does whose first lines are given: it does not start a line."""

    def cut(text: str) -> tuple[int, bool]:
        shown, ended = stop(f" {text}")
        return max(shown - 1, 0), ended

    return cut


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


def fit(
    turns: Sequence[Turn],
    text: str,
    count: Callable[[str], int],
    window: int,
    max_new_tokens: int,
    *,
    pinned: Collection[str] = (),
    remarks: Sequence[str] = (),
    given: str = "",
) -> Fit:
    """Render the prompt, without the oldest turns where all of them would not leave room for `max_new_tokens`.

    Dropping a turn makes the cache behind it worthless, so once the room is gone, whole turns go until half of it is free, and
    the prompts of many turns to come begin alike. What earlier prompts had dropped follows from the turns alone: nothing is
    remembered, and an undo brings turns back. Turns whose ids are `pinned` stay. Raises ContextWindowExceeded where the words
    and what is pinned leave no room.
    """
    room = window - max_new_tokens
    whole = render(turns, text, remarks, given)
    tokens = count(whole)
    if tokens <= room:
        return Fit(whole, (), tokens)

    sizes = [count(_block(turn)) for turn in turns]
    asks = [*(count(ask(turn.text, turn.remarks, turn.given)) for turn in turns), count(ask(text, remarks, given))]
    going = [index for index, turn in enumerate(turns) if turn.id not in pinned]
    gone = before = 0
    used = count(HEADER)
    for index, asked in enumerate(asks):
        before = gone
        if used + asked > room:
            while gone < len(going) and going[gone] < index and used + asked > room // 2:
                used -= sizes[going[gone]]
                gone += 1
        if index < len(turns):
            used += sizes[index]

    while True:  # blocks may not tokenize quite independently
        left = set(going[:gone])
        prompt_text = render([turn for index, turn in enumerate(turns) if index not in left], text, remarks, given)
        tokens = count(prompt_text)
        if tokens <= room:
            break
        if gone == len(going):
            kept = "the words" if len(going) == len(turns) else "the words and what is pinned"
            raise ContextWindowExceeded(
                f"{kept} need {tokens} tokens and the answer {max_new_tokens}, the window has {window}: "
                + ("shorten the words" if len(going) == len(turns) else "/pin N lets a turn go")
            )
        gone += 1
    names = tuple(turns[index].id for index in going[:gone])
    return Fit(prompt_text, names, tokens, names[before:])


Fate = Literal["seen", "next", "pinned", "evicted", "hidden"]


@dataclass(frozen=True, slots=True)
class Window:
    """How the window is filled: tokens of the whole, of the room kept for an answer, of the prompt's beginning, of each turn.

    A turn's fate: the model sees it ("seen"), and it will be evicted as soon as the room is gone ("next") or never ("pinned");
    or it does not see it: "evicted", or "hidden" by the person.
    """

    size: int
    answer: int
    header: int
    turns: tuple[tuple[Turn, int, Fate], ...]

    @property
    def used(self) -> int:
        """Tokens of the prompt, its parts counted one by one."""
        return self.header + sum(tokens for _, tokens, fate in self.turns if fate not in {"evicted", "hidden"})


def plan(
    turns: Sequence[Turn],
    count: Callable[[str], int],
    window: int,
    max_new_tokens: int,
    *,
    pinned: Collection[str] = (),
    hidden: Collection[str] = (),
) -> Window:
    """Say what of a conversation is in the window, and what goes next. Raises as `fit`."""
    shown = [turn for turn in turns if turn.id not in hidden]
    evicted = fit(shown, "", count, window, max_new_tokens, pinned=pinned).evicted
    sizes = {turn.id: count(_block(turn)) for turn in turns}
    excess = (window - max_new_tokens + 1) // 2
    fates: dict[str, Fate] = {}
    fates.update(dict.fromkeys(hidden, "hidden"))
    fates.update(dict.fromkeys(evicted, "evicted"))
    for turn in shown:
        if turn.id in pinned:
            fates[turn.id] = "pinned"
        elif turn.id not in fates:
            fates[turn.id] = "next" if excess > 0 else "seen"
            excess -= sizes[turn.id]
    return Window(window, max_new_tokens, count(HEADER), tuple((turn, sizes[turn.id], fates[turn.id]) for turn in turns))
