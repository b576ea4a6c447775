"""A session's turns and its head, kept in a log; and the sessions of a folder.

Turns form a tree: each names its parent. The branch that counts runs from the head back to the root; undo and redo move the head
and append that they did. One function, `_apply`, reads an event, whether it comes from a file or happens now, so a resumed
session is the session that was left. The kinds of events:

    turn    id, parent: the turn's own; `turn` its record (records.py). An accepted one becomes the head.
            `rivals`: records of the candidates drawn with it, each with its id; `place` where among them it stands
    undo    parent: the head that was left; `head` where it went
    redo    the same, forward again
    go      `head` where it went: to a turn of another branch, or to a rival, which so becomes one
    mark    `turn` is `hidden` or `pinned` (`mark`), or no longer (`on`)
    begin   `turn` the id of a candidate that the model starts to write, its `text` (the words), `seed` and `given` first lines
    piece   `turn`, and a `text` that it wrote
    facts   `facts` that replace those of the header (a session that goes on with another model)

A kind that is not here is kept in the file and skipped. Where the file cannot be written (a full disk), the session goes on in
memory: `trouble` says why, and what waits is written, in order, as soon as the file takes it again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from codegen_chat.errors import SessionError
from codegen_chat.session.log import Event, Log, new_id, now, read, recover, remove
from codegen_chat.session.records import turn_from_json, turn_to_json
from codegen_chat.turn import Completion, Turn

__all__ = ["History", "Summary", "find", "new_id", "newest", "remove", "sessions"]


_STREAMED = {"begin", "piece"}


class History:
    """The tree of turns and its head. Made by `create`, `open`, `read` or `memory`; usable as a context manager.

    Attributes:
        id: the session's name.
        path: its file; None where it lives in memory only.
        header: what was recorded of model, revision, dtype, device and the like.
        changed: time of the last event, ISO 8601 (UTC).
        head: id of the last accepted turn of the branch, None at the root.
        hidden, pinned: ids of turns that the prompt leaves out, and of those that the window never evicts.
        dropped: what recovery could not keep, a line each; empty for a sound file.
        trouble: why the file lags behind this history, None while it does not.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        events: Sequence[Event] = (),
        dropped: tuple[str, ...] = (),
        *,
        path: Path | None = None,
        log: Log | None = None,
    ) -> None:
        self.path = path
        self.header = {key: value for key, value in header.items() if key not in {"v", "checksum"}}
        self.id = str(self.header.get("id") or (path.stem if path else new_id()))
        self.changed = str(self.header.get("time", ""))
        self.head: str | None = None
        self.hidden: set[str] = set()
        self.pinned: set[str] = set()
        self.dropped = dropped
        self.trouble: str | None = None
        self._log = log
        self._waiting: deque[Event] = deque()
        self._turns: dict[str, Turn] = {}
        self._rivals: dict[str, tuple[Turn, ...]] = {}
        self._undone: list[str] = []
        self._rooted: set[str | None] = {None}  # turns whose every ancestor is known
        self._drafts: dict[str, _Draft] = {}
        self._seen: set[str] = set()
        for event in events:
            lost = self._apply(event)
            if lost:
                self.dropped += (f"{path or self.id}: {lost}",)

    @classmethod
    def create(cls, folder: Path, header: Mapping[str, Any]) -> Self:
        """Start a session in a folder. Raises SessionError where its file cannot be made."""
        identity = new_id()
        path = folder / f"{identity}.jsonl"
        log = Log.create(path, {"id": identity, **header})
        return cls(log.header, path=path, log=log)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on with a session. Raises SessionError where it is missing, in use, not writable or not a session."""
        log = Log.open(path)
        return cls(log.header, log.events, log.dropped, path=path, log=log)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Look at a session, in use or not; what is appended stays in memory. Raises SessionError."""
        recovered = read(path)
        return cls(recovered.header, recovered.events, recovered.dropped, path=path)

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> Self:
        """Look at the bytes of a session file. Raises SessionError."""
        recovered = recover(data, name)
        return cls(recovered.header, recovered.events, recovered.dropped)

    @classmethod
    def memory(cls, header: Mapping[str, Any] | None = None) -> Self:
        """Start a session without a file."""
        return cls({"time": now(), **(header or {})})

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The accepted branch, oldest first."""
        return self._branch(self.head)

    @property
    def all_turns(self) -> tuple[Turn, ...]:
        """Every turn of the log in the order of time: failed and undone ones too."""
        return tuple(self._turns.values())

    @property
    def branches(self) -> tuple[tuple[Turn, ...], ...]:
        """Every branch of accepted turns, from the root to its end; in the order in which they were begun."""
        inner = {turn.parent for turn in self._turns.values() if turn.accepted}
        ends = (turn.id for turn in self._turns.values() if turn.accepted and turn.id in self._rooted - inner)
        return tuple(map(self._branch, ends))

    def turn(self, identity: str) -> Turn:
        """Return a turn by its id. Raises KeyError."""
        return self._turns[identity]

    def rivals(self, turn: str) -> tuple[Turn, ...]:
        """Return the candidates that were drawn with a turn, itself among them, in their order; or it alone."""
        return self._rivals.get(turn, (self._turns[turn],))

    @property
    def drawn(self) -> tuple[Turn, ...]:
        """Every candidate of the log: all turns, and what was drawn with them."""
        return tuple({rival.id: rival for turn in self._turns for rival in self.rivals(turn)}.values())

    @property
    def transcript(self) -> tuple[Turn, ...]:
        """The accepted branch and, between, the turns that failed on it."""
        branch = {None, *(turn.id for turn in self.turns)}
        return tuple(
            turn
            for turn in self._turns.values()
            if turn.id in branch
            or (turn.parent in branch and not turn.accepted and turn.execution and turn.execution.status != "ok")
        )

    @property
    def unfinished(self) -> tuple[Turn, ...]:
        """What the model had written when the session broke off: candidates that never ran, not accepted."""
        return tuple(
            Turn(
                id=identity,
                parent=draft.parent,
                text=draft.text,
                code=draft.given + draft.code,
                completion=Completion(draft.code, "interrupted", seed=draft.seed),
                accepted=False,
                given=draft.given,
            )
            for identity, draft in self._drafts.items()
            if draft.code
        )

    def append(self, turn: Turn, candidates: Sequence[Turn] = ()) -> None:
        """Record a turn. An accepted one becomes the head, and what was undone before it cannot be redone.

        `candidates` are those that were drawn with it, itself among them; the others may still be gone to (`go`).
        """
        if turn.id in self._turns or turn.parent not in self._rooted:
            raise AssertionError(f"turn {turn.id} is already there, or its parent {turn.parent} is not")
        event: Event = {"type": "turn", "id": turn.id, "parent": turn.parent, "turn": turn_to_json(turn)}
        if len(candidates) > 1:
            event["place"] = [candidate.id for candidate in candidates].index(turn.id)
            event["rivals"] = [{"id": rival.id, **turn_to_json(rival)} for rival in candidates if rival.id != turn.id]
        self._record(event)

    def go(self, head: str | None) -> None:
        """Make a turn of the tree the head, or a rival of one that ran. What was undone before cannot be redone."""
        self._record({"type": "go", "head": head})

    def mark(self, turn: str, mark: str) -> bool:
        """Hide or pin a turn ("hidden", "pinned"), or no longer where it is already. Returns whether it is now."""
        on = turn not in self._marks(mark)
        self._record({"type": "mark", "turn": turn, "mark": mark, "on": on})
        return on

    def undo(self) -> Turn | None:
        """Leave the last accepted turn, which is returned; None at the root."""
        turn = self._turns.get(self.head or "")
        if turn is not None:
            self._record({"type": "undo", "head": turn.parent})
        return turn

    def redo(self) -> Turn | None:
        """Take back the last undo and return its turn; None where there is none."""
        turn = self._turns[self._undone[-1]] if self._undone else None
        if turn is None or turn.parent != self.head:  # only events that are lost can part them
            return None
        self._record({"type": "redo", "head": turn.id})
        return turn

    def begin(self, turn: str, text: str, *, seed: int = 0, given: str = "") -> None:
        """Record that the model starts to write a candidate, which would become the turn of that id."""
        self._record({"type": "begin", "turn": turn, "text": text, "seed": seed, "given": given})

    def stream(self, turn: str, text: str) -> None:
        """Record a piece of a begun candidate. It reaches the file when its line is whole."""
        draft = self._drafts[turn]
        lines, newline, draft.tail = (draft.tail + text).rpartition("\n")
        if newline:
            self._record({"type": "piece", "turn": turn, "text": lines + newline})

    def note(self, facts: Mapping[str, Any]) -> None:
        """Record facts that replace those of the header, where they differ."""
        new = {key: value for key, value in facts.items() if self.header.get(key) != value}
        if new:
            self._record({"type": "facts", "facts": new})

    def close(self) -> None:
        """Write what waits and give the file back; a session in which nothing happened leaves none."""
        if self._log is None:
            return
        self._write()
        if self.path is not None and not (self._log.events or self._waiting or self.dropped):
            self.path.unlink(missing_ok=True)
        self._log.close()
        self._log = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, event: Event) -> None:
        """Let an event happen here, then in the file."""
        event = {"id": new_id(), "parent": self.head, "time": now(), **event}
        lost = self._apply(event)
        if lost:
            raise AssertionError(lost)
        if self._log is not None:
            self._waiting.append(event)
            self._write()

    def _write(self) -> None:
        """Write what waits, the oldest first. A Ctrl-C in between writes an event twice, which `_apply` sees by its id."""
        while self._log is not None and self._waiting:
            try:
                self._log.append(self._waiting[0], sync=self._waiting[0]["type"] not in _STREAMED)
            except SessionError as error:
                self.trouble = f"{error}; the session goes on in memory"
                return
            self._waiting.popleft()
        self.trouble = None

    def _apply(self, event: Event) -> str | None:
        """Let an event change this history. Returns what is lost where it cannot."""
        identity = str(event.get("id"))
        if identity in self._seen:
            return None
        self._seen.add(identity)
        self.changed = str(event.get("time", self.changed))
        try:
            match event.get("type"):
                case "turn":
                    turn = turn_from_json(identity, event["parent"], event["turn"])
                    rivals = [turn_from_json(rival["id"], turn.parent, rival) for rival in event.get("rivals", ())]
                    return self._add(turn, rivals, event.get("place", 0))
                case "go":
                    return self._go(event["head"])
                case "mark" if event["turn"] in self._turns:
                    marked = self._marks(event["mark"])
                    (marked.add if event["on"] else marked.discard)(event["turn"])
                case "undo" | "redo" as kind:
                    return self._move(event["head"], undone=event["parent"] if kind == "undo" else None)
                case "begin":
                    given = event.get("given", "")
                    self._drafts[event["turn"]] = _Draft(event["parent"], event["text"], event["seed"], given)
                case "piece" if event["turn"] in self._drafts:
                    self._drafts[event["turn"]].code += event["text"]
                case "facts":
                    self.header |= event["facts"]
        except (KeyError, TypeError, ValueError, AttributeError):
            return f"event {identity} cannot be read"
        return None

    def _branch(self, end: str | None) -> tuple[Turn, ...]:
        """Return the accepted turns from the root to an end."""
        branch = []
        turn = self._turns.get(end or "")
        while turn is not None:
            if turn.accepted:
                branch.append(turn)
            turn = self._turns.get(turn.parent or "")
        return tuple(reversed(branch))

    def _marks(self, mark: str) -> set[str]:
        return {"hidden": self.hidden, "pinned": self.pinned}[mark]

    def _add(self, turn: Turn, rivals: list[Turn], place: int) -> str | None:
        if rivals:
            group = (*rivals[:place], turn, *rivals[place:])
            self._rivals |= {candidate.id: group for candidate in group}
        self._turns[turn.id] = turn
        self._drafts.clear()
        if turn.parent not in self._rooted:
            return f"turn {turn.id} builds on one that is lost: it stays in the file, off the branch"
        self._rooted.add(turn.id)
        if turn.accepted:
            self.head = turn.id
            self._undone.clear()
        return None

    def _go(self, head: str | None) -> str | None:
        """Move the head anywhere; a rival joins the tree by it."""
        rival = next((turn for turn in self._rivals.get(head or "", ()) if turn.id == head), None)
        if rival and rival.parent in self._rooted:
            self._turns[rival.id] = replace(rival, accepted=True)
            self._rooted.add(rival.id)
        lost = self._move(head)
        if lost is None:
            self._undone.clear()
        return lost

    def _move(self, head: str | None, *, undone: str | None = None) -> str | None:
        """Move the head: back from `undone`, or forward to `head`."""
        self._drafts.clear()
        if head not in self._rooted:
            return f"turn {head} is lost: the branch cannot go there"
        self.head = head
        if undone in self._turns:
            self._undone.append(undone)
        elif head in self._undone:  # what was undone after it was redone by events that are lost
            del self._undone[self._undone.index(head) :]
        return None


@dataclass(slots=True)
class _Draft:
    """A candidate while it is written: whole lines in `code`, the unfinished one in `tail`."""

    parent: str | None
    text: str
    seed: int
    given: str = ""
    code: str = ""
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A session as a list shows it.

    `turns` counts the accepted branch, `title` is the first line of its words (of its code where all of it is the person's own),
    times are ISO 8601 (UTC), `size` is in bytes; `dropped` as in History. `empty` is True where nothing was ever tried.
    """

    id: str
    path: Path
    created: str = ""
    changed: str = ""
    turns: int = 0
    title: str = ""
    model: str = ""
    size: int = 0
    dropped: tuple[str, ...] = ()
    empty: bool = True


def sessions(folder: Path) -> list[Summary]:
    """List a folder's sessions, the one changed last first; one that cannot be read says so in `dropped`."""
    try:
        paths = sorted(path for path in folder.glob("*.jsonl") if path.is_file())
    except OSError as error:
        raise SessionError(f"{folder} cannot be read: {error.strerror}: name another folder by XDG_DATA_HOME") from None
    return sorted(map(_summary, paths), key=lambda summary: summary.changed, reverse=True)


def newest(folder: Path) -> Path:
    """Return the session changed last in which something was tried. Raises SessionError where there is none."""
    for summary in sessions(folder):
        if not summary.empty:
            return summary.path
    raise SessionError(f"there is no session in {folder} yet: `codegen-chat` starts one")


def find(folder: Path, name: str) -> Path:
    """Return the session that `name` means: a .jsonl file, a number of the list (1 is the newest), or the start of an id.

    A number that the list does not have is the start of an id too. Raises SessionError.
    """
    if name.endswith(".jsonl"):
        return Path(name)
    if is_number(name):
        listed = sessions(folder)
        if int(name) <= len(listed):
            return listed[int(name) - 1].path
    paths = [path for path in sorted(folder.glob("*.jsonl")) if name and path.name.startswith(name)]
    exact = folder / f"{name}.jsonl"
    if len(paths) == 1 or exact in paths:
        return exact if exact in paths else paths[0]
    if not paths:
        raise SessionError(f"no session starts with {name!r}: `codegen-chat sessions ls` shows those that are there")
    raise SessionError(f"{len(paths)} sessions start with {name!r}: give more of one of {', '.join(path.stem for path in paths)}")


def is_number(name: str) -> bool:
    """Whether a name is written as a number of the list: digits, and not as many as an id has."""
    return name.isascii() and name.isdecimal() and not name.startswith("0") and len(name) < 5


def _summary(path: Path) -> Summary:
    try:
        history = History.read(path)
    except SessionError as error:
        return Summary(path.stem, path, dropped=(str(error),))
    turns = history.turns
    lines = [line for part in ("text", "code") for turn in turns for line in getattr(turn, part).splitlines() if line.strip()]
    return Summary(
        id=history.id,
        path=path,
        created=str(history.header.get("time", "")),
        changed=history.changed,
        turns=len(turns),
        title=next(iter(lines), "").strip(),
        model=str(history.header.get("model", "")),
        size=path.stat().st_size,
        dropped=history.dropped,
        empty=not (history.all_turns or history.unfinished),
    )
