"""What the attacks are aimed at, and how their effects are seen from outside: files, listeners, a process, a product."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import numpy as np

from codegen_chat.turn import Change, Execution, Failure

ROOT = Path(__file__).resolve().parents[2]
_OPEN_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/run/user/1000", "/var/crash", "/mnt", "/srv")
LIMITS = {"timeout": 5.0, "memory": 256 << 20, "processes": 24, "output": 32 << 10, "disk": 8 << 20, "files": 512}


@dataclass(frozen=True)
class Leg:
    """One way to run the same attacks: layers left away or taken by the system, and whose product it is (None: ours)."""

    name: str
    without: tuple[str, ...] = ()
    blocked: tuple[str, ...] = ()
    uid: int | None = None
    tier: str = "A"
    public: bool = False
    """Whether the interpreter must be one that everybody can read."""


def legs(*, every: bool = True) -> list[Leg]:
    """The legs that this uid can run: as root all, as an ordinary user those of an ordinary user. Else one for each wall."""
    if os.getuid() != 0:
        found = [Leg("A-as-user"), Leg("B-as-user-without-namespaces", blocked=("namespaces",), tier="B")]
        more = [Leg("A-as-user-without-landlock", blocked=("landlock",), tier="A-")]
    else:
        found = [Leg("A-as-root"), Leg("B-as-user-without-namespaces", (), ("namespaces",), 1000, "B", public=True)]
        more = [
            Leg("A-as-user", uid=1000, public=True),
            Leg("B-as-root-without-namespaces", (), ("namespaces",), tier="B", public=True),
            Leg("A-as-root-without-landlock", (), ("landlock",), tier="A-"),
            Leg("A-as-user-without-landlock", (), ("landlock",), 1000, "A-", public=True),
        ]
    return [*found, *more] if every else found


@dataclass
class Host:
    """A person's machine: a home with secrets, listeners, a neighbour process, and a product whose sandbox is attacked."""

    leg: Leg
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    """Folders below `folder` that are granted: `given` and `shared` are there."""
    changed: tuple[tuple[str, str, str], ...] = ()
    """Changes of a copy of the package: file, old text, new text."""
    parked: int = field(init=False, default=0)
    folder: Path = field(init=False)
    token: str = field(init=False)

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="attacked-"))
        self.folder.chmod(0o755)
        self.token = "token-" + secrets.token_hex(16)
        self.mark = "mark-" + secrets.token_hex(8)
        self.home = self.folder / "home"
        self.out = Path(tempfile.mkdtemp(prefix="copied-"))
        if self.leg.uid is not None:
            os.chown(self.out, self.leg.uid, self.leg.uid)
        self._furnish()
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.unix.bind(str(self.folder / "socket"))
        (self.folder / "socket").chmod(0o777)
        self.abstract = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.abstract.bind("\0" + self.token[:20])
        python, path = self._python()
        as_user = _as(self.leg.uid)
        environment = {"HOME": str(self.home), "SECRET_TOKEN": self.token, "PYTHONPATH": path, "PATH": os.environ["PATH"]}
        self.neighbour = subprocess.Popen([python, "-S", "-c", "import time; time.sleep(3600)"], env=environment, **as_user)
        driver = shutil.copy(Path(__file__).with_name("driver.py"), self.folder / "driver.py")
        settings = json.dumps(
            {
                "limits": LIMITS,
                "without": self.leg.without,
                "blocked": self.leg.blocked,
                "secret": str(self.home / "secret.txt"),
                "read": [str(self.folder / name) for name in self.read],
                "write": [str(self.folder / name) for name in self.write],
            }
        )
        self.product = subprocess.Popen(
            [python, "-W", "error", str(driver), settings],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.home,
            **as_user,
        )
        self.answer = self._read()
        return self

    def __exit__(self, *_: object) -> None:
        sandbox = self.sandbox_pids()
        for process in (self.product, self.neighbour):
            process.kill()
            process.wait()
        gone(sandbox, 60)  # what a stopped init has still to remove is not the next machine's
        for stream in (self.product.stdin, self.product.stdout):
            if stream:
                stream.close()
        for listener in (self.tcp, self.udp, self.unix, self.abstract):
            listener.close()
        shutil.rmtree(self.folder)
        shutil.rmtree(self.out)

    def _furnish(self) -> None:
        (self.home / ".ssh").mkdir(parents=True)
        (self.home / "secret.txt").write_text(self.token)
        os.setxattr(self.home / "secret.txt", "user.note", self.token.encode())
        (self.home / ".ssh" / "id_rsa").write_text(self.token)
        (self.home / ".bashrc").write_text("# mine\n")
        (self.folder / "given").mkdir()
        (self.folder / "given" / "data.csv").write_text("a,b\n1,2\n")
        (self.folder / "given" / "mine.py").write_text("def twice(x):\n    return 2 * x\n")
        (self.folder / "shared").mkdir()
        (self.folder / "shared").chmod(0o777)
        (self.home / "stolen.py").write_text(f"token = '{self.token}'\n")
        os.mkfifo(self.home / "pipe")
        if self.leg.uid is not None:
            for path in (self.home, *self.home.rglob("*"), self.folder / "given", self.folder / "shared"):
                os.chown(path, self.leg.uid, self.leg.uid)

    def _python(self) -> tuple[str, str]:
        """The product's interpreter, and where it finds its packages."""
        package = ROOT / "src"
        if self.leg.public or self.changed:
            package = self.folder / "public"
            shutil.copytree(
                ROOT / "src" / "codegen_chat",
                package / "codegen_chat",
                ignore=shutil.ignore_patterns("assets", "train", "__pycache__"),
            )
        for name, old, new in self.changed:
            path = package / "codegen_chat" / "sandbox" / name
            text = path.read_text()
            assert text.count(old) == 1, (name, old)
            path.write_text(text.replace(old, new))
        if not self.leg.public:
            return sys.executable, str(package)
        python, packages = _public_python(self.folder)
        return python, f"{package}:{packages}"

    def execute(
        self,
        code: str,
        *,
        parent: str | None = None,
        turn: str | None = None,
        timeout: float = 5.0,
        save: Path | None = None,
        asks: tuple[str, ...] = (),
    ) -> Execution:
        """Run code in the product; then have its files, and those asked for besides, copied to `save`."""
        assert self.product.stdin is not None
        request = {"code": code, "parent": parent, "turn": turn, "timeout": timeout, "save": save and str(save), "asks": asks}
        self.product.stdin.write(json.dumps(request) + "\n")
        self.product.stdin.flush()
        answer = self._read()
        if save is not None:
            self._read()
        self.parked = answer.pop("parked")
        failure = answer.pop("failure")
        answer["changes"] = tuple(Change(**change) for change in answer["changes"])
        return Execution(**answer, failure=Failure(**failure) if failure else None)

    def _read(self) -> dict[str, Any]:
        assert self.product.stdout is not None
        line = self.product.stdout.readline()
        assert line, "the product died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def filled(self, code: str) -> str:
        """Put this machine's facts in place of the names that attacks use for them."""
        facts = {
            "«home»": str(self.home),
            "«secret»": str(self.home / "secret.txt"),
            "«folder»": str(self.folder),
            "«tcp»": str(self.tcp.getsockname()[1]),
            "«udp»": str(self.udp.getsockname()[1]),
            "«unix»": str(self.folder / "socket"),
            "«abstract»": self.token[:20],
            "«neighbour»": str(self.neighbour.pid),
            "«product»": str(self.product.pid),
            "«root»": str(ROOT),
            "«mark»": self.mark,
            "«esc»": "\x1b",
            "«bidi»": "\u202e",
        }
        for name, fact in facts.items():
            code = code.replace(name, fact)
        return code

    def marks(self) -> dict[str, object]:
        """Everything on this machine that an attack could change."""
        marks: dict[str, object] = {}
        for path in sorted((*self.home.rglob("*"), *(self.folder / "given").rglob("*"), *(self.folder / "shared").rglob("*"))):
            facts = path.lstat()
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            marks[str(path)] = (facts.st_mode, facts.st_uid, facts.st_mtime_ns, facts.st_nlink, content, attributes)
        marks["planted"] = [folder for folder in _OPEN_FOLDERS if Path(folder, self.mark).exists()]
        marks["folder"] = sorted(entry.name for entry in self.folder.iterdir())
        for process in (self.neighbour, self.product):
            marks[f"alive {process.pid}"] = process.poll() is None and _state(process.pid) != "T"
        return marks

    def reached(self) -> list[str]:
        """Names of the listeners that somebody talked to."""
        listeners = {"tcp": self.tcp, "udp": self.udp, "unix": self.unix, "abstract": self.abstract}
        readable, _, _ = select.select(list(listeners.values()), [], [], 0)
        return [name for name, listener in listeners.items() if listener in readable]

    def sandbox_pids(self) -> set[int]:
        """Living processes below the product."""
        return below(self.product.pid)

    def awake(self) -> set[int]:
        """Those of them that are not stopped: while nothing runs, init alone, and what it was started with."""
        return {pid for pid in self.sandbox_pids() if _state(pid) not in "TtZX"}

    def left(self, awake: set[int], seconds: float = 5.0) -> list[str]:
        """Wait until nothing is left of a turn but what belongs there. Return what there is then, if there is more.

        These may be awake. Stopped are the empty state, the parked ones, and two copies that the next turn may run in.
        """
        deadline = time.monotonic() + seconds
        while True:
            pids, now = self.sandbox_pids(), self.awake()
            if now <= awake and len(pids - now) <= 1 + self.parked + 2:
                return []
            if time.monotonic() > deadline:
                return [line for pid in pids for line in _read_proc(pid, "status").splitlines()[:8]]
            time.sleep(0.02)

    def walled_pids(self) -> list[int]:
        """The processes that run a person's code, or could: the zygote, the states, a turn."""
        ours = _filters(self.product.pid)  # a leg may have one of its own
        return [pid for pid in self.sandbox_pids() if _filters(pid) > ours]

    def init_pid(self) -> int:
        """Their parent. One of them that ends while it is asked says nothing."""
        (pid,) = {int(fields[1]) for walled in self.walled_pids() if (fields := _fields(walled))}
        return pid

    def limits_in_force(self) -> bool:
        """Whether every process that runs a person's code is held to few processes and little data."""
        walled = self.walled_pids()
        return bool(walled) and all(
            _limit(pid, "Max processes") < 100_000 and _limit(pid, "Max data size") < 4 << 30 for pid in walled
        )


def below(pid: int) -> set[int]:
    """Return the living processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _fields(int(entry.name))) and fields[0] not in "ZX":
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def gone(pids: set[int], seconds: float = 10.0) -> bool:
    """Wait until none of these processes lives."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any((fields := _fields(pid)) and fields[0] not in "ZX" for pid in pids):
            return True
        time.sleep(0.02)
    return False


def _limit(pid: int, name: str) -> float:
    """Return a process's limit, 0 where it has ended meanwhile."""
    softs = [line[len(name) :].split()[0] for line in _read_proc(pid, "limits").splitlines() if line.startswith(name)]
    return max((float("inf") if soft == "unlimited" else float(soft) for soft in softs), default=0.0)


def _filters(pid: int) -> int:
    """How many filters of system calls a process has."""
    return sum(int(line.split()[1]) for line in _read_proc(pid, "status").splitlines() if line.startswith("Seccomp_filters:"))


def _state(pid: int) -> str:
    fields = _fields(pid)
    return fields[0] if fields else "X"


def _fields(pid: int) -> list[str]:
    return _read_proc(pid, "stat").rpartition(") ")[2].split()


def _read_proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _public_python(folder: Path) -> tuple[str, Path]:
    """An interpreter that another uid can run, and where it finds the packages that turns use."""
    same = f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}"
    for python in (getattr(sys, "_base_executable", sys.executable), "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([python, "-c", same], check=True, capture_output=True, cwd="/", **_as(65534))
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, _public_packages(folder)
    version = ".".join(map(str, sys.version_info[:2]))
    raise AssertionError(f"legs as another user need a Python {version} that everybody can run, such as /usr/bin/python3")


def _public_packages(folder: Path) -> Path:
    """The installed packages where everybody can read them, else a copy of those that turns use."""
    installed = Path(np.__file__).parents[1]
    try:
        subprocess.run(["/bin/ls", installed], check=True, capture_output=True, cwd="/", **_as(65534))
    except subprocess.CalledProcessError:
        copies = folder / "site-packages"
        for name in _needed({"pandas", "matplotlib"}):
            for file in metadata.files(name) or ():
                if ".." not in file.parts:
                    (copies / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file.locate(), copies / file)
        return copies
    return installed


def _needed(names: set[str]) -> set[str]:
    """These packages and all that they need."""
    needed: set[str] = set()
    while names:
        name = names.pop()
        needed.add(name)
        required = (re.split(r"[^\w.-]", line)[0] for line in metadata.requires(name) or () if "extra ==" not in line)
        names |= {other for other in required if other not in needed and _installed(other)}
    return needed


def _installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def _as(uid: int | None) -> dict[str, Any]:
    return {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
