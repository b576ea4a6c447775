"""Behind the wall: the zygote, and what a turn's process does. After the first turn nobody outside can trust anything here.

Every process is a state of the person's program, parked in `serve`. Told to fork, it makes a child two forks away, so that the
child's parent is init; the child runs one turn, reports, and is parked in its turn.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import gc
import io
import json
import linecache
import os
import random
import signal
import socket
import sys
import threading
import traceback
import types
import warnings
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from codegen_chat.sandbox import limits, syscalls, values, walls, wire
from codegen_chat.turn import Limits

_PRINTS = 200
_PRINTS_SIZE = 512 << 10
_NAMES = 500
_TEXT = 16 << 10
_FILE = "<turn"


@dataclass(frozen=True, slots=True)
class Walls:
    """What the zygote raises around itself, in init's words."""

    limits: Limits
    uid: int | None
    landlock: bool
    metadata: bool
    signals: bool
    others: int
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    search: tuple[str, ...]
    scratch: str
    forbidden: tuple[str, ...]
    outside: str
    header: str


def zygote(control: socket.socket, plan: Walls) -> None:
    """Become the empty state: import, raise the walls, try them, say so, and wait. Does not return."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # as any program starts: what init set is its own
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(plan.scratch)
    sys.argv = [""]
    sys.path += [*plan.search, plan.scratch]  # the scratch folder last: a file made there cannot shadow a library
    main = _Main()
    sys.modules["__main__"] = main.module
    with contextlib.suppress(ImportError):
        import numpy as np  # noqa: F401, PLC0415  imported once here instead of in every conversation's first turn
    main.begin(plan.header)
    gc.collect()
    gc.freeze()  # a collection in a fork then leaves the pages that it shares alone
    _raise(plan)
    found = walls.surprises(forbidden=plan.forbidden, folder=plan.outside, scratch=plan.scratch, readable=os.__file__)
    control.sendall(wire.encode({"surprises": found}))
    serve(control, main)


def serve(control: socket.socket, main: _Main) -> None:
    """Wait for forks. In the parent this never returns; each child comes back here after its turn, with a channel of its own."""
    while True:
        message, descriptors = wire.receive_descriptors(control, 4)
        if not message:
            os._exit(0)
        generator = random.getstate()
        outcome = _fork_twice()
        if outcome:
            for descriptor in descriptors:
                os.close(descriptor)
            control.sendall(b"forked" if outcome > 0 else b"failed")
            continue
        # `random` seeds itself anew in a child. A state goes on where it was.
        random.setstate(generator)
        control.close()
        channel, stdout, stderr, code = descriptors
        control = socket.socket(fileno=channel)
        control.sendall(wire.encode({"hello": True}))
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        with os.fdopen(code, "rb") as file:
            ((head, body),) = wire.Reader().feed(file.read())
        os.close(stdout)
        os.close(stderr)
        try:
            report = main.run(body.decode(), str(head["label"]))
            control.sendall(wire.encode({"report": True}, report))
        except BaseException:  # noqa: BLE001  interrupted while it reported, or its own code has broken ours: init sees the end
            os._exit(1)


def _fork_twice() -> int:
    """Fork a child whose parent is init. Return 0 in the child; here 1, or -1 where no process was to be had."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: a daemon of the person's stays behind, as documented
        try:
            middle = os.fork()
        except OSError:
            return -1
        if middle:
            return 1 if os.waitpid(middle, 0)[1] == 0 else -1
        try:
            child = os.fork()
        except OSError:
            os._exit(1)
    if child:
        os._exit(0)
    return 0


def _raise(plan: Walls) -> None:
    """The walls, in the order in which each still permits the next."""
    if plan.uid is not None:
        walls.drop_uid(plan.uid)
    walls.keep_capabilities()
    walls.no_new_privileges()
    walls.not_dumpable()
    limits.apply(plan.limits, others=plan.others)
    if plan.landlock:
        walls.landlock(plan.readable, plan.writable)
    walls.seccomp(syscalls.program(metadata=plan.metadata, signals=plan.signals))


class _Main:
    """The person's program: one real `__main__` module, whose dictionary every turn shares."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__builtins__"] = builtins
        self.prints: deque[str] = deque(maxlen=_PRINTS)
        self.seen: dict[str, object] = {}
        self.header: dict[str, object] = {}
        self._print = builtins.print
        builtins.print = self.print
        builtins.input = _no_input

    def begin(self, header: str) -> None:
        """Run our own code before any of the person's."""
        exec(header, self.module.__dict__)  # noqa: S102  it is the product's
        self.header = dict(self.module.__dict__)

    def print(
        self, *args: object, sep: str | None = " ", end: str | None = "\n", file: object = None, flush: bool = False
    ) -> None:
        """Print, and keep the first argument as data."""
        if args and (file is None or file is sys.stdout):
            with contextlib.suppress(Exception):
                self.prints.append(json.dumps(values.typed(args[0])))
        self._print(*args, sep=sep, end=end, file=file, flush=flush)  # type: ignore[call-overload]

    def run(self, code: str, label: str) -> bytes:
        """Run one turn's code and return its report as JSON."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123  the turn's own stdin
        sys.stdout = _stream(1)
        sys.stderr = _stream(2)
        self.prints.clear()
        process = os.getpid()
        failure: Mapping[str, object] | None = None
        value: object = None
        try:
            value = self._execute(code, label)
        except SystemExit as exit_:
            if exit_.code not in {None, 0}:
                failure = _failure(exit_, label)
        except BaseException as error:  # noqa: BLE001  whatever it was, it is what came of the turn
            failure = _failure(error, label)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        if os.getpid() != process:
            os._exit(0 if failure is None else 1)  # a fork of the person's own has come to the end of their code
        return self._report(value, failure)

    def _execute(self, code: str, label: str) -> object:
        """Run the code as the module's. Return the value of a last expression."""
        lines = code.splitlines(keepends=True)
        linecache.cache[label] = (len(code), None, lines, label)
        tree = ast.parse(code, label)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        namespace = self.module.__dict__
        exec(compile(tree, label, "exec", dont_inherit=True), namespace)  # noqa: S102  what this process is for
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), label, "eval", dont_inherit=True), namespace)  # noqa: S307
        for thread in threading.enumerate():
            # As at the end of a script: nothing that the turn started goes on behind the next one.
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        return value

    def _report(self, value: object, failure: Mapping[str, object] | None) -> bytes:
        before, self.seen = self.seen, {}
        names = {}
        changes = []
        try:
            people = self._people()
            self.seen = {name: values.fingerprint(item) for name, item in people.items()}
            names = {str(name): values.summary(item) for name, item in list(people.items())[:_NAMES]}
            for name, mark in self.seen.items():
                if name not in before or before[name] != mark:
                    changes.append(["~" if name in before else "+", name, values.summary(people[name])])
            changes += [["-", name, ""] for name in before if name not in self.seen]
            report = {
                "value": None if value is None else values.shown(value),
                "typed": None if value is None else values.typed(value),
                "failure": failure,
                "changes": changes[:_NAMES],
                "names": names,
            }
        except Exception as error:  # noqa: BLE001  a __repr__ that raises, say: the turn fails by it, as it would at a prompt
            report = {"failure": failure or _failure(error, ""), "changes": changes[:_NAMES], "names": names}
        prints: list[str] = []
        size = 0
        while self.prints and size + len(self.prints[-1]) <= _PRINTS_SIZE:
            prints.insert(0, self.prints.pop())
            size += len(prints[0])
        # The prints are JSON already.
        return f'{{"prints": [{", ".join(prints)}], {json.dumps(report)[1:]}'.encode()

    def _people(self) -> dict[str, object]:
        """What the person's code has bound: neither the module's own names, nor those that are still the header's."""
        return {
            name: item
            for name, item in self.module.__dict__.items()
            if not (name.startswith("__") and name.endswith("__")) and not (name in self.header and self.header[name] is item)
        }


def _stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), "utf-8", line_buffering=True)


def _no_input(_prompt: object = "") -> str:
    raise EOFError("input() has nobody to ask here: put the value into the code")


def _failure(error: BaseException, label: str) -> dict[str, object]:
    """An exception as data. The traceback keeps the frames of turns; ours and those of libraries are left out."""
    line = 0
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == label:
            line = step.tb_lineno
        step = step.tb_next
    if isinstance(error, SyntaxError) and error.filename == label:
        line = error.lineno or 0
    try:
        account = traceback.TracebackException.from_exception(error)
        _only_turns(account)
        text = "".join(account.format())
        message = str(error)
    except Exception:  # noqa: BLE001  its own __str__ may raise anything
        text = message = ""
    return {"type": type(error).__name__, "message": message[:_TEXT], "line": line, "traceback": text[-_TEXT:]}


def _only_turns(account: traceback.TracebackException) -> None:
    account.stack[:] = [frame for frame in account.stack if frame.filename.startswith(_FILE)]
    for other in (account.__cause__, account.__context__, *(account.exceptions or ())):
        if other is not None:
            _only_turns(other)
