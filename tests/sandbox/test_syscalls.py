"""The filter program, run by a small interpreter: what it says of single calls, on both machines."""

from __future__ import annotations

import errno
import struct

import pytest

from codegen_chat.sandbox import syscalls

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
EPERM = ERRNO | errno.EPERM


def run(program: bytes, number: int, architecture: int, arguments: tuple[int, ...]) -> int:
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *(arguments + (0,) * 6)[:6])
    at, accumulator = 0, 0
    while True:
        code, yes, no, k = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            at += yes if accumulator == k else no
        elif code == 0x35:
            at += yes if accumulator >= k else no
        elif code == 0x06:
            return int(k)
        else:
            raise AssertionError(hex(code))


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(syscalls, "MACHINE", request.param)
    return str(request.param)


def verdict(machine: str, name: str, *arguments: int, metadata: bool = True, signals: bool = True) -> int:
    column = 1 if machine == "x86_64" else 2
    number = next(int(row[column]) for row in syscalls._rows() if row[0] == name)
    return run(syscalls.program(metadata=metadata, signals=signals), number, ARCHITECTURES[machine], arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("read", (0, 1, 2), ALLOW),
        ("clone", (0x1200011,), ALLOW),
        ("clone", (0x10000011,), EPERM),
        ("clone", (0x8011,), ALLOW),  # as two forks give a child to init
        ("clone", (0x2011,), EPERM),
        ("clone", (0xA011,), EPERM),
        ("clone3", (), ERRNO | errno.ENOSYS),
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 3, 0x01), ALLOW),
        ("mmap", (0, 4096, 3, 0x21), EPERM),
        ("mmap", (0, 4096, 3, 0x122), EPERM),
        ("mmap", (0, 4096, 3, 0x40022), EPERM),
        ("fcntl", (0, 1030), ALLOW),
        ("fcntl", (0, 8), EPERM),
        ("fcntl", (0, 10), EPERM),
        ("fcntl", (0, 1024), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("socketpair", (1, 1), ALLOW),
        ("socketpair", (1, 0x80001), ALLOW),
        ("socketpair", (1, 2), EPERM),
        ("socketpair", (2, 1), EPERM),
        ("sendto", (3, 1, 1, 0, 0), ALLOW),
        ("sendto", (3, 1, 1, 0, 1), EPERM),
        ("sendto", (3, 1, 1, 0, 1 << 32), EPERM),
        ("prlimit64", (0, 7, 0, 1), ALLOW),
        ("prlimit64", (0, 7, 1 << 40, 1), EPERM),
        ("kill", (5, 9), ALLOW),
        ("kill", (0, 9), EPERM),
        ("kill", (0xFFFFFFFF, 9), EPERM),
        ("kill", (0xFFFFFFFFFFFFFFFB, 9), EPERM),
        ("prctl", (15,), ALLOW),
        ("prctl", (4, 1), EPERM),
        ("mknodat", (0, 0, 0o010644), ALLOW),
        ("mknodat", (0, 0, 0o060644), EPERM),
    ],
)
def test_verdicts(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    assert verdict(machine, name, *arguments) == expected


def test_without_a_wall_around_files_their_modes_only_seem_to_change(machine: str) -> None:
    assert verdict(machine, "fchmodat", metadata=False) == ERRNO
    assert verdict(machine, "utimensat", 0, 1, 1 << 33, metadata=False) == ERRNO
    assert verdict(machine, "utimensat", 0, 1, 0, metadata=False) == EPERM
    assert verdict(machine, "fchmodat") == ALLOW


def test_without_a_wall_around_signals_none_is_sent(machine: str) -> None:
    assert {verdict(machine, name, 5, 9, signals=False) for name in ("kill", "tkill", "tgkill")} == {EPERM}


def test_everything_else_fails_and_other_architectures_kill(machine: str) -> None:
    program = syscalls.program(metadata=True, signals=True)
    named = {int(row[1 if machine == "x86_64" else 2].replace("-", "-1")) for row in syscalls._rows()}
    for number in set(range(700)) - named:
        assert run(program, number, ARCHITECTURES[machine], ()) == EPERM
    other = next(value for name, value in ARCHITECTURES.items() if name != machine)
    assert run(program, 0, other, ()) == KILL
    assert run(program, 0, 0x40000003, ()) == KILL  # i386
    if machine == "x86_64":
        assert run(program, 0x40000000 | 39, ARCHITECTURES[machine], ()) == KILL  # x32


DANGEROUS = [
    "socket",
    "connect",
    "bind",
    "listen",
    "accept",
    "accept4",
    "sendmsg",
    "execve",
    "execveat",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "memfd_create",
    "memfd_secret",
    "io_uring_setup",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "keyctl",
    "add_key",
    "request_key",
    "shmget",
    "shmat",
    "msgget",
    "semget",
    "mq_open",
    "setuid",
    "setresuid",
    "capset",
    "seccomp",
    "landlock_create_ruleset",
    "personality",
    "setrlimit",
    "setsid",
    "setpgid",
    "open_by_handle_at",
    "name_to_handle_at",
    "splice",
    "vmsplice",
    "kexec_load",
    "init_module",
    "reboot",
    "swapon",
    "process_madvise",
    "kcmp",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "sched_setaffinity",
    "setpriority",
]


def test_nothing_dangerous_is_on_the_list() -> None:
    assert not {row[0] for row in syscalls._rows()} & set(DANGEROUS)
