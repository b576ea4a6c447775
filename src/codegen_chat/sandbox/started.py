"""A sandbox that has been started: init, the socket and the pipe to it, and its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from codegen_chat.errors import SandboxUnavailable
from codegen_chat.sandbox import outer, wire
from codegen_chat.sandbox.clean import clean
from codegen_chat.sandbox.scratch import clear
from codegen_chat.turn import Limits

if TYPE_CHECKING:
    from importlib.abc import SourceLoader
    from importlib.machinery import ModuleSpec

_START = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a sandbox is started with, and started again. As in `Kernel.start`."""

    limits: Limits
    imports: tuple[str, ...]
    grants: outer.Grants
    without: tuple[str, ...]
    unsafe: bool


class _NotStartedError(SandboxUnavailable):
    """Init ended before it had told anything."""


class Sandbox:
    """One init and the way to it."""

    def __init__(self, wanted: Wanted) -> None:
        try:
            self._start(wanted)
        except _NotStartedError:
            lacks = outer.bwrap_lacks() if self._namespace else ""
            if not lacks:
                raise
            self._start(wanted, lacks)

    def _start(self, wanted: Wanted, bwrap_lacks: str = "") -> None:
        self._outside = tempfile.mkdtemp(prefix="codegen-chat-")
        try:
            self._launch(wanted, bwrap_lacks)
        except BaseException:
            _remove(self._outside)
            raise

    def _launch(self, wanted: Wanted, bwrap_lacks: str) -> None:
        outside = Path(self._outside)
        (outside / "canary").write_text("nobody inside may read this")
        start = outer.plan(
            wanted.limits,
            outside=self._outside,
            grants=wanted.grants,
            without=wanted.without,
            unsafe=wanted.unsafe,
            bwrap_lacks=bwrap_lacks,
        )
        if start.root:
            Path(start.root).mkdir()
        outside.chmod(0o755)  # another uid must come through to its own folder below
        self.tier = start.tier
        self.grants = start.grants
        self._namespace = not start.root
        self._socket, theirs = socket.socketpair()
        alarm, self._alarm = os.pipe()
        self._reader = wire.Reader()
        with tempfile.TemporaryFile() as errors:
            try:
                self._process = subprocess.Popen(
                    [*start.command, str(theirs.fileno()), str(alarm)],
                    env=start.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    pass_fds=(theirs.fileno(), alarm),
                    cwd="/",
                    start_new_session=True,
                )
            finally:
                theirs.close()
                os.close(alarm)
            try:
                self._socket.settimeout(_START)
                self.send({**start.plan, "imports": wanted.imports})
                if not sys.dont_write_bytecode:
                    _compile()
                answer, _ = self.receive()
                self._socket.settimeout(None)
            except (wire.BrokenWireError, TimeoutError) as error:
                self.close()
                raise _NotStartedError(f"the sandbox did not start ({_last_line(errors) or error})") from error
        if answer["surprises"] and start.tier != outer.UNSAFE:
            self.close()
            raise SandboxUnavailable("the walls do not hold here: " + ", ".join(map(str, cast("list[str]", answer["surprises"]))))
        if self._namespace:
            _remove(self._outside)

    def send(self, head: wire.Head, body: bytes = b"") -> None:
        """Send a frame to init.

        Raises:
            wire.BrokenWireError: Init is gone.
        """
        try:
            self._socket.sendall(wire.encode(head, body))
        except OSError as error:
            raise wire.BrokenWireError("init is gone") from error

    def receive(self) -> tuple[wire.Head, bytes]:
        """Wait for a frame of init's.

        Raises:
            wire.BrokenWireError: Init is gone.
        """
        try:
            return wire.receive(self._socket, self._reader)
        except ConnectionError as error:
            raise wire.BrokenWireError("init is gone") from error

    def alive(self) -> bool:
        """Whether init is there. It says nothing unasked, so anything but silence is its end."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def alarm(self, serial: int) -> None:
        """Ask for the end of a turn. Safe in a signal handler."""
        with contextlib.suppress(OSError):
            os.write(self._alarm, b"%d\n" % serial)

    def close(self) -> None:
        """Hang up, which ends init and with it everything; make sure of it."""
        if self._process.poll() is None or self._socket.fileno() >= 0:
            self._socket.close()
            with contextlib.suppress(OSError):
                os.close(self._alarm)
            self._alarm = -1
        if not _ends(self._process, 10):
            self._process.kill()
        self._process.wait()
        if not self._namespace:
            _kill_session(self._process.pid)
        _remove(self._outside)


def _ends(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for the end of a process. Popen's own wait looks after pauses that double: it takes up to twice the time."""
    if process.poll() is not None:
        return True
    handle = os.pidfd_open(process.pid)
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        return bool(waiting.poll(1000 * seconds))
    finally:
        os.close(handle)


def _compile() -> None:
    """See that what only the sandbox imports is there compiled, for the next start: inside nothing can be written."""
    for name in ("init", "processes", "worker", "values"):
        spec = find_spec(f"codegen_chat.sandbox.{name}")
        cast("SourceLoader", cast("ModuleSpec", spec).loader).get_code(f"codegen_chat.sandbox.{name}")


def _kill_session(session: int) -> None:
    """Kill what an init that was itself killed has left. Inside, nobody can leave the session."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(int(entry.name))
                if int((entry / "stat").read_bytes().rpartition(b") ")[2].split()[3]) == session:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                os.close(handle)


def _remove(folder: str) -> None:
    """Remove the sandbox's folder of the host, if it is still there. Nobody who could write there is."""
    with contextlib.suppress(FileNotFoundError):
        clear(folder)
        Path(folder).rmdir()


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return clean(lines[-1]) if lines else ""
