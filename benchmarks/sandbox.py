"""What the sandbox costs, beside ipykernel, which has no walls: one run, the two in turns, medians in milliseconds.

    python benchmarks/sandbox.py [--json]

ipykernel is measured where it is installed (`pip install ipykernel`); it is no dependency of ours. Run it on a quiet machine: the
figures of busy ones are theirs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import Execution, Limits, last_execution

DATA = ("numpy", "pandas", "matplotlib.pyplot")
TURNS = 100
IGNORES = "import signal\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\nprint('in')\nwhile True: pass"
PIECES = """
import os, time
x = []
while True:
    x.append(b'x' * (1 << 20))
    if len(x) > 560: os.write(1, b'%f\\n' % time.monotonic())
"""
"""It says when it took a piece; the last one that it got is the limit."""

FORKS = """
import os, time
for _ in range(5):
    if os.fork() == 0:
        x = []
        for _ in range(300):
            x.append(bytearray(b'x' * (1 << 20)))
            os.write(1, b'%f\\n' % time.monotonic())
        time.sleep(9)
time.sleep(9)
"""
"""No process alone takes too much. All say when they took a MiB, and the 600th of them all is the limit."""


def main() -> None:
    """Measure and print."""
    figures: dict[str, object] = {}
    with ipykernel() as cell:
        figures |= turns(cell)
        figures |= starts()
    figures |= snapshots() | limits() | programs()
    if "--json" in sys.argv:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<58} {value}")


def run(kernel: Kernel, code: str, parent: str | None = None, turn: str | None = None, timeout: float = 20.0) -> Execution:
    """Run one turn to its end."""
    return last_execution(kernel.execute(code, parent=parent, turn=turn, timeout=timeout))


def timed(work: Callable[[], object]) -> float:
    """Return how many milliseconds some work takes."""
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def middle(times: list[float]) -> str:
    """Return the median and the 95th percentile."""
    ordered = sorted(times)
    return f"{statistics.median(ordered):.1f} (p95 {ordered[int(0.95 * (len(ordered) - 1))]:.1f})"


@contextmanager
def ipykernel() -> Iterator[Callable[[str], object] | None]:
    """Yield what runs a cell in a started ipykernel, None where it is not installed."""
    if not (find_spec("ipykernel") and find_spec("jupyter_client")):
        yield None
        return
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel()
    try:
        yield lambda code: client.execute_interactive(code, timeout=60, output_hook=lambda _: None)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def turns(cell: Callable[[str], object] | None) -> dict[str, object]:
    """Turns in a row, then going back, and candidates: bare, with the data stack, and cells of ipykernel between them."""
    times: dict[str, list[float]] = {}
    with Kernel.start() as bare, Kernel.start(imports=DATA) as data:
        kernels = (("bare", bare), ("data", data))
        for _, kernel in kernels:
            run(kernel, "x = 0", None, "0")
        for n in range(1, TURNS + 1):
            for name, kernel in kernels:
                took = timed(lambda: run(kernel, f"x = {n}", str(n - 1), str(n)))  # noqa: B023
                times.setdefault(f"turn, {name}", []).append(took)
                if n > TURNS - 50:
                    times.setdefault(f"turn, {name}, the last 50 of {TURNS}", []).append(took)
            if cell is not None:
                times.setdefault("ipykernel: a cell", []).append(timed(lambda: cell(f"x = {n}")))  # noqa: B023
        before = dict.fromkeys(("bare", "data"), str(TURNS))
        for n in range(20):
            for name, kernel in kernels:
                last = before[name]
                # A person looks at a result before they go on or undo it. Undo itself asks nothing of the sandbox: the next turn
                # begins elsewhere.
                for pause, when in ((0.2, "after a look"), (0.0, "at once")):
                    state, other = f"{n} {when}", f"instead of {n} {when}"
                    time.sleep(pause)
                    times.setdefault(f"turn {when}, {name}", []).append(timed(lambda: run(kernel, "x = 1", last, state)))  # noqa: B023
                    time.sleep(pause)
                    times.setdefault(f"undo {when} and a turn, {name}", []).append(
                        timed(lambda: run(kernel, "x = 2", last, other))  # noqa: B023
                    )
                    kernel.forget(other)
                    last = before[name] = state
            for name, kernel in kernels:
                # A conversation announces its candidates, and draws them before they run: for longer than this.
                for announced, how in ((True, "announced 0.3 s before"), (False, "all of a sudden")):
                    if announced:
                        kernel.expect(before[name], 8)
                        time.sleep(0.3)
                    times.setdefault(f"8 candidates {how}, {name}", []).append(
                        timed(lambda: [run(kernel, f"y = {m}", before[name], f"{n} {m}") for m in range(8)])  # noqa: B023
                    )
                    for m in range(8):
                        kernel.forget(f"{n} {m}")
    found: dict[str, object] = {name: middle(some) for name, some in times.items()}
    if cell is not None:
        of_cell = statistics.median(times["turn, bare"]) / statistics.median(times["ipykernel: a cell"])
        found["turn, bare, of a cell of ipykernel"] = f"{of_cell:.2f}"
    return found


def starts() -> dict[str, object]:
    """From nothing to the empty state, and ipykernel's start."""
    times: dict[str, list[float]] = {}
    for n in range(10):
        times.setdefault("start, bare", []).append(timed(lambda: Kernel.start().close()))
        if n < 3:
            times.setdefault("start, data", []).append(timed(lambda: Kernel.start(imports=DATA).close()))
            if find_spec("ipykernel"):
                from jupyter_client.manager import start_new_kernel

                begun = time.perf_counter()
                manager, client = start_new_kernel()
                client.execute_interactive("1", timeout=60, output_hook=lambda _: None)
                times.setdefault("ipykernel: start", []).append(1000 * (time.perf_counter() - begun))
                client.stop_channels()
                manager.shutdown_kernel(now=True)
    return {name: middle(some) for name, some in times.items()}


def snapshots() -> dict[str, object]:
    """The memory that only a parked state has, in MiB, where we may look (root, or one's own)."""
    found: dict[str, object] = {}
    for name, imports in (("bare", ()), ("data", DATA)):
        before = set(processes())
        with Kernel.start(imports=imports) as kernel:
            zygote = set(processes()) - before
            for n in range(12):
                run(kernel, f"x = {n}", str(n - 1) if n else None, str(n))
            parked = set(processes()) - before - zygote
            sizes = [size for pid in parked if (size := private(pid)) is not None]
            if sizes:
                found[f"parked state, {name}, MiB ({len(sizes)} of them)"] = (
                    f"{statistics.median(sizes):.2f}, most {max(sizes):.2f}"
                )
    return found


def processes() -> list[int]:
    """Return the numbers of all processes below this one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(") ")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def private(pid: int) -> float | None:
    """Return the MiB that no other process shares with this one."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def limits() -> dict[str, object]:
    """By how much limits are overshot."""
    found: dict[str, object] = {}
    with Kernel.start() as kernel:
        late = [timed(lambda: run(kernel, IGNORES, timeout=0.5)) - 500 for _ in range(5)]
        found["timeout of a loop that ignores signals: overshoot, most"] = f"{max(late):.0f}"
        late = [timed(lambda: run(kernel, "while True: pass", timeout=0.5)) - 500 for _ in range(5)]
        found["timeout of a loop: overshoot, most"] = f"{max(late):.0f}"
        late = []
        for code in (IGNORES, "print('in')\nimport time\ntime.sleep(60)") * 3:
            running = kernel.execute(code, parent=None, turn=None)
            next(running)
            threading.Thread(target=kernel.interrupt).start()
            late.append(timed(lambda: last_execution(running)))  # noqa: B023
        found["Ctrl-C to the end: most"] = f"{max(late):.0f}"
        flood = [run(kernel, "import os\nfor _ in range(16384): os.write(1, b'\\x00' * 65536)") for _ in range(3)]
        found["flood of 1 GiB: KiB kept, cut after"] = (
            f"{max(len(one.stdout.encode()) for one in flood) / 1024:.0f}, {1000 * max(one.duration for one in flood):.0f}"
        )
    with Kernel.start(Limits(memory=600 << 20)) as kernel:
        for name, code, piece in (("in pieces", PIECES, -1), ("in 5 forks of 300 MB", FORKS, 600)):
            late, whole = [], []
            for _ in range(5):
                end = run(kernel, code)
                told = time.monotonic()
                assert end.status == "memory", end
                times = sorted(map(float, end.stdout.split()))
                late.append(1000 * (told - times[min(piece, len(times) - 1)]))
                whole.append(1000 * end.duration)
            found[f"memory bomb at 600 MB, {name}: from the limit to the result, most"] = f"{max(late):.0f}"
            found[f"memory bomb at 600 MB, {name}: with its filling, most"] = f"{max(whole):.0f}"
    return found


def programs() -> dict[str, object]:
    """A whole `exec` of one line, from the shell's view, beside Python itself."""
    times: dict[str, list[float]] = {}
    commands = {
        "exec --json of one line, the whole process": [sys.executable, "-m", "codegen_chat.cli", "exec", "-", "--json"],
        "python of one line, the whole process": [sys.executable, "-"],
    }
    for _ in range(9):
        for name, command in commands.items():
            done = partial(subprocess.run, command, input=b"print(1)", stdout=subprocess.DEVNULL, check=True)
            times.setdefault(name, []).append(timed(done))
    return {name: middle(some) for name, some in times.items()}


if __name__ == "__main__":
    main()
