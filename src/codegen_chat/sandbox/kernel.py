"""The product's side of the sandbox: starts it, sends code in, and tells what came of it.

States are named by turn ids. The last few are processes that wait, parked, and returning to one costs a fork; any other is
rebuilt by running the recorded code again. So is everything when the sandbox itself was lost.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

from codegen_chat.errors import UsageError
from codegen_chat.sandbox import limits as budget
from codegen_chat.sandbox import outer, report, wire
from codegen_chat.sandbox.clean import Cleaner, clean
from codegen_chat.sandbox.started import Sandbox, Wanted
from codegen_chat.turn import Execution, Failure, Limits, Output, Status, last_execution

_LAST = ("done", "gone", "lost")
"""What ends the answers to one `execute`."""


@dataclass(slots=True)
class _Step:
    """How a state came about, so that it can again."""

    parent: str | None
    code: str
    timeout: float
    names: Mapping[str, str] = field(default_factory=dict)
    mark: bytes = b""
    lost: bool = False


class Kernel:
    """Runs code behind the walls. One turn at a time; a second Kernel knows nothing of the first.

    It is a context manager; `close` ends every process of it. Also the end of the product's process does.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._limits = wanted.limits
        self._steps: dict[str, _Step] = {}
        self._parked: set[str] = set()
        self._serial = 0
        self._running = False
        self._sandbox = Sandbox(wanted)

    @classmethod
    def start(
        cls,
        limits: Limits | None = None,
        *,
        imports: Sequence[str] = (),
        grants: outer.Grants | None = None,
        without: Collection[str] = (),
        unsafe: bool = False,
    ) -> Self:
        """Start a sandbox and let it test its walls.

        Args:
            limits: What a turn may use; `Limits()` unless given.
            imports: Modules that the empty state has imported already (not bound), so that no turn waits for them.
            grants: Folders of the host that turns may use.
            without: Layers to leave away, "bwrap" or "landlock". Less than enough is refused as it is on a machine without them.
            unsafe: Where the walls cannot be raised, run code behind what there is. For who has typed so, never a default.

        Raises:
            SandboxUnavailable: The walls cannot be raised here, or did not hold in their own test.
            UsageError: A folder that cannot be granted.
        """
        return cls(Wanted(limits or Limits(), tuple(imports), grants or outer.Grants(), tuple(without), unsafe))

    @property
    def tier(self) -> str:
        """Which walls hold: "A" all, "A-" without Landlock, "B" without namespaces, "unsafe" too few."""
        return self._sandbox.tier

    @property
    def grants(self) -> outer.Grants:
        """The folders of the host that turns may use, by their real paths."""
        return self._sandbox.grants

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the sandbox and remove its scratch folder."""
        self._sandbox.close()

    def interrupt(self) -> None:
        """End the turn that is running, as Ctrl-C does: SIGINT, and SIGKILL 300 ms later. May be called from anywhere."""
        if self._running:
            self._sandbox.alarm(self._serial)

    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        """Run code from the state of `parent`, keep the result as `turn` (None: throw it away). The Execution is last.

        Ctrl-C ends the turn, not the product, while this runs, as does a KeyboardInterrupt that is thrown in: the status is then
        "interrupted". So does closing the generator. A state is kept after "ok" and "error" only.

        Raises:
            ValueError: There never was such a parent.
            SandboxUnavailable: The sandbox was lost and could not be started again.
        """
        seconds = self._limits.timeout if timeout is None else timeout
        if self._running:
            raise RuntimeError("a turn is running already")
        with self._ctrl_c():
            if not self._sandbox.alive():
                self._start_again()
            source, note, stopped = self._rebuild(parent)
            if stopped is not None:
                yield stopped
                return
            if turn is not None:
                self.forget(turn)  # a state that an earlier run of it left is not what comes of this one
                self._steps[turn] = _Step(parent, code, seconds)
            yield from self._run(code, source, turn, seconds, note)

    def names(self, turn: str | None) -> Mapping[str, str]:
        """Return the person's names alive in a state, each with a summary of its value."""
        return dict(self._steps[turn].names) if turn in self._steps else {}

    def expect(self, parent: str | None, turns: int) -> None:
        """Say that so many turns are about to run from a state: they need not wait for its copies, which are made meanwhile."""
        if parent is None or parent in self._parked:
            with contextlib.suppress(wire.BrokenWireError):  # the next turn sees to it
                self._sandbox.send({"do": "expect", "parent": parent, "turns": turns})

    def forget(self, turn: str) -> None:
        """Let the process of a state go. Its code is remembered: another state may rest on it."""
        if turn in self._parked:
            self._parked.discard(turn)
            self._sandbox.send({"do": "forget", "turn": turn})

    def file(self, name: str) -> bytes | None:
        """Return a file of the state that ran last, named as in its Execution; None where it is no ordinary file."""
        self._sandbox.send({"do": "read", "name": name})
        answer, data = self._sandbox.receive()
        return data if answer["there"] else None

    def save_files(self, names: Sequence[str], folder: Path) -> list[str]:
        """Copy files that the last turn wrote, named as in its Execution, into a folder that is new or empty.

        Returns those that could not be: links and whatever else is no ordinary file, names that were cleaned.

        Raises:
            UsageError: The folder has something in it, or cannot be written to.
        """
        left = []
        try:
            folder.mkdir(exist_ok=True)
            if any(folder.iterdir()):
                raise UsageError(
                    f"{folder} is not empty: code chooses the names of its files, and would choose what to overwrite"
                )
            for name in names:
                data = self.file(name)
                if data is not None:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name).write_bytes(data)
                else:
                    left.append(name)
        except OSError as error:
            raise UsageError(f"{folder} cannot be written: {error.strerror}") from None
        return left

    def restore(self, turns: Sequence[tuple[str, str]]) -> list[Execution]:
        """Rebuild the states of a branch, (id, code) from the oldest on, by running the code again."""
        executions = []
        parent: str | None = None
        for turn, code in turns:
            executions.append(last_execution(self.execute(code, parent=parent, turn=turn)))
            parent = turn
        return executions

    def _rebuild(self, turn: str | None) -> tuple[str | None, str, Execution | None]:
        """See that a state is parked. Return the nearest one that could be, a note of what was done, and an interruption."""
        missing: list[str] = []
        while turn is not None and turn not in self._parked:
            if turn not in self._steps:
                raise ValueError(f"there is no state {turn!r}")
            missing.append(turn)
            turn = self._steps[turn].parent
        notes = []
        rebuilt = 0
        for name in reversed(missing):
            step = self._steps[name]
            if step.lost:
                continue
            before = step.mark
            execution = last_execution(self._run(step.code, turn, name, step.timeout))
            if execution.status == "interrupted":
                return turn, "", replace(execution, note="interrupted while an earlier state was rebuilt")
            if name not in self._parked:
                step.lost = True
                notes.append(f"turn {name} had no state to return to ({execution.status})")
                continue
            rebuilt += 1
            turn = name
            if before and before != step.mark:
                notes.append(f"turn {name} came out otherwise than before: its code is not deterministic")
        if rebuilt:
            notes.insert(0, f"state rebuilt by running {rebuilt} turn{'s' if rebuilt > 1 else ''} again")
        return turn, "; ".join(notes), None

    def _run(
        self, code: str, parent: str | None, turn: str | None, timeout: float, note: str = "", *, again: bool = False
    ) -> Generator[Output | Execution, None, None]:
        """Run code in a fork of a parked state."""
        body = code.encode("utf-8", "replace")
        if len(body) > budget.CODE_BYTES:
            yield Execution("error", failure=Failure("ValueError", f"more than {budget.CODE_BYTES >> 10} KiB of code", 0, ""))
            return
        self._serial += 1
        self._running = True
        streams = {"stdout": Cleaner(), "stderr": Cleaner()}
        kept = {"stdout": "", "stderr": ""}
        room, cut = self._limits.output, 0
        answer: wire.Head = {"say": ""}
        payload = b""
        try:
            head = {"do": "execute", "parent": parent, "turn": turn, "timeout": timeout, "serial": self._serial}
            self._sandbox.send({**head, "label": f"<turn {clean(turn)}>" if turn else "<turn>"}, body)
            while answer["say"] not in _LAST:
                try:
                    answer, payload = self._sandbox.receive()
                    for piece in _pieces(answer, payload, streams):
                        # A byte that is shown as a symbol is three bytes then, so that what is clean is counted anew.
                        text = piece.text.encode()[:room].decode(errors="ignore")
                        room -= len(text.encode())
                        cut += len(piece.text) - len(text)
                        kept[piece.stream] += text
                        if text:
                            yield replace(piece, text=text)
                except KeyboardInterrupt:
                    self.interrupt()
        except wire.BrokenWireError:
            answer = {"say": "lost"}
        finally:
            self._running = False
            if answer["say"] not in _LAST:  # nobody listens any more
                self._sandbox.alarm(self._serial)
                self._drain()
        if answer["say"] == "done":
            answer["truncated"] = cut + int(cast("int", answer["truncated"]))
            yield self._conclude(answer, payload, kept, turn, note)
            return
        if answer["say"] == "lost" or parent is None:
            self._start_again()
        else:
            self._parked.discard(parent)
        if answer["say"] == "gone" and not again:  # it has not run at all
            source, note, stopped = self._rebuild(parent)
            if stopped is None:
                yield from self._run(code, source, turn, timeout, note, again=True)
            else:
                yield stopped
            return
        lost = (
            "the sandbox was lost, and has been started again"
            if answer["say"] == "lost"
            else "the state before cannot be returned to"
        )
        yield Execution("killed", kept["stdout"], kept["stderr"], note=lost)

    def _conclude(
        self, answer: wire.Head, payload: bytes, kept: Mapping[str, str], turn: str | None, done_before: str
    ) -> Execution:
        """Put init's verdict and the turn's own report together."""
        self._parked = set(cast("list[str]", answer["parked"]))
        status, note = cast("Status", answer["status"]), clean(str(answer["note"]))
        told: report.Report | None = None
        if payload:
            try:
                told = report.parse(payload)
            except report.BrokenReportError:
                if status == "ok":
                    status, note = "killed", "what it reported could not be read"
                    if turn is not None:
                        self.forget(turn)
        failure = told.failure if told else None
        if status == "ok" and failure is not None:
            status = "memory" if failure.type == "MemoryError" else "error"
        execution = Execution(
            status,
            stdout=kept["stdout"],
            stderr=kept["stderr"],
            value=told.value if told and status == "ok" else None,
            typed_value=told.typed_value if told and status == "ok" else None,
            prints=told.prints if told else (),
            failure=failure,
            duration=float(cast("float", answer["duration"])),
            changes=told.changes if told and status in {"ok", "error"} else (),
            files=tuple(clean(name) for name in cast("list[str]", answer["files"])),
            truncated=int(cast("int", answer["truncated"])),
            note="; ".join(filter(None, (done_before, note))),
        )
        if turn is not None and turn in self._parked and status == "memory":
            self.forget(turn)
        if turn is not None and turn in self._steps and told is not None:
            step = self._steps[turn]
            step.names = told.names
            step.mark = hashlib.sha256(
                repr((status, execution.stdout, execution.value, sorted(told.names.items()))).encode()
            ).digest()
        return execution

    def _drain(self) -> None:
        """Read on to the end of a turn that nobody listens to."""
        with contextlib.suppress(wire.BrokenWireError):
            while True:
                answer, _ = self._sandbox.receive()
                if answer["say"] == "done":
                    self._parked = set(cast("list[str]", answer["parked"]))
                if answer["say"] in _LAST:
                    return

    def _start_again(self) -> None:
        self._sandbox.close()
        self._parked = set()
        self._sandbox = Sandbox(self._wanted)

    @contextlib.contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """Turn Ctrl-C into an interruption of the turn, unless the program has a handler of its own.

        A KeyboardInterrupt would leave answers of the sandbox unread, and the next turn would read them.
        """
        ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if ours:
            signal.signal(signal.SIGINT, lambda _number, _frame: self.interrupt())
        try:
            yield
        finally:
            if ours and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.default_int_handler)


def _pieces(answer: wire.Head, payload: bytes, streams: Mapping[str, Cleaner]) -> Iterator[Output]:
    """The clean text that a frame completes. The last frame completes what was held back, unless the output was cut there."""
    names: tuple[Literal["stdout", "stderr"], ...] = ("stdout", "stderr")
    for name in names:
        text = ""
        if answer["say"] == "output" and answer["stream"] == name:
            text = streams[name].feed(payload)
        elif answer["say"] == "done" and not answer["truncated"]:
            text = streams[name].feed(b"", last=True)
        if text:
            yield Output(name, text)
