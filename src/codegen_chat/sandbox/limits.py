"""What the kernel itself holds a turn to: resource limits, set once and inherited by every fork.

`RLIMIT_DATA` gives a MemoryError at the line that asked for too much; what several processes take together, and disk where there
is no tmpfs, is counted by init. The allow-list has no call that changes a limit.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable

TYPE_CHECKING = False  # from typing it would cost every start of a sandbox the import
if TYPE_CHECKING:
    from codegen_chat.turn import Limits

PARKED = 12
"""How many states stay ready to be forked from."""

HARD_OUTPUT = 16
"""How many times the output limit a turn may write before it is ended for it."""

CODE_BYTES = 1 << 20
REPORT_BYTES = 4 << 20
OPEN_FILES = 256
READY = 8
"""How many copies of a state are made at most for turns that were announced."""
SLACK = 9 + READY
"""Processes beyond the turn's own and the parked ones: the zygote, copies that are ready or on their way, a zombie or two."""

CPU_OF_STATE = 30.0
"""Seconds of processor time after which a state goes on in a fork, which has used none."""

HIDDEN_DISK = 1 << 30
"""Bytes that the file system of a real scratch folder may lose while a turn runs: to deleted files, say, or to other programs."""

SOCKET_BYTES = 208 << 10
"""What one end of a socket pair may hold in the kernel, where no process is charged for it (net.core.wmem_default)."""

_ADDRESSES = 4 << 30
"""Address space beyond what memory is used for: reserved, mapped from files, or read only. It bounds page tables."""


def apply(limits: Limits, *, others: int) -> None:
    """Set this process's limits for good.

    Args:
        limits: What the turn may use.
        others: Threads that the uid already has where it is shared with the person's other programs, else 0.
    """
    exact = {
        resource.RLIMIT_DATA: baseline("VmData") + limits.memory,
        resource.RLIMIT_AS: baseline("VmSize") + limits.memory + _ADDRESSES,
        resource.RLIMIT_FSIZE: limits.disk,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CPU: 60 + 4 * int(limits.timeout),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 128,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    for name, value in exact.items():
        resource.setrlimit(name, (value, value))
    processes = others + limits.processes + PARKED + SLACK
    # Soft only, where init has to follow the number of the person's other threads.
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1] if others else processes
    resource.setrlimit(resource.RLIMIT_NPROC, (_least(processes, hard), hard))


def follow_user(pids: Iterable[int], limits: Limits) -> None:
    """Move the soft limit of processes of these along with the number of threads that our uid has now."""
    wanted = tasks_of_user() + limits.processes + PARKED + SLACK
    for pid in pids:
        hard = resource.prlimit(pid, resource.RLIMIT_NPROC)[1]
        resource.prlimit(pid, resource.RLIMIT_NPROC, (_least(wanted, hard), hard))


def tasks_of_user() -> int:
    """Count the threads on this machine that have our uid (those of the sandbox itself show as root's, being non-dumpable)."""
    uid = os.getuid()
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += os.stat(f"/proc/{name}/task").st_nlink - 2
            except OSError:
                continue  # it has ended
    return count


def baseline(field: str) -> int:
    """Read one size of this process from /proc/self/status, in bytes."""
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise LookupError(field)


def _least(wanted: int, hard: int) -> int:
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
