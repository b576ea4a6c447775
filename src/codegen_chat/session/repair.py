"""A session's file, looked through and made whole again as far as that can be done with certainty, or told of where not.

* A line whose checksum does not hold is whole again if one bit set right makes it hold, or if only white space was put around it
  (line ends of another system). 64 bits of checksum let nothing else pass.
* A turn that builds on a lost one goes on from the last turn before it that is left: what then does not run any more, resuming
  says. An undo or redo to a lost turn is left out.
* A lost header is made anew from the file's name.

Kinds of events that this version does not know stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from codegen_chat.errors import SessionError
from codegen_chat.session.log import VERSION, Event, Log, checked, content, held

_LONGEST = 1 << 14
"""Bytes of a line in which a flipped bit is looked for: a few seconds."""


@dataclass(frozen=True, slots=True)
class Mended:
    """A file's header and events, and what is wrong with it, a line each: none for a sound file."""

    header: Event
    events: tuple[Event, ...]
    wrong: tuple[str, ...]


def mend(data: bytes, name: str) -> Mended:
    """Mend a file's bytes; `name` is its session's id. Raises SessionError where no line of it is whole."""
    wrong: list[str] = []
    found = list(_lines(data, wrong))
    if not found:
        raise SessionError(f"{name} is no session: no line of it is whole")
    if "v" in found[0]:
        header, *events = found
    else:
        wrong.append("the header is lost: made anew, without the model's name")
        header, events = {"v": VERSION, "id": name, "time": str(found[0].get("time", ""))}, found
    if header["v"] != VERSION:
        raise SessionError(f"{name} has version {header['v']!r}, this one reads {VERSION}: install a newer codegen-chat")
    return Mended(header, tuple(_rooted(events, wrong)), tuple(wrong))


def examine(path: Path) -> tuple[str, ...]:
    """Say what is wrong with a session's file, which stays as it is. Raises SessionError where it is none."""
    return mend(content(path), path.stem).wrong


def repair(path: Path) -> tuple[str, ...]:
    """Mend a session's file. Returns what was wrong with it; the old file is kept beside it under another name.

    Raises SessionError where it is in use, cannot be written, or holds nothing.
    """
    with held(path):
        mended = mend(content(path), path.stem)
        if not mended.wrong:
            return ()
        fresh = path.with_suffix(".mended")
        try:
            fresh.unlink(missing_ok=True)
            with Log.create(fresh, _unsealed(mended.header)) as log:
                for event in mended.events:
                    log.append(_unsealed(event), sync=event is mended.events[-1])
            kept = _keep(path)
            fresh.replace(path)
        finally:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
    return (*mended.wrong, f"the file as it was is {kept.name}")


def _lines(data: bytes, wrong: list[str]) -> Iterator[Event]:
    """Yield the lines that are whole, or made so."""
    previous: str | None = None
    gap = False
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        event = checked(line)
        if event is None and line.strip():
            event = _mended(line)
            wrong.append(f"line {number} is damaged, and lost" if event is None else f"line {number} is damaged, and whole again")
        if event is None:
            gap = gap or bool(line.strip())
            continue
        if previous is not None and not gap and event.get("previous") != previous:
            wrong.append(f"lines before line {number} are lost")
        previous, gap = event["checksum"], False
        yield event


def _mended(line: bytes) -> Event | None:
    """Return what a damaged line said, if it is certain."""
    stripped = line.strip()
    event = checked(stripped)
    if event is not None or len(stripped) > _LONGEST:
        return event
    flipped = bytearray(stripped)
    for index in range(len(flipped)):
        for bit in range(8):
            flipped[index] ^= 1 << bit
            event = checked(bytes(flipped))
            if event is not None:
                return event
            flipped[index] ^= 1 << bit
    return None


def _rooted(events: Iterable[Event], wrong: list[str]) -> Iterator[Event]:
    """Yield the events, those that build on a lost turn built on what is left."""
    known: set[object] = {None}
    head: object = None
    for event in events:
        rooted = event
        if event.get("type") == "turn":
            if event.get("parent") not in known:
                wrong.append(f"turn {event['id']} builds on a lost one: it goes on from {head or 'the beginning'}")
                rooted = {**event, "parent": head}
            known |= {event["id"], *(rival.get("id") for rival in event.get("rivals", ()))}
            turn = event.get("turn")
            head = event["id"] if isinstance(turn, dict) and turn.get("accepted") else head
        elif "head" in event:
            if event["head"] not in known:
                wrong.append(f"an {event.get('type')} to the lost turn {event['head']} is left out")
                continue
            head = event["head"]
        yield rooted


def _unsealed(event: Event) -> Event:
    return {key: value for key, value in event.items() if key not in {"v", "checksum", "previous"}}


def _keep(path: Path) -> Path:
    """Give the damaged file one more name, one that no list of sessions shows."""
    number = 1
    while True:
        kept = path.with_name(f"{path.name}.damaged{number}")
        try:
            os.link(path, kept)
        except FileExistsError:
            number += 1
        else:
            return kept
