"""Which system calls a turn may make: the allow-list, its numbers on two machines, and the filter program made of it.

Whatever is not named here fails with EPERM. So there is no exec, no new socket, no ptrace, mount, namespace, keyring, bpf,
io_uring, memfd, System V memory or change of limits, and a call that a later kernel brings is denied until somebody has thought
about it.
Source of the numbers: Linux 6.18, arch/x86 unistd_64.h and asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import namedtuple

# name, number on x86_64, number on aarch64 (-: the machine has no such call)
_TABLE = """
# files and folders
read 0 63; write 1 64; open 2 -; openat 257 56; close 3 57; stat 4 -; fstat 5 80; lstat 6 -; newfstatat 262 -; statx 332 291;
lseek 8 62; pread64 17 67; pwrite64 18 68; readv 19 65; writev 20 66; preadv 295 69; pwritev 296 70; preadv2 327 286;
pwritev2 328 287; access 21 -; faccessat 269 48; faccessat2 439 439; dup 32 23; dup2 33 -; dup3 292 24; close_range 436 436;
getdents 78 -; getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; rename 82 -; renameat 264 38; renameat2 316 276;
mkdir 83 -; mkdirat 258 34; rmdir 84 -; link 86 -; linkat 265 37; unlink 87 -; unlinkat 263 35; symlink 88 -; symlinkat 266 36;
readlink 89 -; readlinkat 267 78; mknod 133 -; mknodat 259 33; truncate 76 45; ftruncate 77 46; fallocate 285 47; fsync 74 82;
fdatasync 75 83; sendfile 40 71; copy_file_range 326 285; statfs 137 43; fstatfs 138 44; umask 95 166; flock 73 32;
fadvise64 221 223; readahead 187 213; getxattr 191 8; lgetxattr 192 9; fgetxattr 193 10; listxattr 194 11; llistxattr 195 12;
flistxattr 196 13; fcntl 72 25; ioctl 16 29;
# owners, modes and times of files
chmod 90 -; fchmod 91 52; fchmodat 268 53; fchmodat2 452 452; chown 92 -; fchown 93 55; lchown 94 -; fchownat 260 54;
utime 132 -; utimes 235 -; futimesat 261 -; utimensat 280 88;
# waiting
pipe 22 -; pipe2 293 59; select 23 -; pselect6 270 72; poll 7 -; ppoll 271 73; epoll_create 213 -; epoll_create1 291 20;
epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22; epoll_pwait2 441 441; eventfd 284 -; eventfd2 290 19; signalfd 282 -;
signalfd4 289 74;
# memory
mmap 9 222; munmap 11 215; mprotect 10 226; mremap 25 216; madvise 28 233; brk 12 214; msync 26 227; mincore 27 232;
membarrier 324 283;
# signals
rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigpending 127 136; rt_sigtimedwait 128 137;
rt_sigsuspend 130 133; sigaltstack 131 132; pause 34 -; kill 62 129; tkill 200 130; tgkill 234 131;
# processes and threads
clone 56 220; clone3 435 435; fork 57 -; vfork 58 -; wait4 61 260; waitid 247 95; exit 60 93; exit_group 231 94; getpid 39 172;
getppid 110 173; gettid 186 178; getpgid 121 155; getpgrp 111 -; getsid 124 156; getuid 102 174; geteuid 107 175;
getgid 104 176; getegid 108 177; getresuid 118 148; getresgid 120 150; getgroups 115 158; capget 125 90; set_tid_address 218 96;
set_robust_list 273 99; get_robust_list 274 100; rseq 334 293; futex 202 98; futex_waitv 449 449; sched_yield 24 124;
sched_getaffinity 204 123; sched_getparam 143 121; sched_getscheduler 145 120; sched_get_priority_max 146 125;
sched_get_priority_min 147 126; getpriority 140 141; getcpu 309 168; restart_syscall 219 128; prctl 157 167; arch_prctl 158 -;
# time
time 201 -; gettimeofday 96 169; clock_gettime 228 113; clock_getres 229 114; nanosleep 35 101; clock_nanosleep 230 115;
getitimer 36 102; setitimer 38 103; alarm 37 -; timer_create 222 107; timer_settime 223 110; timer_gettime 224 108;
timer_getoverrun 225 109; timer_delete 226 111; timerfd_create 283 85; timerfd_settime 286 86; timerfd_gettime 287 87;
times 100 153;
# facts
uname 63 160; sysinfo 99 179; getrandom 318 278; getrusage 98 165; getrlimit 97 163; prlimit64 302 261;
# sockets that are already connected
socketpair 53 199; sendto 44 206; recvfrom 45 207; recvmsg 47 212; shutdown 48 210; getsockopt 55 209; getsockname 51 204;
getpeername 52 205;
"""

MACHINE = os.uname().machine
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_ERRNO = 0x00050000

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_X32 = 0x40000000

_NEW_NAMESPACES = 0x7E020000 | 0x00000080  # CLONE_NEW{CGROUP,UTS,IPC,USER,PID,NET,NS,TIME}
_PTRACE = 0x00002000
# CLONE_PARENT, CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID, SIGCHLD. The first gives a turn nothing that two forks would not.
_COPY = 0x00008000 | 0x01000000 | 0x00200000 | 17


class _Test(namedtuple("_Test", "argument values mask wide", defaults=(0xFFFFFFFF, False))):  # noqa: PYI024
    """One argument must, after the mask, be one of these values. `wide` also wants its upper half to be zero."""

    __slots__ = ()


def _null(argument: int) -> _Test:
    return _Test(argument, (0,), wide=True)


_FILE_KINDS = (0, 0o010000, 0o100000)  # mknod: a FIFO or an ordinary file, no device, no socket

_TESTS: dict[str, tuple[_Test, ...]] = {
    "clone": (_Test(0, (0,), _NEW_NAMESPACES | _PTRACE),),
    # Shared anonymous memory would leak from one snapshot into another, past undo and past the accounts.
    # MAP_GROWSDOWN and MAP_HUGETLB would get past RLIMIT_DATA.
    "mmap": (_Test(3, (0x00, 0x01, 0x20), 0x40121),),
    # F_DUPFD GETFD SETFD GETFL SETFL GETLK SETLK SETLKW, OFD locks, DUPFD_CLOEXEC, GETPIPE_SZ: no F_SETOWN, F_SETSIG, leases
    "fcntl": (_Test(1, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)),),
    # TCGETS (isatty), TIOCGWINSZ, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX: no TIOCSTI, no devices
    "ioctl": (_Test(1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),),
    "prctl": (_Test(0, (15, 16)),),  # PR_SET_NAME, PR_GET_NAME
    "prlimit64": (_null(2),),  # reading only
    "socketpair": (_Test(0, (1,)), _Test(1, (1,), 0xF)),  # AF_UNIX streams: a datagram socket could still name a receiver
    "sendto": (_null(4),),
    "mknod": (_Test(1, _FILE_KINDS, 0o170000),),
    "mknodat": (_Test(2, _FILE_KINDS, 0o170000),),
    # One process, by its number: not a group, not everybody. Bit 31 is the sign; zero is kept out by _NOT_ZERO.
    "kill": (_Test(0, (0,), 0x80000000),),
}
_NOT_ZERO = {"kill": 0}
# Landlock does not hold reading them. Programs that copy files take this for a file system that has none.
_NO_ATTRIBUTES = ("getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr")
_ABSENT = ("clone3",)  # glibc falls back to clone, whose flags a filter can read
_CHANGES_OWNER_OR_MODE = ("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat")
_CHANGES_TIMES = {"utime": 1, "utimes": 1, "futimesat": 2, "utimensat": 2}
_SIGNALS = ("kill", "tkill", "tgkill")


def clone(thread: int) -> tuple[int, ...]:
    """Return the number and the arguments of a clone that is a fork, but for the parent: it becomes the caller's.

    Args:
        thread: Where the C library keeps the thread's number; where that is not known (0), there is no such call.
    """
    if not thread or not machine_known():
        return ()
    return (56, _COPY, 0, 0, thread, 0) if MACHINE == "x86_64" else (220, _COPY, 0, 0, 0, thread)


def machine_known() -> bool:
    """Whether this machine's system call numbers are in the table."""
    return MACHINE in _MACHINES


def program(*, metadata: bool, signals: bool) -> bytes:
    """Assemble the filter for this machine, an array of `struct sock_filter`.

    Args:
        metadata: Whether modes, owners and times of files may be changed. Landlock does not hold these calls, so where nothing
            else does (no mount wall, and the person's own uid) they do nothing and say they worked: copying a file then works.
        signals: Whether signals may be sent. Where no wall says to whom, none may.
    """
    column, architecture = _MACHINES[MACHINE]
    code = [_instruction(_LOAD, 4), _instruction(_EQUAL, architecture, 1, 0), _instruction(_RETURN, _KILL)]
    code.append(_instruction(_LOAD, 0))
    if column == 0:
        code += [_instruction(_AT_LEAST, _X32, 0, 1), _instruction(_RETURN, _KILL)]
    for name, *numbers in _rows():
        if numbers[column] == "-":
            continue
        body = _body(name, metadata=metadata, signals=signals)
        code += [_instruction(_EQUAL, int(numbers[column]), 0, len(body)), *body]
    return b"".join([*code, _fail(errno.EPERM)])


def _rows() -> list[list[str]]:
    lines = [line for line in _TABLE.splitlines() if not line.startswith("#")]
    return [cell.split() for cell in " ".join(lines).split(";") if cell.strip()]


def _body(name: str, *, metadata: bool, signals: bool) -> list[bytes]:
    """The instructions for one call. They end in a verdict on every way, so the number in the accumulator is never missed."""
    if name in _ABSENT:
        return [_fail(errno.ENOSYS)]
    if name in _NO_ATTRIBUTES:
        return [_fail(errno.ENOTSUP)]
    if name in _SIGNALS and not signals:
        return [_fail(errno.EPERM)]
    if name in _CHANGES_OWNER_OR_MODE and not metadata:
        return [_fail(0)]
    if name in _CHANGES_TIMES and not metadata:
        # "Now" must fail truly: Path.touch takes a success for an existing file and would not make one.
        return [*_check(_null(_CHANGES_TIMES[name]), deny=_fail(0)), _fail(errno.EPERM)]
    body: list[bytes] = []
    if name in _NOT_ZERO:
        body += [_instruction(_LOAD, _offset(_NOT_ZERO[name])), _instruction(_EQUAL, 0, 0, 1), _fail(errno.EPERM)]
    for test in _TESTS.get(name, ()):
        body += _check(test, deny=_fail(errno.EPERM))
    return [*body, _instruction(_RETURN, _ALLOW)]


def _check(test: _Test, *, deny: bytes) -> list[bytes]:
    """Go on after the last instruction when the test holds, else return `deny`."""
    code = [_instruction(_LOAD, _offset(test.argument)), _instruction(_AND, test.mask)]
    for position, value in enumerate(test.values):
        code.append(_instruction(_EQUAL, value, len(test.values) - position, 0))
    code.append(deny)
    if test.wide:
        code += [_instruction(_LOAD, _offset(test.argument) + 4), _instruction(_EQUAL, 0, 1, 0), deny]
    return code


def _offset(argument: int) -> int:
    """Where `struct seccomp_data` has the lower half of an argument (both machines are little-endian)."""
    return 16 + 8 * argument


def _fail(number: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | number)


def _instruction(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, k)
