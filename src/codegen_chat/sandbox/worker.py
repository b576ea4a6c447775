"""Behind the wall: the zygote, and what a turn's process does. After the first turn nobody outside can trust anything here.

Every process is a state of the person's program, parked in `serve`. There it makes a copy of itself when it is told to, and runs
a turn, which makes it the next state.
"""

from __future__ import annotations

import _ast
import _signal  # type: ignore[import-not-found]
import _thread
import atexit
import builtins
import contextlib
import ctypes
import errno
import gc
import importlib
import io
import linecache
import os
import random
import signal
import site
import socket
import sys
import threading
import traceback
import types
import warnings
from collections import deque, namedtuple
from collections.abc import Mapping
from itertools import islice

from codegen_chat.sandbox import limits, syscalls, values, walls, wire

_PRINTS = 200
_PRINTS_SIZE = 512 << 10
_NAMES = 500
_NAME = 1000  # characters: what is longer is no name for people
_TEXT = 16 << 10
_FILE = "<turn"
_INTERNET = (socket.AF_INET, socket.AF_INET6)


Walls = namedtuple(
    "Walls",
    "limits uid landlock metadata signals others readable writable search scratch forbidden outside imports filtered",
)
"""What the zygote raises around itself, in init's words."""


def zygote(control: socket.socket, plan: Walls) -> None:
    """Become the empty state: import, raise the walls, try them, say so, and wait. Does not return."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # as any program starts: what init set is its own
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(plan.scratch)
    sys.argv = ["main.py"]
    sys.path += [*plan.search, plan.scratch]  # the scratch folder last: a file made there cannot shadow a library
    main = _Main()
    sys.modules["__main__"] = main.module
    for name in plan.imports:  # once here, instead of in every conversation's first turn
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules["multiprocessing.resource_tracker"] = _no_tracker()
    sys.addaudithook(_say_why)
    gc.collect()
    gc.freeze()  # a collection in a fork then leaves the pages that it shares alone
    if plan.imports:  # without, there is little to gain, and a start would wait for it
        _in_large_pages()
    _raise(plan)
    found = walls.surprises(forbidden=plan.forbidden, folder=plan.outside, scratch=plan.scratch, readable=os.__file__)
    control.sendall(wire.encode({"surprises": found}))
    serve(control, main)


def serve(control: socket.socket, main: _Main) -> None:
    """Wait to be told to make a copy of this process, or to run a turn in it. A copy goes on in here, on a channel of its own."""
    while True:
        order, descriptors = wire.receive_descriptors(control, 3)
        if order in {b"run", b"last"}:
            try:
                control.sendall(wire.encode({"report": True}, main.turn(*descriptors, last=order == b"last")))
            except BaseException:  # noqa: BLE001  interrupted while it reported, or its own code has broken ours: init sees the end
                os._exit(1)
        elif order in {b"clone", b"fork"}:
            (channel,) = descriptors
            child = _C.syscall(*_CLONE) if order == b"clone" and _CLONE else _fork_twice()
            if child == 0:
                os.dup2(channel, control.fileno())
                if order == b"fork":
                    main.streams = []  # a thread that stayed behind may have held their locks
            else:
                control.sendall(b"%d" % child)
            os.close(channel)
        else:
            os._exit(0)


def _fork_twice() -> int:
    """Do as _CLONE does by other means, for processes with threads: the child's first parent ends at once, and init inherits it.

    A state goes on where it was, so that `random`, which seeds itself anew in a child, gets back what it had.
    """
    generator = random.getstate()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: a daemon of the person's stays behind, as documented
        try:
            middle = os.fork()
            child = 0 if middle else os.fork()
        except OSError:
            middle = child = -1
    if middle == 0 and child:
        os.write(writing, b"%d" % child)
        os._exit(0)
    if middle > 0:
        os.waitpid(middle, 0)
        os.set_blocking(reading, False)
        with contextlib.suppress(BlockingIOError):
            child = -1
            child = int(os.read(reading, 16))
    os.close(reading)
    os.close(writing)
    if child == 0:
        random.setstate(generator)
    return child


_C = ctypes.PyDLL(None)  # it keeps Python's lock, as a fork must
_CLONE = [ctypes.c_ulong(value) for value in syscalls.clone(walls.thread_number_address())]
"""A fork but for one flag that the C library has no name for, CLONE_PARENT: the copy's parent is ours, init.

A state must not find a child that it never made, and init must be told how the copy ends. What the C library and Python do
besides is for programs with threads: the locks of those that stay behind, new seeds. A state that is copied so has no thread but
this, and a copy is to be what it was.
"""

_LARGE_PAGE = 1 << 21
_COLLAPSE = 25  # MADV_COLLAPSE, since Linux 6.1


def _in_large_pages() -> None:
    """Have what the imports left in memory put into large pages, as far as it fills any: a copy takes each as one."""
    with open("/proc/self/maps") as lines:
        anonymous = [line.split()[0].split("-") for line in lines if " rw-p 00000000 00:00 0 " in line]
    for begin, end in anonymous:
        first, last = -(-int(begin, 16) // _LARGE_PAGE), int(end, 16) // _LARGE_PAGE
        for page in range(first, last):
            _C.madvise(ctypes.c_void_p(page * _LARGE_PAGE), ctypes.c_size_t(_LARGE_PAGE), _COLLAPSE)


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
    if plan.filtered:
        walls.seccomp(syscalls.program(metadata=plan.metadata, signals=plan.signals))


_NO_PROGRAM = "no other program can be run in the sandbox"
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn"}
_FORKED: list[bool] = []
"""Something, where this process may have children."""

_NAMES_OF_HOSTS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


def _no_tracker() -> types.ModuleType:
    """Stand in for what cleans up behind multiprocessing: it is another program, and here nothing is left anyway."""
    module = types.ModuleType("multiprocessing.resource_tracker")

    def nothing(*_: object) -> None:
        """Nobody keeps account."""

    def getfd() -> int:  # asked for by the ways to start a process that begin with a fresh interpreter
        raise PermissionError(errno.EPERM, f"{_NO_PROGRAM}: multiprocessing can only fork here")

    vars(module).update(register=nothing, unregister=nothing, ensure_running=nothing, getfd=getfd)
    return module


def _say_why(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse by a clear word what the filter would refuse by a number. No wall: native code comes past this."""
    if event == "os.fork":
        _FORKED.append(True)
    if event in _PROGRAMS:
        raise PermissionError(errno.EPERM, _NO_PROGRAM)
    if event in _NAMES_OF_HOSTS or (event == "socket.__new__" and arguments[1] in _INTERNET):
        raise PermissionError(errno.EPERM, "there is no network in the sandbox")


class _Main:
    """The person's program: one real `__main__` module, whose dictionary every turn shares."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        # No such file is there, but programs ask for its folder.
        self.module.__dict__.update(__builtins__=builtins, __file__=f"{os.getcwd()}/main.py")
        self.prints: deque[str] = deque(maxlen=_PRINTS)
        self.seen: dict[str, object] = {}
        self.streams: list[io.TextIOWrapper] = []
        self._replace_builtins()

    def _replace_builtins(self) -> None:
        """Put in our `print` and `input`, and what the `site` module, which is left out, would: exit, quit, help."""
        site.setquit()
        site.sethelper()
        ordinary_print, ordinary_input = builtins.print, builtins.input

        def print(  # noqa: A001  it is to be the person's `print`, in a traceback too
            *args: object, sep: str | None = " ", end: str | None = "\n", file: object = None, flush: bool = False
        ) -> None:
            if file is None or file is sys.stdout:
                with contextlib.suppress(Exception):
                    self.prints.append(wire.to_json(values.printed(*args[:1])))
            ordinary_print(*args, sep=sep, end=end, file=file, flush=flush)  # type: ignore[call-overload]

        def input(prompt: object = "", /) -> str:  # noqa: A001  the same
            if sys.stdin in self.streams:
                ordinary_print(prompt, end="", flush=True)
                raise EOFError("input() has nobody to ask here: put the value into the code")
            return ordinary_input(prompt)  # from a text that the code has put there

        for ours, theirs in ((print, ordinary_print), (input, ordinary_input)):
            ours.__module__, ours.__qualname__, ours.__doc__ = "builtins", theirs.__name__, theirs.__doc__  # as a pickle finds it
            setattr(builtins, theirs.__name__, ours)

    def turn(self, stdout: int, stderr: int, code: int, *, last: bool) -> bytes:
        """Run one turn's code and return its report as JSON. After the last one nothing comes: the program ends with it."""
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        label, _, text = os.read(code, limits.CODE_BYTES + 1024).decode().partition("\n")
        for descriptor in (stdout, stderr, code):
            os.close(descriptor)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)  # `signal` would make enums of it all, each turn
        threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # noqa: SLF001  a copy has another number
        self._set_streams()
        self.prints.clear()
        if _FORKED:
            _bury()
        process = os.getpid()
        failure: Mapping[str, object] | None = None
        value: object = None
        left = 0
        try:
            value = self._execute(text, label)
        except SystemExit as exit_:
            left = (exit_.code or 0) if exit_.code is None or isinstance(exit_.code, int) else 1
            failure = _failure(exit_, label) if left else None
        except BaseException as error:  # noqa: BLE001  whatever it was, it is what came of the turn
            left = 1
            failure = _failure(error, label)
        if os.getpid() != process:  # a fork of the person's own has come to the end of their code
            if failure and failure["type"] != "SystemExit":
                sys.stderr.write(str(failure["traceback"]))
            _flush()
            os._exit(left & 0xFF)
        report = self._report(value, failure)
        for timer in (_signal.ITIMER_REAL, _signal.ITIMER_VIRTUAL, _signal.ITIMER_PROF):
            _signal.setitimer(timer, 0)  # a copy has none either
        if last:
            self._end()
        _flush()
        return report

    def _set_streams(self) -> None:
        """Put the standard streams in their places. They are made once, and anew where the code before has closed one."""
        if not self.streams or any(map(_closed, self.streams)):
            self.streams = [open(os.devnull, encoding="utf-8"), _stream(1), _stream(2)]  # noqa: SIM115
        sys.stdin, sys.stdout, sys.stderr = self.streams
        vars(sys)["__stdout__"], vars(sys)["__stderr__"] = self.streams[1:]

    def _execute(self, code: str, label: str) -> object:
        """Run the code as the module's. Return the value of a last expression."""
        lines = code.splitlines(keepends=True)
        linecache.cache[label] = (len(code), None, lines, label)
        tree: _ast.Module = compile(code, label, "exec", flags=_ast.PyCF_ONLY_AST, dont_inherit=True)  # type: ignore[assignment]
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], _ast.Expr) else None
        namespace = self.module.__dict__
        rest = compile(tree, label, "exec", dont_inherit=True)
        end = compile(_ast.Expression(last.value), label, "eval", dont_inherit=True) if isinstance(last, _ast.Expr) else None
        try:
            exec(rest, namespace)  # noqa: S102  what this process is for
            return eval(end, namespace) if end else None  # noqa: S307
        finally:
            if not isinstance(sys.exception(), KeyboardInterrupt):  # a script waits for its threads even where it failed
                _join()

    def _end(self) -> None:
        """End the program as the interpreter would: first what is registered with atexit, then the names, for their __del__."""
        atexit._run_exitfuncs()  # noqa: SLF001  there is no other way to have it run here
        namespace = self.module.__dict__
        for name in namespace:
            if name != "__builtins__":
                namespace[name] = None
        gc.collect()

    def _report(self, value: object, failure: Mapping[str, object] | None) -> bytes:
        before, self.seen = self.seen, {}
        names = {}
        changes = []
        try:
            people = self._people()
            self.seen = {name: values.fingerprint(item) for name, item in people.items()}
            names = {str(name): values.summary(item) for name, item in list(people.items())[:_NAMES]}
            changed = (name for name, mark in self.seen.items() if name not in before or before[name] != mark)
            told = islice(changed, _NAMES)
            changes += [["~" if name in before else "+", name, values.summary(people[name])] for name in told]
            changes += [["-", name, ""] for name in before if name not in self.seen]
            report = {
                "value": None if value is None else values.shown(value),
                "typed": None if value is None else values.typed(value),
                "failure": failure,
                "changes": changes[:_NAMES],
                "names": names,
            }
        except BaseException as error:  # noqa: BLE001  a __repr__ that raises, say: the turn fails by it, as it would at a prompt
            report = {"failure": failure or _failure(error, ""), "changes": changes[:_NAMES], "names": names}
        prints: list[str] = []
        size = 0
        while self.prints and size + len(self.prints[-1]) <= _PRINTS_SIZE:
            prints.insert(0, self.prints.pop())
            size += len(prints[0])
        # The prints are JSON already.
        return f'{{"prints": [{", ".join(prints)}], {wire.to_json(report)[1:]}'.encode()

    def _people(self) -> dict[str, object]:
        """What the person's code has bound: not the module's own names."""
        return {
            name: item
            for name, item in self.module.__dict__.items()
            if not (name.startswith("__") and name.endswith("__")) and len(name) <= _NAME
        }


def _stream(descriptor: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), "utf-8", line_buffering=True)


def _closed(stream: io.TextIOWrapper) -> bool:
    try:
        return stream.closed
    except ValueError:  # its buffer was taken from it
        return True


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _join() -> None:
    """Wait for threads and processes, as at the end of a script: nothing that the turn started goes on behind the next one."""
    if _thread._count():  # noqa: SLF001  else nothing of all this can be
        _join_threads()
    if "multiprocessing.process" in sys.modules:
        for child in sys.modules["multiprocessing.process"].active_children():
            if not child.daemon:
                child.join()


def _join_threads() -> None:
    for name, mark in (("concurrent.futures.thread", "_shutdown"), ("concurrent.futures.process", "_global_shutdown")):
        if pools := sys.modules.get(name):
            pools._python_exit()  # noqa: SLF001  a pool that nobody has shut down would be waited for without end
            setattr(pools, mark, False)  # the next turn may make others
    while waited := [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]:
        for thread in waited:  # they may start others
            thread.join()


def _bury() -> None:
    """Take note of the ends of children that were killed behind the turn before: a copy has none."""
    _FORKED.clear()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _failure(error: BaseException, label: str) -> dict[str, object]:
    """An exception as data. The traceback keeps the frames of turns; ours and those of libraries are left out."""
    line = 0
    text = message = ""
    with contextlib.suppress(BaseException):  # its own __str__ or __getattribute__ may raise anything
        step = error.__traceback__
        while step is not None:
            if step.tb_frame.f_code.co_filename == label:
                line = step.tb_lineno
            step = step.tb_next
        account = traceback.TracebackException.from_exception(error)
        _only_turns(account)
        text = "".join(account.format())
        message = str(error)
        if isinstance(error, SyntaxError) and error.filename == label:
            line, message = error.lineno or 0, str(error.msg)  # without the turn's id, which a person need not know
    return {"type": type(error).__name__, "message": message[:_TEXT], "line": line, "traceback": text[-_TEXT:]}


def _only_turns(account: traceback.TracebackException) -> None:
    account.stack[:] = [frame for frame in account.stack if frame.filename.startswith(_FILE)]
    for other in (account.__cause__, account.__context__, *(account.exceptions or ())):
        if other is not None:
            _only_turns(other)
