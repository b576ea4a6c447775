"""The trusted process between the product and the turns: PID 1 of the sandbox. It runs no model code.

It alone starts, stops and kills, keeps the time, counts what is used, and says how a turn ended. Its protocol with the
product, on one socket: `execute` is answered by `output` frames and one `done` (or `gone`, where the parent's state is no
longer there), `read` by a `file`, `forget` and `expect` by nothing. Interrupts come on a pipe of their own, as the serial
number of the turn that they are meant for. When the socket closes, all ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import selectors
import signal
import socket
import sys
import time
from collections import OrderedDict
from itertools import accumulate
from types import SimpleNamespace

from codegen_chat.sandbox import limits, processes, walls, wire
from codegen_chat.sandbox.processes import Process
from codegen_chat.sandbox.scratch import Scratch, clear
from codegen_chat.sandbox.worker import Walls, zygote

TYPE_CHECKING = False  # from typing it would cost every start of a sandbox the import; so would dataclasses and pathlib
if TYPE_CHECKING:
    from typing import NoReturn

    from codegen_chat.turn import Limits

GRACE = 0.3
"""Seconds between SIGINT and SIGKILL."""

_TICK = 0.02
_TICK_IN_HOST = 0.05  # there are more processes to look through
_IDLE = 0.01
"""Seconds of silence after which there is time to get ready for the next turn."""
_TRIES = 20
_START = 60.0
_STUCK = 60
_NAMES = 1 << 15
"""Characters of file names that are told of a turn."""


def main(control: int, alarm: int) -> NoReturn:
    """Serve one product until it is gone. The arguments are open files: a stream socket, and a pipe's reading end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)  # the product says when to stop, by closing
    signal.signal(signal.SIGALRM, lambda _number, _frame: os._exit(1))
    product = socket.socket(fileno=control)
    reader = wire.Reader()
    plan, _ = wire.receive(product, reader)
    init = Init(product, alarm, plan)
    try:
        init.start()
        while True:
            while not (reader.holds_more() or _readable(product, _IDLE)) and init.prepare():
                pass
            head, body = wire.receive(product, reader)
            if head["do"] == "execute":
                init.execute(head, body)
            elif head["do"] == "read":
                init.read(str(head["name"]))
            elif head["do"] == "expect":
                init.expect(head["parent"], int(head["turns"]))
            else:
                init.forget(str(head["turn"]))
    except (wire.BrokenWireError, ConnectionError):
        pass
    finally:
        init.end()
    os._exit(0)


class _State:
    """A state of the person's program: a parked process, and copies of it where there are some to run the next turns in.

    The first turn from a state runs in the process that the state came about in, and the copy stays. The other way round every
    state would be forked from the one before, and the kernel's bookkeeping of who shares which pages with whom would grow with
    each; it is most of what a fork costs then. Later ones run in copies.
    """

    def __init__(self, process: Process, *, fresh: bool) -> None:
        self.process = process
        self.fresh = fresh
        self.ready: list[Process] = []

    def processes(self) -> list[Process]:
        return [self.process, *self.ready]

    def stop(self) -> bool:
        """Stop them all. Return False where one has ended or cannot be held."""
        stopped = [process.stop() for process in self.processes()]
        return all(stopped)

    def close(self) -> None:
        for process in self.processes():
            process.close()


class _Run:
    """A turn that is running: its process, our ends of the pipes, and what is known so far."""

    def __init__(self, process: Process, pipes: dict[int, str], serial: int, started: float, deadline: float) -> None:
        self.process = process
        self.pipes = pipes
        self.serial = serial
        self.started = started
        self.deadline = deadline
        self.sockets = 0
        self.free = 0
        self.reader = wire.Reader(limits.REPORT_BYTES)
        self.pending = {"stdout": b"", "stderr": b""}
        self.report: bytes | None = None
        self.reason = ""
        self.note = ""
        self.remarks: list[str] = []
        self.kill_at: float | None = None
        self.written = 0
        self.truncated = 0
        self.ended = False


class Init:
    """The processes of one sandbox."""

    def __init__(self, product: socket.socket, alarm: int, plan: wire.Head) -> None:
        self._product = product
        self._alarm = alarm
        self._plan = plan
        self._limits: Limits = SimpleNamespace(**plan["limits"])  # type: ignore[assignment]
        self._namespace = bool(plan["namespace"])
        self._scratch = str(plan["scratch"])
        self._parked: OrderedDict[str, _State] = OrderedDict()
        self._all = processes.Processes(own_namespace=self._namespace)
        self._zygote: _State | None = None
        self._likely: dict[str | None, int] = {None: 1}
        os.set_blocking(alarm, False)

    # -- start and end

    def start(self) -> None:
        """Make the scratch folder and the empty state; tell the product what the walls' own test found."""
        plan = self._plan
        uid = plan["uid"]
        if self._namespace:
            walls.die_with_parent()
            walls.mount_tmpfs(self._scratch, size=self._limits.disk, files=self._limits.files)
            walls.mount_tmpfs("/dev/shm", size=self._limits.disk // 4, files=256)  # noqa: S108  our namespace's own
        else:
            walls.adopt_orphans()
            os.mkdir(str(plan["store"]), 0o700)
        shared = ["/dev/shm"] if self._namespace else []  # noqa: S108
        # The folder itself last: once it is the turns', only they make anything in there.
        for folder in (os.environ["HOME"], os.environ["TMPDIR"], self._scratch, *shared):
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            if uid is not None:
                os.chown(folder, uid, uid)
        self._share_tmp(plan["below_tmp"])
        walls.not_dumpable()
        zygote = self._spawn_zygote(uid)
        self._zygote = _State(zygote, fresh=False)
        if self._namespace:
            walls.own_mounts()  # the turns' have no copies to read or change
            walls.mount_tmpfs(str(plan["store"]), size=4 * self._limits.disk, files=16 * self._limits.files)
        walls.keep_capabilities(*plan["keep"])
        zygote.control.settimeout(_START)
        answer, _ = wire.receive(zygote.control, wire.Reader())
        zygote.stop()
        found = [*answer["surprises"], *walls.seen_from_outside(zygote.pid)]
        zygote.memory = processes.memory(zygote.pid)
        self._files = Scratch([self._scratch, *shared], str(plan["store"]), uid)
        self._product.sendall(wire.encode({"say": "ready", "surprises": found}))

    def _share_tmp(self, needed: list[str]) -> None:
        """Where the interpreter or the like lies below /tmp, make /tmp our folder for such files with that in it."""
        for path in needed:
            place = os.environ["TMPDIR"] + path.removeprefix("/tmp")  # noqa: S108
            folder = os.path.isdir(path)
            os.makedirs(place if folder else os.path.dirname(place), exist_ok=True)
            if not folder:
                os.close(os.open(place, os.O_WRONLY | os.O_CREAT))
            walls.bind(path, place)
        if needed:
            walls.bind(os.environ["TMPDIR"], "/tmp")  # noqa: S108

    def _spawn_zygote(self, uid: int | None) -> Process:
        plan = self._plan
        ours, theirs = _channel()
        shared = bool(plan["shared_uid"])
        inner = Walls(
            limits=self._limits,
            uid=uid,
            landlock=bool(plan["landlock"]),
            metadata=self._namespace or not shared,
            signals=self._namespace
            or not shared
            or (bool(plan["landlock"]) and walls.landlock_version() >= 6),  # it scopes signals
            others=limits.tasks_of_user() if shared and not self._namespace else 0,
            readable=tuple(plan["readable"]),
            writable=tuple(plan["writable"]),
            search=tuple(plan["search"]),
            scratch=os.environ["HOME"],
            forbidden=tuple(plan["forbidden"]),
            outside=str(plan["outside"]),
            imports=tuple(plan["imports"]),
            filtered=bool(plan["filtered"]),
        )
        gc.freeze()  # the zygote's collection then leaves our pages alone
        pid = os.fork()
        if pid == 0:
            try:
                self._product.close()
                ours.close()
                os.close(self._alarm)
                zygote(theirs, inner)
            except BaseException:  # noqa: BLE001  the product reads this where it reports why nothing started
                sys.excepthook(*sys.exc_info())
            os._exit(1)
        theirs.close()
        return Process(pid, os.pidfd_open(pid), ours)

    def end(self) -> None:
        """Leave nothing behind: no process, and no file where the scratch folder is a real one."""
        for process in self._registered():
            process.close()
        self._parked.clear()
        self._zygote = None
        self._all.sweep(set())
        if self._plan["remove"]:
            with contextlib.suppress(OSError):  # the product tries again
                clear(str(self._plan["remove"]))
                os.rmdir(str(self._plan["remove"]))

    def forget(self, turn: str) -> None:
        """Drop a state."""
        state = self._parked.pop(turn, None)
        if state is not None:
            state.close()
            self._files.forget(turn)
            self._all.reap()

    def read(self, name: str) -> None:
        """Hand out a file of the working folder."""
        data = self._files.read(os.environ["HOME"], name, self._limits.disk)
        self._product.sendall(wire.encode({"say": "file", "there": data is not None}, data or b""))

    def expect(self, parent: str | None, turns: int) -> None:
        """Note that so many turns are about to run from a state."""
        self._likely[parent] = min(turns, limits.READY)

    def prepare(self) -> bool:
        """Copy a state that the next turn probably runs from, so that it need not wait for that. Return whether one was copied.

        That is the state that came last, for who goes back by a turn or tries one again the state before, and what is announced.
        """
        states = self._states()
        for name in states.keys() - self._likely.keys():
            while states[name].ready:
                states[name].ready.pop().close()
        likely = ((states[name], copies) for name, copies in self._likely.items() if name in states)
        state = next((state for state, copies in likely if len(state.ready) < copies), None)
        if state is None:
            return False
        self._all.exits.clear()
        signal.alarm(_STUCK)
        copy = self._copied(state)
        if copy is not None:
            state.ready.append(copy)
        self._settle_all(None)
        signal.alarm(0)
        return copy is not None

    # -- one turn

    def execute(self, head: wire.Head, code: bytes) -> None:
        """Run code from a state; keep what comes of it as a state of its own where a turn's id is given."""
        parent, turn = head["parent"], head["turn"]
        self._all.exits.clear()
        signal.alarm(int(head["timeout"]) + _STUCK)  # whatever holds us up, the sandbox must not outlive it
        source = self._states().get(parent)
        started = time.monotonic()
        whole = self._files.return_to(parent) if source is not None else True
        run = self._begin(source, code, head, started) if source is not None else None
        if run is None:
            self._settle_all(None)  # there may be a child all the same
            if parent is not None:
                self.forget(parent)
            self._product.sendall(wire.encode({"say": "gone"}))
            return
        if parent is not None:
            self._parked.move_to_end(parent)
        if not whole:
            run.remarks.append("files are not what they were in the state before: it had more than is kept")
        self._watch(run)
        self._settle(run, turn)
        self._likely = {turn: 1, parent: 1} if turn in self._parked else {parent: 1}
        old = self._oldest()
        self._flush(run)
        self._product.sendall(wire.encode(self._verdict(run, turn), run.report or b""))
        for name, state in old:  # the product need not wait for this
            state.close()
            self._files.forget(name)
        self._all.reap()
        signal.alarm(0)

    def _copied(self, state: _State) -> Process | None:
        """Have a second process in a state. Return the one to run a turn in, None where there is no copy to be had."""
        copy = self._copy(state.process, b"clone")
        if copy is None or not state.fresh:
            return copy
        state.process, copy, state.fresh = copy, state.process, False
        state.process.memory = copy.memory
        return copy

    def _copy(self, source: Process, how: bytes) -> Process | None:
        """Have a parked process make another one like itself, a child of ours too. Return None where it does not."""
        ours, theirs = _channel()
        try:
            source.order(how, theirs.fileno())
            return self._identified(int(source.control.recv(16)), ours)
        except (OSError, ValueError):  # it does not listen, or names no process that can be the one
            ours.close()
            return None
        finally:
            theirs.close()

    def _identified(self, pid: int, control: socket.socket) -> Process:
        """Take a process for the copy that was asked for, if it can be: a child of ours that is nothing else."""
        if pid in {process.pid for process in self._registered()} or processes.parent(pid) != os.getpid():
            raise ValueError(pid)
        return Process(pid, os.pidfd_open(pid), control)

    def _begin(self, source: _State, code: bytes, head: wire.Head, started: float) -> _Run | None:
        """Have a process of a state run code. Return None where there is none that would."""
        if self._plan["shared_uid"] and not self._namespace:
            limits.follow_user([process.pid for process in source.processes()], self._limits)
        process = source.ready.pop() if source.ready else self._copied(source)
        if process is None:
            return None
        source.process.signal(signal.SIGSTOP)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        for descriptor in (out, err):
            os.set_blocking(descriptor, False)
        file = os.memfd_create("code")
        os.write(file, b"%s\n%s" % (str(head["label"]).encode(), code))
        os.lseek(file, 0, os.SEEK_SET)
        deadline = started + float(head["timeout"])
        run = _Run(process, {out: "stdout", err: "stderr"}, int(head["serial"]), started, deadline)
        run.sockets, run.free = processes.sockets(), 0 if self._namespace else processes.free(self._scratch)
        try:
            process.order(b"last" if head["turn"] is None else b"run", out_end, err_end, file)
        except OSError:
            process.close()
            os.close(out)
            os.close(err)
            return None
        finally:
            for descriptor in (out_end, err_end, file):
                os.close(descriptor)
        source.process.stop()
        process.control.setblocking(False)
        return run

    def _watch(self, run: _Run) -> None:
        """Serve a running turn until it has reported, ended, or been ended."""
        selector = selectors.DefaultSelector()
        control = run.process.control.fileno()
        for source in (control, run.process.handle, self._alarm, self._product.fileno(), *run.pipes):
            selector.register(source, selectors.EVENT_READ)
        step = _TICK if self._namespace else _TICK_IN_HOST
        tick = run.started + step
        while run.report is None and not run.ended:
            due = min(tick, run.deadline if not run.reason else tick, run.kill_at or tick)
            for key, _ in selector.select(max(0.0, due - time.monotonic())):
                if key.fd in run.pipes:
                    self._take_output(run, key.fd, selector)
                elif key.fd == self._alarm:
                    if run.serial in self._alarms():
                        self._interrupt(run, "interrupted")
                elif key.fd == control:
                    self._take_message(run, selector)
                elif key.fd == self._product.fileno():
                    raise wire.BrokenWireError  # it speaks only between turns: this is its end
                elif run.report is None:
                    run.ended = True  # the pidfd
            now = time.monotonic()
            if now >= run.deadline:
                self._interrupt(run, "timeout")
            if run.kill_at is not None and now >= run.kill_at:
                self._kill(run)
            if now >= tick:
                tick = now + step
                self._check_use(run)
                self._flush(run, wait=False)
        selector.close()

    def _take_output(self, run: _Run, pipe: int, selector: selectors.BaseSelector | None) -> bool:
        """Read what is there. Return whether there may be more."""
        try:
            piece = os.read(pipe, 1 << 16)
        except BlockingIOError:
            return False
        if not piece:
            if selector is not None:
                selector.unregister(pipe)
            return False
        room = max(0, self._limits.output - run.written)
        run.written += len(piece)
        run.pending[run.pipes[pipe]] += piece[:room]
        run.truncated += len(piece[room:].decode(errors="ignore"))
        if run.written > limits.HARD_OUTPUT * self._limits.output and not run.reason:
            run.reason = "output"
            self._kill(run)
        return True

    def _take_message(self, run: _Run, selector: selectors.BaseSelector) -> None:
        """Read from the turn's channel: its report, and whether it is the turn's process that sends it."""
        try:
            piece, sender = wire.receive_from(run.process.control)
        except BlockingIOError:
            return
        except ConnectionResetError:
            piece, sender = b"", 0
        if not piece:
            selector.unregister(run.process.control)
            return
        try:
            if run.process.pid != sender:
                raise wire.BrokenWireError("another process spoke for the turn")  # noqa: TRY301  the same end for all of these
            for head, body in run.reader.feed(piece):
                if head.get("report") is not True:
                    raise wire.BrokenWireError("it sent what is no report")  # noqa: TRY301
                run.report = body
        except wire.BrokenWireError as error:
            run.note = str(error)
            self._kill(run)

    def _interrupt(self, run: _Run, reason: str) -> None:
        if run.reason:
            return
        run.reason = reason
        run.kill_at = time.monotonic() + GRACE
        run.process.signal(signal.SIGINT)

    def _kill(self, run: _Run) -> None:
        run.process.signal(signal.SIGKILL)
        run.ended = True

    def _check_use(self, run: _Run) -> None:
        """End a turn whose processes hold too much memory together, or that has filled the disk where no tmpfs stops it."""
        base = self._zygote.process.memory if self._zygote else 0
        turns = self._all.strays({process.pid for process in self._registered()})
        held = max(0, processes.sockets() - run.sockets) * limits.SOCKET_BYTES
        if held + sum(max(0, processes.memory(pid) - base) for pid in turns) > self._limits.memory:
            # That counted pages shared between forks for each of them. Exactly is slower, and only asked now.
            if held + sum(processes.memory_exactly(pid) for pid in turns) > self._limits.memory:
                run.reason = run.reason or "memory"
                self._kill(run)
        elif not self._namespace:
            used = self._files.used()
            if used.hidden or used.files > self._limits.files or used.bytes > self._limits.disk:
                run.note = "it filled its scratch folder"
            elif run.free - processes.free(self._scratch) > limits.HIDDEN_DISK:
                run.note = "the disk got fuller by more than 1 GiB while it ran"
            if run.note:
                run.reason = run.reason or "killed"
                self._kill(run)

    def _settle(self, run: _Run, turn: str | None) -> None:
        """Stop what goes on as a state, kill what does not, take the last output."""
        process = run.process
        wanted = run.report is not None and not run.reason and not run.note
        alive = self._settle_all(process if wanted else None)
        for pipe in run.pipes:
            while self._take_output(run, pipe, None):
                pass
            os.close(pipe)
        if alive and turn is not None and not run.reason:
            if not processes.plain(process.pid):
                process = self._renewed(process)
            process.memory = processes.memory(process.pid)
            self.forget(turn)
            self._parked[turn] = _State(process, fresh=True)
        else:
            run.note = run.note or self._ending(process.pid, run)
            process.close()

    def _renewed(self, process: Process) -> Process:
        """Put a copy in the place of a process, with nothing but its memory and its open files."""
        copy = self._copy(process, b"fork")
        self._settle_all(copy)
        if copy is None:
            return process
        process.close()
        return copy

    def _settle_all(self, keep: Process | None) -> bool:
        """Leave only the parked processes and this one, stopped: a turn may have made others, and woken or killed some.

        Return False where there is no such one, it has ended, or it cannot be held.
        """
        for _ in range(_TRIES):
            # First, so that the number of one that has ended is not kept for whoever has it now.
            stopped = keep is not None and keep.stop()
            self._stop_states()
            pids = {process.pid for process in self._registered()}
            if not self._all.sweep(pids | {keep.pid} if keep is not None and stopped else pids):
                return stopped  # all were stopped, and there was nobody to wake them
        return False

    def _stop_states(self) -> None:
        for name, state in list(self._parked.items()):
            if not state.stop():
                self.forget(name)
        if self._zygote is not None and not self._zygote.stop():
            self._zygote.close()
            self._zygote = None

    def _ending(self, pid: int, run: _Run) -> str:
        """How a process that did not report came to its end, in words."""
        status = self._all.exits.get(pid)
        if run.report is not None or run.reason or status is None:
            return ""
        if os.WIFSIGNALED(status):
            return f"ended by {signal.Signals(os.WTERMSIG(status)).name}"
        return f"left by itself with exit code {os.WEXITSTATUS(status)}"

    def _verdict(self, run: _Run, turn: str | None) -> wire.Head:
        """What is said of a turn, none of it in the turn's own words."""
        seen = self._files.look()
        written = self._files.written(seen, os.environ["HOME"])
        if turn in self._parked and not self._files.keep(turn, seen):
            run.remarks.append("it has more files than are kept: undo will not take them back")
        return {
            "say": "done",
            "status": run.reason or ("ok" if run.report is not None and not run.note else "killed"),
            "note": "; ".join(filter(None, (run.note, *run.remarks))),
            "duration": time.monotonic() - run.started,
            "truncated": run.truncated,
            "files": [name for name, size in zip(written, accumulate(map(len, written)), strict=True) if size <= _NAMES],
            "parked": list(self._parked),
        }

    def _flush(self, run: _Run, *, wait: bool = True) -> None:
        """Pass output on. While the turn runs, only if the product reads: a slow reader must not stop the clock."""
        for stream, data in run.pending.items():
            if data and (wait or _writable(self._product)):
                self._product.sendall(wire.encode({"say": "output", "stream": stream}, data))
                run.pending[stream] = b""

    def _alarms(self) -> set[int]:
        with contextlib.suppress(BlockingIOError):
            return {int(word) for word in os.read(self._alarm, 4096).split()}
        return set()

    # -- states

    def _registered(self) -> list[Process]:
        return [process for state in self._states().values() for process in state.processes()]

    def _states(self) -> dict[str | None, _State]:
        empty: list[tuple[str | None, _State]] = [(None, self._zygote)] if self._zygote else []
        return dict([*empty, *self._parked.items()])

    def _oldest(self) -> list[tuple[str, _State]]:
        """Take out the states that were used longest ago, beyond a number and beyond the memory of one turn."""
        old = []
        while len(self._parked) > limits.PARKED or (len(self._parked) > 1 and self._too_heavy()):
            old.append(self._parked.popitem(last=False))
        return old

    def _too_heavy(self) -> bool:
        base = self._zygote.process.memory if self._zygote else 0
        if sum(max(0, state.process.memory - base) for state in self._parked.values()) <= self._limits.memory:
            return False
        return sum(processes.memory_exactly(state.process.pid) for state in self._parked.values()) > self._limits.memory


def _channel() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets, of which the first tells who has sent what it receives."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def _readable(product: socket.socket, seconds: float) -> bool:
    return bool(select.select([product], [], [], seconds)[0])


def _writable(product: socket.socket) -> bool:
    return bool(select.select([], [product], [], 0)[1])
