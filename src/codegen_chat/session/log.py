"""An append-only file of JSON lines that notices its own damage.

    {"v": 1, "id": ..., "time": ..., ..., "checksum": "91c2..."}
    {"id": ..., "parent": ..., "time": ..., "type": ..., ..., "previous": "91c2...", "checksum": "07ab..."}

The first line is the header, each other one an event. A line's checksum covers all that stands before it on the line, so every
line proves itself; `previous` is the checksum of the line before, so a lost line is seen too. Nothing is ever rewritten: what
follows the last whole line (a torn write) is cut away by the next append, and damage further up stays as it is and is reported.
Lines are ASCII, so that a `cat` of one is harmless. What an event means is history.py's affair; kinds that it does not know
stay in the file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from codegen_chat.errors import SessionError

VERSION = 1
Event = dict[str, Any]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LINE = re.compile(rb'(\{.*), "checksum": "([0-9a-f]{16})"\}', re.DOTALL)


def new_id() -> str:
    """Return a name for a session, a turn or an event: 12 hexadecimal digits, drawn at random."""
    return secrets.token_hex(6)


def now() -> str:
    """Return the time of an event: UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the bytes of a log hold. `size` counts the bytes up to the end of the last whole line, `checksum` is that line's."""

    header: Event
    events: tuple[Event, ...]
    dropped: tuple[str, ...]
    size: int
    checksum: str


def recover(data: bytes, name: str) -> Recovered:
    """Read a log's bytes; `dropped` says, a line each, what could not be kept. Raises SessionError where nothing is a log."""
    *lines, tail = data.split(b"\n")
    size = len(data) - len(tail)
    if checked(tail) is not None:  # only its newline is missing
        lines, size, tail = [*lines, tail], len(data), b""
    found: list[Event] = []
    dropped: list[str] = []
    gap = False
    for number, line in enumerate(lines, 1):
        event = checked(line)
        if event is None:
            dropped.append(f"{name}: line {number} is damaged and left out")
        else:
            if found and not gap and event.get("previous") != found[-1]["checksum"]:
                dropped.append(f"{name}: lines are missing before line {number}")
            found.append(event)
        gap = event is None
    if tail:
        dropped.append(f"{name}: the last line was cut off and is dropped ({len(tail)} bytes)")
    if not found:
        raise SessionError(f"{name} is not a session: it does not start with a whole header line")
    if "v" not in found[0]:
        if not dropped:
            dropped.append(f"{name}: the header is missing")
        return Recovered({"v": VERSION}, tuple(found), tuple(dropped), size, found[-1]["checksum"])
    if found[0]["v"] != VERSION:
        raise SessionError(f"{name} has version {found[0]['v']!r}, this one reads {VERSION}: install a newer codegen-chat")
    return Recovered(found[0], tuple(found[1:]), tuple(dropped), size, found[-1]["checksum"])


def read(path: Path) -> Recovered:
    """Recover a log without locking or changing it. Raises SessionError."""
    return recover(content(path), str(path))


def content(path: Path) -> bytes:
    """Return a log's bytes. Raises SessionError."""
    try:
        _must_be_file(path)
        return path.read_bytes()
    except OSError as error:
        raise _refusal(path, "read", error) from None


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a log, damaged or not, so that nobody else writes it. Raises SessionError, for a failing system call inside too."""
    try:
        _must_be_file(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _lock(path, descriptor)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refusal(path, "changed", error) from None


def remove(path: Path) -> None:
    """Delete a log, damaged or not, and the pictures beside it. Raises SessionError where it is in use or cannot be deleted."""
    with held(path):
        path.unlink()
        shutil.rmtree(path.with_suffix(".files"), ignore_errors=True)


class Log:
    """A locked log, open for appending.

    `header`, `events` and `dropped` are what was recovered, `events` grows with every append. One process at a time may hold a
    log; a second one gets a SessionError. Usable as a context manager.
    """

    def __init__(self, path: Path, descriptor: int, recovered: Recovered) -> None:
        self.path = path
        self.header = recovered.header
        self.events = list(recovered.events)
        self.dropped = recovered.dropped
        self._descriptor = descriptor
        # One tuple, so that a Ctrl-C never sees the one half without the other.
        self._end = (recovered.size, recovered.checksum)

    @classmethod
    def create(cls, path: Path, header: Mapping[str, Any]) -> Self:
        """Make a new log, readable by its owner only, in a folder that is made where missing. Raises SessionError."""
        try:
            _make_private(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _refusal(path, "created", error) from None
        log = cls(path, descriptor, Recovered({}, (), (), 0, ""))
        try:
            _lock(path, descriptor)
            log.header = log._write({"v": VERSION, "time": now(), **header}, sync=True)
            _sync_folder(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            log.close()
            raise
        return log

    @classmethod
    def open(cls, path: Path) -> Self:
        """Lock and recover an existing log. Raises SessionError where it is missing, locked, not writable or not a log."""
        try:
            _must_be_file(path)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise _refusal(path, "opened", error) from None
        try:
            _lock(path, descriptor)
            with open(descriptor, "rb", closefd=False) as file:
                return cls(path, descriptor, recover(file.read(), str(path)))
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, OSError):
                raise _refusal(path, "read", error) from None
            raise

    def append(self, event: Mapping[str, Any], *, sync: bool = True) -> str:
        """Write one event and return its id. `id`, `parent` and `time` are filled in where missing.

        The event has reached the system when this returns, so it outlives this process; with `sync` it has reached the disk.
        Raises SessionError (a full disk, say): the file then ends with the last whole line, as if nothing had been tried.
        """
        event = {"id": new_id(), "parent": None, "time": now(), **event}
        self.events.append(self._write({**event, "previous": self._end[1]}, sync=sync))
        return str(event["id"])

    def close(self) -> None:
        """Give the lock and the file back. Closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, body: Mapping[str, Any], *, sync: bool) -> Event:
        """Seal a line, write it after the last whole one, and return it as it would be read."""
        text = json.dumps(body, allow_nan=False)[:-1]
        checksum = _digest(text.encode())
        line = f'{text}, "checksum": "{checksum}"}}\n'.encode()
        if self._descriptor < 0:
            raise SessionError(f"{self.path} is closed")
        try:
            unfinished = self._cut()
            remaining = memoryview(b"\n" + line if unfinished else line)
            total = len(remaining)
            while remaining:
                remaining = remaining[os.write(self._descriptor, remaining) :]
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            # Where even the cut fails, the next append or the next recovery does it.
            with contextlib.suppress(OSError):
                self._cut()
            raise _refusal(self.path, "written", error) from None
        self._end = (self._end[0] + total, checksum)
        return {**body, "checksum": checksum}

    def _cut(self) -> bool:
        """Cut off what follows the last whole line. Returns whether that line lacks its newline."""
        size = self._end[0]
        if os.fstat(self._descriptor).st_size != size:
            os.ftruncate(self._descriptor, size)
        return size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"


def checked(line: bytes) -> Event | None:
    """Return the content of a line, without its newline, if its checksum holds; None if not."""
    match = _LINE.fullmatch(line)
    if match is None or _digest(match[1]) != match[2].decode():
        return None
    try:
        content: Event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return content


def _digest(text: bytes) -> str:
    """Return 64 bits of SHA-256: against damage, not against forgery."""
    return hashlib.sha256(text).hexdigest()[:16]


def _refusal(path: Path, done: str, error: OSError) -> SessionError:
    advice = "make room there" if error.errno in _FULL else "name another folder by XDG_DATA_HOME, or give --no-save"
    return SessionError(f"{path} cannot be {done}: {error.strerror or error}: {advice}")


def _must_be_file(path: Path) -> None:
    if not path.is_file():
        raise SessionError(f"{path} is not a session file: `codegen-chat sessions ls` shows those that are there")


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SessionError(f"{path} is in use by another codegen-chat: close it there, or start a new session") from None
    except OSError as error:
        raise _refusal(path, "locked", error) from None
    if os.fstat(descriptor).st_nlink == 0:
        raise SessionError(f"{path} was removed just now: start a new session")


def _make_private(folder: Path) -> None:
    """Make a folder and those above it, open to their owner only."""
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make sure that a new file's name has reached the disk, where the file system can say so."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
