"""The outer wall: how init is started, what it finds there, and whether this machine can have it at all.

With bubblewrap: namespaces of processes, network, mounts, IPC and host name; of the files only the interpreter, its libraries
and the environment's packages, read-only; no home. Without it init is an ordinary process, and Landlock and seccomp alone are
the wall.
"""

from __future__ import annotations

import os
import secrets
import site
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from codegen_chat.errors import SandboxUnavailable, UsageError
from codegen_chat.sandbox import walls
from codegen_chat.turn import Limits

BWRAP = "/usr/bin/bwrap"
"""The distribution's own: where unprivileged namespaces are restricted, the exemption is bound to this path."""

INSTALL_BWRAP = "apt install bubblewrap"
NOT_INSTALLED = "not installed"
_SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/libx32", "/usr/local/lib", "/usr/share/zoneinfo", "/nix/store")
_ROOT_LINKS = ("/lib", "/lib64", "/lib32", "/libx32")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives", "/etc/mime.types", "/etc/os-release")
_FACTS = tuple(f"/proc/{name}" for name in ("cpuinfo", "loadavg", "meminfo", "stat", "uptime", "version"))
_DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "VECLIB", "BLIS")
SCRATCH = "/scratch"
"""Where a turn may write, in the sandbox's own file system."""

STORE = "/states"
"""Where init keeps copies of what was in scratch."""

_FREE_UIDS = (0x70000000, 0x0FFFFFFE)  # above what systemd gives to containers
_FEW_UIDS = (61184, 4000)  # what systemd gives to services: where root's own map is small


UNSAFE = "unsafe"
"""The tier of who has asked to run code without walls, where there are none."""


@dataclass(frozen=True, slots=True)
class Grants:
    """Folders of the host that turns may use, on the person's own word: at their own paths, and to import from."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """All that starting init takes."""

    tier: str
    command: list[str]
    environment: dict[str, str]
    plan: dict[str, object]
    root: str
    """The real scratch folder, or "" where scratch lives in the sandbox's memory."""
    grants: Grants


def plan(
    limits: Limits,
    *,
    outside: str,
    grants: Grants | None = None,
    without: Collection[str] = (),
    unsafe: bool = False,
    bwrap_lacks: str = "",
) -> Start:
    """Choose the walls for this machine. Bubblewrap, where it is installed, is taken to work: to try it first costs each start.

    Args:
        limits: What a turn may use.
        outside: A folder with one readable file in it, for the walls' own test.
        grants: What else it may read and write.
        without: Layers to leave away, "bwrap" or "landlock", to test the others by themselves.
        unsafe: Go on where too little holds, with what does.
        bwrap_lacks: Why bubblewrap does not work here, once that has shown.

    Raises:
        SandboxUnavailable: Too little holds here; the message says what, and what to do.
        UsageError: A folder that cannot be granted.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(f"no sandbox on {sys.platform}: run codegen-chat in a Linux machine (a VM, or WSL2 on Windows)")
    granted = _checked(grants or Grants())
    try:
        return _walled(limits, outside, granted, without, bwrap_lacks)
    except SandboxUnavailable:
        if not unsafe:
            raise
        return _start(UNSAFE, limits, None, granted, root=f"{outside}/scratch", outside=outside)


def _walled(limits: Limits, outside: str, grants: Grants, without: Collection[str], lacks_bwrap: str) -> Start:
    if not walls.seccomp_known():
        raise SandboxUnavailable(
            "the kernel offers no seccomp filter for this machine: use a Linux 4.14 or later on x86_64 or aarch64"
        )
    landlock = "landlock" not in without and walls.landlock_version() >= walls.LANDLOCK_NEEDED
    if "bwrap" in without:
        lacks_bwrap = "left away"
    elif not Path(BWRAP).exists():
        lacks_bwrap = NOT_INSTALLED
    if lacks_bwrap and not landlock:
        raise SandboxUnavailable(
            f"neither bubblewrap ({lacks_bwrap}) nor Landlock holds here: {INSTALL_BWRAP}, or use Linux 6.2 or later"
        )
    uid = _free_uid() if os.getuid() == 0 else None
    if uid is not None:
        _reachable_by_another_uid(grants, by_path=bool(lacks_bwrap))
    if not lacks_bwrap:
        return _start("A" if landlock else "A-", limits, uid, grants, root="", outside=outside)
    if uid is not None and (unreachable := hidden_from_others()):
        raise SandboxUnavailable(
            f"only root can read {unreachable}, and no code is run as root: {INSTALL_BWRAP} (here: {lacks_bwrap}), "
            "or use a Python that everybody can read"
        )
    return _start("B", limits, uid, grants, root=f"{outside}/scratch", outside=outside)


def hidden_from_others() -> str:
    """Return a path of the interpreter's or the packages' that only some can read, "" where everybody can read all."""
    return next((path for path in (*_interpreter(), *_packages()) if not _readable_by_all(path)), "")


def _checked(grants: Grants) -> Grants:
    """Return granted folders by their real paths.

    A folder that may be written to must lie apart from every other one: what was planted in it would be followed when the next
    sandbox is made, and code of ours that lay in it would run outside.
    """
    real: dict[str, list[str]] = {"read": [], "write": []}
    for flag, paths in (("read", grants.read), ("write", grants.write)):
        for path in paths:
            folder = os.path.realpath(path)
            if not Path(folder).is_dir():
                raise UsageError(f"--allow-{flag} {path}: there is no such folder")
            if folder == "/" or any(_overlap(folder, kept) for kept in ("/proc", "/sys", "/dev", SCRATCH, STORE)):
                raise UsageError(f"--allow-{flag} {path}: this folder cannot be granted")
            if Path(tempfile.gettempdir()).resolve().is_relative_to(folder):
                raise UsageError(f"--allow-{flag} {path}: the folder for temporary files lies in it; grant a folder below")
            real[flag].append(folder)
    for folder in real["write"]:
        others = [other for other in (*real["read"], *real["write"]) if other != folder]
        for other in (*others, *_interpreter(), *_packages(), *_SYSTEM, _package_root()):
            if _overlap(folder, os.path.realpath(other)):
                raise UsageError(f"--allow-write {folder}: it and {other} lie in one another")
    return Grants(tuple(real["read"]), tuple(real["write"]))


def _overlap(one: str, other: str) -> bool:
    return Path(one).is_relative_to(other) or Path(other).is_relative_to(one)


def _reachable_by_another_uid(grants: Grants, *, by_path: bool) -> None:
    """See that a grant of root's is one: code runs under another uid, which file modes hold off."""
    for flag, folders, wanted in (("read", grants.read, 0o5), ("write", grants.write, 0o7)):
        for folder in folders:
            mode = Path(folder).stat().st_mode
            if mode & wanted != wanted or (by_path and not _readable_by_all(folder)):
                raise UsageError(
                    f"--allow-{flag} {folder}: as root, code runs under another uid, which may not {flag} there; "
                    f"chmod o+{'rx' if flag == 'read' else 'rwx'} it, or start codegen-chat as its owner"
                )


def bwrap_lacks() -> str:
    """Try bubblewrap. Return "" where it works, else why not."""
    if not Path(BWRAP).exists():
        return NOT_INSTALLED
    attempt = subprocess.run(
        [BWRAP, *_namespaces(), "--ro-bind", "/", "/", "--proc", "/proc", "/bin/true"],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        env={},
        timeout=20,
        check=False,
    )
    return "" if attempt.returncode == 0 else (attempt.stderr.decode(errors="replace").strip().splitlines() or ["it fails"])[-1]


def _start(tier: str, limits: Limits, uid: int | None, grants: Grants, *, root: str, outside: str) -> Start:
    namespace = not root
    scratch = root or SCRATCH
    readable = [path for path in (*_interpreter(), *_packages(), *_SYSTEM, *_FILES, *_source()) if Path(path).exists()]
    needed = [path for path in (*readable, *grants.read, *grants.write) if namespace and path.startswith("/tmp/")]  # noqa: S108
    below_tmp = [path for path in needed if not any(path.startswith(other + "/") for other in needed)]
    shared = ["/dev/shm", *(["/tmp"] if below_tmp else [])] if namespace else []  # noqa: S108
    files_caps = [walls.CAP_CHOWN, walls.CAP_DAC_OVERRIDE, walls.CAP_FOWNER]
    root_caps = [walls.CAP_KILL, walls.CAP_SYS_PTRACE, *files_caps]
    return Start(
        tier=tier,
        command=[*(_bwrap(readable, grants, work_uid=uid) if namespace else []), *_python()],
        environment=_environment(f"{scratch}/work", f"{scratch}/tmp"),  # noqa: S108  ours alone, inside
        plan={
            "limits": asdict(limits),
            "namespace": namespace,
            "landlock": tier in {"A", "B"},
            "filtered": walls.seccomp_known(),
            "uid": uid,
            "shared_uid": uid is None,
            "keep": root_caps if uid is not None else [walls.CAP_SYS_PTRACE, *files_caps] if namespace else [],
            "scratch": scratch,
            "store": STORE if namespace else f"{outside}/states",
            "below_tmp": below_tmp,
            "remove": outside if root else "",
            "readable": [*readable, *_FACTS, *_DEVICES, *grants.read],
            "writable": ["/dev/null", scratch, *shared, *grants.write],
            "search": [*_packages(), *grants.read, *grants.write],
            "forbidden": [f"{outside}/canary", *_file_of_home(grants)],
            "outside": outside,
        },
        root=root,
        grants=grants,
    )


def _bwrap(readable: list[str], grants: Grants, *, work_uid: int | None) -> list[str]:
    """Bubblewrap's arguments. Every path is ours or granted: nothing below what a turn wrote is ever bound or mounted over."""
    arguments = [BWRAP, *_namespaces(), "--as-pid-1", "--hostname", "sandbox", "--cap-drop", "ALL"]
    capabilities = ["SYS_ADMIN", "SYS_PTRACE", "SETPCAP", "DAC_OVERRIDE", "CHOWN", "FOWNER"]
    if work_uid is not None:
        capabilities += ["SETUID", "SETGID", "KILL"]
    for name in capabilities:
        arguments += ["--cap-add", f"CAP_{name}"]
    made: set[Path] = {Path("/")}
    for path in readable:
        # bubblewrap would make missing parents 0700, for root alone.
        arguments += _parents(Path(path), made)
        arguments += ["--ro-bind", path, path]
    for how, folders in (("--ro-bind", grants.read), ("--bind", grants.write)):
        for folder in folders:
            arguments += [*_parents(Path(folder), made), how, folder, folder]
    for name in _ROOT_LINKS:
        if Path(name).is_symlink():
            arguments += ["--symlink", str(Path(name).readlink()), name]
        elif Path(name).exists():
            arguments += ["--ro-bind", name, name]
    for folder in ("/proc", SCRATCH, STORE, "/dev/shm"):  # noqa: S108
        arguments += [*_parents(Path(folder), made), "--perms", "0755", "--dir", folder]
    for device in _DEVICES:
        arguments += ["--dev-bind", device, device]
    if Path("/tmp") not in made:  # noqa: S108  else something that we need lies there, and init sees to it
        arguments += ["--symlink", f"{SCRATCH}/tmp", "/tmp"]  # noqa: S108
    arguments += ["--symlink", "/proc/self/fd", "/dev/fd", "--proc", "/proc", "--remount-ro", "/", "--chdir", "/", "--"]
    return arguments


def _parents(path: Path, made: set[Path]) -> list[str]:
    arguments = []
    for parent in reversed(path.parents):
        if parent not in made:
            made.add(parent)
            arguments += ["--perms", "0755", "--dir", str(parent)]
    made.add(path)
    return arguments


def _namespaces() -> list[str]:
    user = [] if os.getuid() == 0 else ["--unshare-user"]
    return [*user, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]


def _python() -> list[str]:
    """A bare interpreter: no site, no user packages, nothing from the working folder, all text UTF-8."""
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    begin = (
        f"import sys; sys.path.append({_package_root()!r}); from codegen_chat.sandbox.init import main; "
        "sys.path.pop(); main(int(sys.argv[1]), int(sys.argv[2]))"
    )
    return [executable, "-s", "-S", "-P", "-B", "-X", "utf8", "-c", begin]


def _environment(work: str, temporary: str) -> dict[str, str]:
    """What a turn finds in os.environ: nothing of the person's but the time zone."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": work,
        "TMPDIR": temporary,
        "USER": "sandbox",
        "LOGNAME": "sandbox",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",  # sets come out in the same order when a session is replayed
        "MPLBACKEND": "Agg",
        "MPLCONFIGDIR": f"{temporary}/matplotlib",
        **{f"{name}_NUM_THREADS": "1" for name in _THREADS},
        **({"TZ": os.environ["TZ"]} if "TZ" in os.environ else {}),
    }


def _interpreter() -> tuple[str, ...]:
    """The executable, the standard library, and the folder of libpython."""
    executable = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    paths = [executable, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    library = sysconfig.get_config_var("LDLIBRARY")
    folder = sysconfig.get_config_var("LIBDIR")
    if isinstance(library, str) and isinstance(folder, str) and ".so" in library:
        paths += [str(path) for path in Path(folder).glob(library + "*")]
    return tuple(dict.fromkeys(paths))


def _packages() -> tuple[str, ...]:
    """The folders of installed packages that this interpreter imports from."""
    known = {*site.getsitepackages(), site.getusersitepackages()}
    installed = (path for path in sys.path if path in known or Path(path).name in {"site-packages", "dist-packages"})
    return tuple(path for path in installed if Path(path).is_dir())


def _source() -> tuple[str, ...]:
    """This package itself, where it is not among the installed ones (an editable installation)."""
    root = Path(_package_root())
    return () if str(root) in _packages() else (str(root / "codegen_chat"),)


def _package_root() -> str:
    return str(Path(__file__).resolve().parents[2])


def _readable_by_all(path: str) -> bool:
    real = Path(path).resolve()
    try:
        folders = all(parent.stat().st_mode & stat.S_IXOTH for parent in real.parents)
        return folders and bool(real.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _free_uid() -> int:
    """A uid that nobody has, new for each sandbox: its processes can be counted, and two sandboxes cannot reach each other."""
    for first, count in (_FREE_UIDS, _FEW_UIDS):
        uid = first + secrets.randbelow(count)
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            begin, _, length = map(int, line.split())
            if begin <= uid < begin + length:
                return uid
    raise SandboxUnavailable("root has no other uid to run code under in this container: start codegen-chat as an ordinary user")


def _file_of_home(grants: Grants) -> list[str]:
    """One readable file in the person's home, which the walls' own test must then fail to read."""
    try:
        home = Path.home().resolve()
        if any(home.is_relative_to(folder) for folder in (*grants.read, *grants.write)):
            return []
        return [str(path) for path in home.iterdir() if path.is_file() and os.access(path, os.R_OK)][:1]
    except (OSError, RuntimeError):
        return []
