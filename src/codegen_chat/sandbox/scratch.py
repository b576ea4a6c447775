"""The files that turns leave behind, as a part of their states: undo takes them back too. This is init's, and trusted.

When a state is kept, what changed since the state it came from is copied; the rest is shared with that. Before a turn runs from a
state, the folder is made what it was then. All that writes here, and `keep`, ask that every process of a turn is stopped or gone;
only `used` may look at a folder that changes under its eyes.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from collections import namedtuple
from collections.abc import Sequence

from codegen_chat.sandbox import walls

MOST_BYTES = 16 << 20
MOST_FILES = 1024
"""What a state may keep in files. Beyond that they stay as they are when one returns to it, and a note says so."""

_FRESH = 20_000_000
"""Nanoseconds in which a file may change again without getting another time."""


Use = namedtuple("Use", "files bytes hidden")
"""What lies in scratch. `hidden`: there is a folder that cannot be looked into."""

_Mark = namedtuple("_Mark", "inode changed size mode")
"""What shows that something is not what it was. The kernel alone sets the time of change."""

_Entry = namedtuple("_Entry", "mode time copy target", defaults=(0, -1, ""))
"""One thing in a folder: a file's copy has a number in the store, a link its target."""

_Look = namedtuple("_Look", "mark settled entry")
"""How something looked when it was what an entry says. `settled`: a change since then would show."""


_Found = dict[str, os.stat_result]
_Seen = namedtuple("_Seen", "found hidden")
"""All that there is by its path, and whether there is a folder that cannot be looked into."""

_Files = dict[str, _Entry]


class Scratch:
    """The folders that turns write to, and copies of what they were in each state. State None is the empty one."""

    def __init__(self, folders: Sequence[str], store: str, owner: int | None) -> None:
        self._folders = folders
        self._store = store
        self._owner = owner
        self._numbers = itertools.count()
        self._live: dict[str, _Look] = {}
        self._states: dict[str | None, _Files | None] = {}
        self._at: str | None = ""
        self.keep(None, self.look())

    def used(self) -> Use:
        """Count what lies there now."""
        found, hidden = _scan(self._folders)
        return Use(len(found), sum(facts.st_blocks * 512 for facts in found.values()), hidden)

    def look(self) -> _Seen:
        """Return what lies there now, for the two below."""
        return _scan(self._folders)

    def written(self, seen: _Seen, folder: str) -> list[str]:
        """Return the files below a folder that are not what they were in the state that was last returned to, or are new."""
        return sorted(
            path.removeprefix(folder + "/")
            for path, facts in seen.found.items()
            if stat.S_ISREG(facts.st_mode) and path.startswith(folder + "/")
            if path not in self._live or self._live[path].mark != _mark(facts)
        )

    def keep(self, state: str | None, seen: _Seen) -> bool:
        """Make what was seen the files of a state. Return False, and keep none, where it is too much."""
        found, hidden = seen
        size = sum(facts.st_size for facts in found.values() if stat.S_ISREG(facts.st_mode))
        files: _Files | None = None
        if not hidden and len(found) <= MOST_FILES and size <= MOST_BYTES:
            with contextlib.suppress(OSError):  # the store is full
                files = {
                    path: self._live[path].entry if self._same(path, facts) else self._copied(path, facts)
                    for path, facts in found.items()
                }
        self._at = state
        self._states[state] = files
        self._look(files or {}, found)
        return files is not None

    def return_to(self, state: str | None) -> bool:
        """Make the folders what they were in a state, for a turn that is about to change them.

        Return False where its files were not kept and something has been changed since; they are then as they are.
        """
        files = self._states.get(state)
        last, self._at = self._at, ""
        if last == state:  # nothing has run since
            return True
        if files is None:
            return False
        if files == self._states.get(last):  # what has run since left them alone
            return True
        found, _ = _scan(self._folders)
        for path, facts in found.items():
            wanted = files.get(path)
            if wanted is None or stat.S_IFMT(wanted.mode) != stat.S_IFMT(facts.st_mode):
                _remove(path, facts)
        for path, wanted in sorted(files.items()):
            if path not in found or not self._same(path, found[path]) or self._live[path].entry != wanted:
                self._write(path, wanted)
        found, _ = _scan(self._folders)
        self._look(files, found)
        return True

    def forget(self, state: str) -> None:
        """Drop a state's files, and the copies that no other state has."""
        if self._states.pop(state, None):
            needed = {entry.copy for files in self._states.values() for entry in (files or {}).values()}
            needed |= {look.entry.copy for look in self._live.values()}
            for name in os.listdir(self._store):
                if int(name) not in needed:
                    os.unlink(f"{self._store}/{name}")

    def read(self, folder: str, name: str, most: int) -> bytes | None:
        """Return what is in a file below a folder, None where there is no such ordinary file. No link is followed on the way."""
        try:
            descriptor = walls.open_beneath(folder, name)
        except (OSError, ValueError):
            return None
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > most:
                return None
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(most)
        finally:
            os.close(descriptor)

    def _same(self, path: str, facts: os.stat_result) -> bool:
        look = self._live.get(path)
        return look is not None and look.settled and look.mark == _mark(facts)

    def _look(self, files: _Files, found: _Found) -> None:
        """Note how the files of a state look, so that a change will show."""
        settled = time.time_ns() - _FRESH
        self._live = {
            path: _Look(_mark(facts), facts.st_ctime_ns < settled or not stat.S_ISREG(facts.st_mode), files[path])
            for path, facts in found.items()
            if path in files
        }

    def _copied(self, path: str, facts: os.stat_result) -> _Entry:
        if stat.S_ISLNK(facts.st_mode):
            return _Entry(facts.st_mode, target=os.readlink(path))
        if not stat.S_ISREG(facts.st_mode):
            return _Entry(facts.st_mode)
        number = next(self._numbers)
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except PermissionError:
            os.chmod(path, 0o600)
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            os.fchmod(source, stat.S_IMODE(facts.st_mode))
        try:
            _pour(source, os.open(f"{self._store}/{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        finally:
            os.close(source)
        return _Entry(facts.st_mode, facts.st_mtime_ns, number)

    def _write(self, path: str, wanted: _Entry) -> None:
        """Make one thing what it was. A file that is there is written anew in its place: who has it open goes on seeing it."""
        mode = stat.S_IMODE(wanted.mode)
        if stat.S_ISDIR(wanted.mode):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
            os.chmod(path, mode)
        elif stat.S_ISLNK(wanted.mode):
            _unlink(path)
            os.symlink(wanted.target, path)
        elif stat.S_ISFIFO(wanted.mode):
            _unlink(path)
            os.mkfifo(path, mode)
        else:
            target = _open_again(path)
            os.fchmod(target, mode)
            source = os.open(f"{self._store}/{wanted.copy}", os.O_RDONLY)
            try:
                _pour(source, target)
            finally:
                os.close(source)
            with contextlib.suppress(OverflowError):  # a time of the code's own making
                os.utime(path, ns=(wanted.time, wanted.time), follow_symlinks=False)
        if self._owner is not None:
            os.chown(path, self._owner, self._owner, follow_symlinks=False)


def clear(folder: str) -> None:
    """Empty a folder, however deep it is and whatever its modes are. Nobody may be writing there any more."""
    top = _open_folder(folder)
    try:
        while entries := _entries(top):
            for name, is_folder in entries:
                if not is_folder:
                    os.unlink(name, dir_fd=top)
                    continue
                below = _open_folder(name, top)
                if os.fstat(below).st_dev != os.fstat(top).st_dev:
                    raise OSError(errno.EXDEV, f"something is mounted at {name}")
                for inner, is_inner_folder in _entries(below):
                    if is_inner_folder:  # up to us, so that no path and no recursion gets long
                        os.close(_open_folder(inner, below))
                        os.rename(inner, os.urandom(8).hex(), src_dir_fd=below, dst_dir_fd=top)
                    else:
                        os.unlink(inner, dir_fd=below)
                os.close(below)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)


def _scan(folders: Sequence[str]) -> _Seen:
    """Return all that there is by its path. Follows no link."""
    found: _Found = {}
    hidden = False
    waiting = list(folders)
    devices = set()
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            devices.add(os.stat(folder).st_dev)
    while waiting and len(found) <= 4 * MOST_FILES:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # it changes while we look
                        facts = entry.stat(follow_symlinks=False)
                        if facts.st_dev not in devices:
                            continue  # something is mounted there
                        found[entry.path] = facts
                        if stat.S_ISDIR(facts.st_mode):
                            waiting.append(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            continue  # the same
        except OSError:
            hidden = True
    return _Seen(found, hidden or bool(waiting))


def _mark(facts: os.stat_result) -> _Mark:
    if stat.S_ISDIR(facts.st_mode):  # its time changes with what lies in it
        return _Mark(facts.st_ino, 0, 0, facts.st_mode)
    return _Mark(facts.st_ino, facts.st_ctime_ns, facts.st_size, facts.st_mode)


def _remove(path: str, facts: os.stat_result) -> None:
    with contextlib.suppress(FileNotFoundError):  # it lay in a folder that is removed already
        if stat.S_ISDIR(facts.st_mode):
            clear(path)
            os.rmdir(path)
        else:
            os.unlink(path)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _open_again(path: str) -> int:
    """Open a file for writing, empty: the same where it is one by itself and lets us, else a new one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if os.fstat(descriptor).st_nlink == 1:
            os.ftruncate(descriptor, 0)
            return descriptor
        os.close(descriptor)
    except OSError:
        pass
    _unlink(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def _pour(source: int, target: int) -> None:
    """Copy what is left of one open file into another, and close that."""
    try:
        while piece := os.read(source, 1 << 20):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(target, rest) :]
    finally:
        os.close(target)


def _open_folder(name: str, above: int | None = None) -> int:
    """Open a folder that is no link, also one whose mode says no to its owner."""
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=above)
    try:
        with contextlib.suppress(OSError):
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY)
    finally:
        os.close(handle)


def _entries(folder: int) -> list[tuple[str, bool]]:
    with os.scandir(folder) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
