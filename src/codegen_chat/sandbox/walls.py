"""The inner wall, raised once in the zygote and inherited by every turn: uid, capabilities, Landlock, seccomp. By ctypes.

Each function either raises its part of the wall or raises OSError; nothing here decides to go on without one.
Sources: linux/landlock.h (ABI 1 to 7), linux/seccomp.h, linux/capability.h, linux/prctl.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from functools import partial

from codegen_chat.sandbox import syscalls

_LIBC = ctypes.CDLL(None, use_errno=True)

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_OPENAT2 = 437
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on both machines

_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_DROP, _SET_CHILD_SUBREAPER, _NO_NEW_PRIVS, _CAP_AMBIENT = 1, 4, 24, 36, 38, 47

CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_KILL, CAP_SYS_PTRACE = 0, 1, 3, 5, 19

# linux/landlock.h, LANDLOCK_ACCESS_FS_*
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_AND_MAKE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12  # directory, file, FIFO, symlink: no device, no socket
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FOR_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV
LANDLOCK_NEEDED = 3
"""The oldest Landlock that holds truncation."""


def _call(number: int, *arguments: object) -> int:
    result: int = _LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    if _LIBC.prctl(ctypes.c_int(option), *padded) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def landlock_version() -> int:
    """Return the kernel's Landlock ABI, 0 where it has none or it is switched off."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


def seccomp_known() -> bool:
    """Whether the kernel filters system calls and this machine's numbers are known."""
    if not syscalls.machine_known():
        return False
    action = ctypes.c_uint32(0x7FFF0000)
    try:
        _call(_SECCOMP[syscalls.MACHINE], ctypes.c_uint(2), ctypes.c_uint(0), ctypes.byref(action))
    except OSError:
        return False
    return True


def landlock(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Allow reading below some paths, everything but devices and sockets below others, and nothing else.

    Also no TCP (ABI 4), and no signal or abstract socket to anything outside (ABI 6).

    Raises:
        OSError: Landlock is missing or a path cannot be opened.
    """
    version = landlock_version()
    if version < LANDLOCK_NEEDED:
        raise OSError(errno.ENOSYS, f"Landlock ABI {version}, needed is {LANDLOCK_NEEDED}")
    handled = (1 << 15) - 1 | (_IOCTL_DEV if version >= 5 else 0)
    net = 0b11 if version >= 4 else 0
    scoped = 0b11 if version >= 6 else 0
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    attributes = ctypes.create_string_buffer(struct.pack("<QQQ", handled, net, scoped)[:size], size)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path in readable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in writable:
            _allow(ruleset, path, _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_AND_MAKE | _REFER | _TRUNCATE)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _FOR_FILES
        rule = ctypes.create_string_buffer(struct.pack("<Qi", access, descriptor), 12)
        _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def seccomp(program: bytes) -> None:
    """Put a filter on every thread of this process, for good."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    every_thread = 1
    _call(
        _SECCOMP[syscalls.MACHINE],
        ctypes.c_uint(1),
        ctypes.c_uint(every_thread),
        ctypes.create_string_buffer(header, len(header)),
    )


def drop_uid(uid: int) -> None:
    """Become another user, with a group of the same number and no other group."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def keep_capabilities(*kept: int) -> None:
    """Give up every capability but these: effective, permitted, inheritable, ambient, and the bounding set where we may."""
    for number in range(64):
        if number not in kept:
            try:
                _prctl(_CAPBSET_DROP, number)
            except OSError:
                break  # no such capability, or no CAP_SETPCAP to give it up with (no_new_privs then holds the same)
    _prctl(_CAP_AMBIENT, 4)
    bits = sum(1 << number for number in kept)
    header = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0), 8)
    low = struct.pack("<III", bits, bits, 0) + struct.pack("<III", 0, 0, 0)
    if _LIBC.capset(header, ctypes.create_string_buffer(low, len(low))) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def no_new_privileges() -> None:
    """Nothing that is executed from here on gains a right (seccomp and Landlock ask for this)."""
    _prctl(_NO_NEW_PRIVS, 1)


def not_dumpable() -> None:
    """Close /proc/self to processes of the same uid, and ptrace with it. Forks inherit this."""
    _prctl(_SET_DUMPABLE, 0)


def thread_number_address() -> int:
    """Where the C library keeps this thread's number, so that a copy of the thread can have its own there. 0: not told.

    The kernel knows since it clears the number when the thread ends (PR_GET_TID_ADDRESS, with CONFIG_CHECKPOINT_RESTORE).
    """
    address = ctypes.c_ulong(0)
    if _LIBC.prctl(ctypes.c_int(40), ctypes.byref(address), *[ctypes.c_ulong(0)] * 3) < 0:
        return 0
    return address.value


def die_with_parent() -> None:
    """Be killed when the thread that started this process ends."""
    _prctl(_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own, as PID 1 of a namespace is without asking."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def mount_tmpfs(path: str, *, size: int, files: int) -> None:
    """Mount an empty tmpfs of ours, with caps on bytes and on files, over a folder of our own mount namespace."""
    options = f"size={size},nr_inodes={files},mode=0700,uid={os.getuid()},gid={os.getgid()}".encode()
    flags = 2 | 4  # MS_NOSUID, MS_NODEV
    if _LIBC.mount(b"tmpfs", path.encode(), b"tmpfs", ctypes.c_ulong(flags), options) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {path}: {os.strerror(code)}")


def open_beneath(folder: str, name: str) -> int:
    """Open a file for reading by its name relative to a folder. The kernel refuses `..` out of it, and every link."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    how = ctypes.create_string_buffer(
        struct.pack("<QQQ", flags, 0, 0x02 | 0x04 | 0x08), 24
    )  # RESOLVE_NO_{MAGIC,SYM}LINKS, _BENEATH
    beneath = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return _call(_OPENAT2, ctypes.c_int(beneath), ctypes.c_char_p(os.fsencode(name)), how, ctypes.c_size_t(24))
    finally:
        os.close(beneath)


def own_mounts() -> None:
    """Have mounts of our own from here on: what is mounted now, our parent's and children's namespaces do not get."""
    if _LIBC.unshare(0x00020000) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")


def bind(source: str, target: str) -> None:
    """Show a file or folder, with what is mounted below it, at another place of our own mount namespace."""
    if _LIBC.mount(source.encode(), target.encode(), None, ctypes.c_ulong(0x1000 | 0x4000), None) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"bind {target}: {os.strerror(code)}")


def surprises(*, forbidden: Sequence[str], folder: str, scratch: str, readable: str) -> list[str]:
    """Try, behind the walls, what must fail and what must not. Return what came out otherwise.

    Args:
        forbidden: Existing files outside, which must not be readable.
        folder: An existing folder outside, in which nothing may be made.
        scratch: The folder that must be writable.
        readable: A file of the interpreter that must be readable.
    """
    denied: dict[str, Callable[[], object]] = {f"{path} can be read": partial(_read, path) for path in forbidden}
    denied |= {
        f"{folder} can be written to": lambda: os.close(os.open(f"{folder}/written", os.O_WRONLY | os.O_CREAT)),
        f"{folder} can be listed": lambda: os.listdir(folder),
        "a TCP socket can be made": lambda: socket.socket(socket.AF_INET).close(),
        "a Unix socket can be made": lambda: socket.socket(socket.AF_UNIX).close(),
        "a limit can be changed": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        "a namespace can be made": lambda: _checked(_LIBC.unshare(0x10000000)),
        "another process can be traced": lambda: _checked(_LIBC.ptrace(16, os.getppid(), 0, 0)),
        "programs can be executed": _execute_nothing,
    }
    found = [what for what, attempt in denied.items() if _works(attempt)]
    try:
        probe = f"{scratch}/.probe"
        with open(probe, "xb") as file:
            file.write(b"x")
        os.unlink(probe)
        _read(readable)
    except OSError as error:
        found.append(f"ordinary work fails: {error}")
    return found


def seen_from_outside(pid: int) -> list[str]:
    """Read in /proc what the kernel says of a walled process. Return what it lacks."""
    with open(f"/proc/{pid}/status") as lines:
        fields = dict(line.split(":\t", 1) for line in lines)
    lacks = []
    if "0" in fields["Uid"].split():
        lacks.append("it runs as root")
    if any(int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")):
        lacks.append("it has capabilities")
    if fields["NoNewPrivs"].strip() != "1":
        lacks.append("it may gain privileges")
    if fields["Seccomp"].strip() != "2":
        lacks.append("its system calls are not filtered")
    if fields["Threads"].strip() != "1":
        lacks.append("it has a thread that walls may have missed")
    return lacks


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _execute_nothing() -> None:
    """Fail with OSError only where exec itself is denied: the file does not exist."""
    try:
        os.execv("/nonexistent", ["nonexistent"])  # noqa: S606  a probe
    except FileNotFoundError:
        return


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "denied")


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except (OSError, ValueError):
        return False
    return True
