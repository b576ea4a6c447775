"""The processes of a sandbox, as init sees and handles them: by handles where it has them, by /proc where a turn made its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time

from codegen_chat.sandbox import limits, wire

_COPY = 5.0
_STOP = 0.5
_DEATH = 30.0  # on a busy machine a process that held a gigabyte takes long to let go of it

_PAGE = os.sysconf("SC_PAGE_SIZE")
_HERTZ = os.sysconf("SC_CLK_TCK")


class Process:
    """A child of ours that holds a state of the person's program in its memory, and the way to it."""

    def __init__(self, pid: int, handle: int, control: socket.socket) -> None:
        self.pid = pid
        self.handle = handle
        self.control = control
        self.memory = 0

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle, number)

    def order(self, word: bytes, *descriptors: int) -> None:
        """Wake it and tell it what to do.

        Raises:
            OSError: It does not listen.
        """
        self.control.settimeout(_COPY)
        wire.send_descriptors(self.control, word, descriptors)
        self.signal(signal.SIGCONT)

    def stop(self) -> bool:
        """Stop it. Return False where it has ended, or somebody wakes it as fast as we stop it."""
        deadline = time.monotonic() + _STOP
        while (result := self._stopped()) is None and time.monotonic() < deadline:
            self.signal(signal.SIGSTOP)
            if (result := self._stopped()) is not None:
                break
            time.sleep(0.0001)
        return result is True

    def _stopped(self) -> bool | None:
        """Whether it is stopped (True), has ended (False), or neither (None)."""
        try:
            result = os.waitid(os.P_PIDFD, self.handle, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            return False
        return None if result is None else bool(result.si_code == os.CLD_STOPPED)

    def close(self) -> None:
        """Kill it, and let go of it."""
        self.signal(signal.SIGKILL)
        self.control.close()
        os.close(self.handle)


class Processes:
    """All of a sandbox: those of its namespace, and where it has none those of init's session.

    Attributes:
        exits: how children of ours ended, by their numbers.
    """

    def __init__(self, *, own_namespace: bool) -> None:
        self._own_namespace = own_namespace
        self.exits: dict[int, int] = {}

    def sweep(self, keep: set[int]) -> bool:
        """Kill every process of the sandbox but these and init, and those that they make meanwhile, until none is left.

        Return whether there were any. That there are none is believed when it is seen twice.
        """
        deadline = time.monotonic() + _DEATH
        found = False
        self.reap()
        for _ in range(2):
            while strays := self.strays(keep):
                found = True
                for pid in strays:
                    with contextlib.suppress(OSError):
                        handle = os.pidfd_open(pid)
                        if self._ours(pid):
                            signal.pidfd_send_signal(handle, signal.SIGKILL)
                        os.close(handle)
                time.sleep(0.0002)
                self.reap()
                if time.monotonic() > deadline:
                    raise wire.BrokenWireError  # something cannot be killed: the sandbox ends, and with it its namespace
        return found

    def reap(self) -> None:
        """Take note of the children that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                self.exits[pid] = status

    def strays(self, keep: set[int]) -> list[int]:
        """Living processes of the sandbox other than init and these.

        Where we have no namespace ours is everything in our session: the allow-list has no setsid.
        """
        found = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        keep = keep | {os.getpid()}
        return [pid for pid in found if pid not in keep and self._ours(pid) and _living(pid)]

    def _ours(self, pid: int) -> bool:
        return self._own_namespace or _session(pid) == os.getpid()


def memory(pid: int) -> int:
    """Anonymous resident bytes of a process, those included that it shares with its forks."""
    fields = read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if fields else 0


def memory_exactly(pid: int) -> int:
    """The share of a process in the memory it uses; the bytes above where the kernel does not tell us."""
    lines = read(f"/proc/{pid}/smaps_rollup").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(b"Pss:")), memory(pid))


def sockets() -> int:
    """How many sockets there are: in our network namespace, or where we have none on the whole machine."""
    with contextlib.suppress(IndexError, ValueError):
        return int(read("/proc/self/net/sockstat").split()[2])
    return 0


def free(folder: str) -> int:
    """Bytes that the file system of a folder has left."""
    facts = os.statvfs(folder)
    return facts.f_bfree * facts.f_frsize


def read(path: str) -> bytes:
    """Read one of the kernel's small files, in as few calls as can be: each turn and each tick asks. b"" where it is gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(file, 8192)
    except OSError:
        return b""
    finally:
        os.close(file)


def parent(pid: int) -> int:
    """The number of a process's parent."""
    return int(_stat(pid)[1])


def plain(pid: int) -> bool:
    """Whether a process is like a copy of it would be: nothing in it that a fork leaves behind.

    That is threads, signals that wait for it, and the time that it has used up. Timers and children a turn's has ended itself.
    """
    facts = dict(line.split(b":\t", 1) for line in read(f"/proc/{pid}/status").splitlines())
    waiting = int(facts.get(b"SigPnd", b"1"), 16) | int(facts.get(b"ShdPnd", b"1"), 16)
    return facts.get(b"Threads") == b"1" and not waiting and _seconds(pid) < limits.CPU_OF_STATE


def _seconds(pid: int) -> float:
    """The processor time that a process has used."""
    return sum(map(int, _stat(pid)[11:13])) / _HERTZ


def _living(pid: int) -> bool:
    return _stat(pid)[0] not in {b"Z", b"X"}


def _session(pid: int) -> int:
    return int(_stat(pid)[3])


def _stat(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the state on: state, parent, group, session."""
    return read(f"/proc/{pid}/stat").rpartition(b") ")[2].split() or [b"X", *[b"0"] * 12]
