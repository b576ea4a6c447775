"""How the prompt feels, in figures: `.venv/bin/python benchmarks/repl.py` prints a JSON object.

Everything is typed at a real pseudo-terminal; a time is from the write of a key to the read of what it changes. Arguments name
what is measured, all without: start keys idle flood memory. Code is compiled beforehand, as pip leaves it.

    start          medians of seven starts, in turn: seconds from the command to the prompt (`prompt`), to the echo of a letter
                   typed there (`echo`), to the loaded model (`model`), each beside CPU seconds; `flags` are the same with a flag.
                   `--help`, a bare interpreter and IPython (where it is installed) beside it, as seconds and as CPU
    key_ms         a typed letter to its echo, p50 and p95 of 300, while nothing else goes on
    stop_ms        Ctrl-C to the end of a model that writes 50 lines a second, p50 and p95 of 20
    idle_percent   CPU of the process while it waits for ten seconds, the model loaded
    flood_s        100,000 lines printed by a turn, to the next prompt (the sandbox keeps 64 KiB of them)
    memory_mib     after each hundredth of 500 turns of the whole product, every tenth one the embedded model's: the process, and
                   those of its sandbox together (proportional shares of what they share)
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.terminal.conftest import Terminal  # noqa: E402  the same terminal as in the tests

COMMAND = [sys.executable, "-m", "codegen_chat.cli"]


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds."""
    return {
        "p50": round(statistics.median(seconds) * 1000, 1),
        "p95": round(sorted(seconds)[int(len(seconds) * 0.95)] * 1000, 1),
    }


def processes(pid: int) -> list[int]:
    """Return a process and all below it."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(each for task in tasks for child in task.read_text().split() for each in processes(int(child)))]


def cpu(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(*flags: str) -> dict[str, float]:
    """Start once."""
    began = time.monotonic()
    terminal = Terminal([*COMMAND, *flags])
    found = {}

    def note(what: str, pattern: str) -> None:
        terminal.until(pattern)
        found[what] = time.monotonic() - began
        found[f"{what}_cpu"] = cpu(terminal.process.pid)

    note("prompt", "^>")
    terminal.type("q")
    note("echo", "^> q")
    note("model", r"^ nano \w+ cpu")
    terminal.close()
    return found


def run(*command: str) -> dict[str, float]:
    """Run a command to its end."""
    began, before = time.monotonic(), os.times()
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    return {"s": time.monotonic() - began, "cpu": after[2] + after[3] - before[2] - before[3]}


def starts() -> dict[str, dict[str, float]]:
    """Start all of them seven times, in turn; return medians."""
    python = [sys.executable, "-c"]
    compared: dict[str, Callable[[], dict[str, float]]] = {
        "codegen-chat": start,
        "flags": lambda: start("-n", "1"),
        "--help": lambda: run(*COMMAND, "--help"),
        "exec --help": lambda: run(*COMMAND, "exec", "--help"),
        "python -c pass": lambda: run(*python, "pass"),
    }
    if find_spec("IPython"):
        compared["ipython -c pass"] = lambda: run(sys.executable, "-m", "IPython", "-c", "pass")
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in compared}
    for _ in range(8):  # the first one warms up
        for name, measure in compared.items():
            taken[name].append(measure())
    return {
        name: {what: round(statistics.median(one[what] for one in found[1:]), 3) for what in found[0]}
        for name, found in taken.items()
    }


def child(folder: str) -> Terminal:
    """Start the REPL with a model from a script."""
    terminal = Terminal([sys.executable, str(ROOT / "tests/terminal/child.py"), folder])
    terminal.until(r"^>$")
    return terminal


def keys(terminal: Terminal) -> list[float]:
    """Type letters, each after the echo of the one before."""
    took = []
    for number in range(300):
        before = len(terminal.raw)
        began = time.monotonic()
        terminal.type("x" if number % 60 else "\x15x")
        while len(terminal.raw) == before:
            terminal.look(1)
        took.append(time.monotonic() - began)
        terminal.watch(0.01)
    terminal.type("\x15")
    return took


def stops(terminal: Terminal) -> list[float]:
    """Interrupt a model that is writing."""
    took = []
    for number in range(20):
        terminal.type("slowly\r")
        terminal.until(r"^x9 = 9$", times=number + 1)
        began = time.monotonic()
        terminal.type("\x03")
        terminal.until(r"^· not run, not kept", times=number + 1)
        took.append(time.monotonic() - began)
    return took


def idle() -> float:
    """Return the percentage of a core that a waiting prompt takes, after the model has loaded."""
    terminal = Terminal(COMMAND)
    terminal.until(r"^ nano \w+ cpu")
    terminal.watch(1)
    before = cpu(terminal.process.pid)
    terminal.watch(10)
    percent = (cpu(terminal.process.pid) - before) * 10
    terminal.close()
    return round(percent, 2)


def memory(turns: int) -> dict[str, dict[str, float]]:
    """Run so many turns; return MiB after each hundredth."""
    terminal = Terminal(COMMAND)
    terminal.until(r"^ nano \w+ cpu")
    found = {}
    for turn in range(1, turns + 1):
        terminal.raw.clear()
        terminal.type("Print a.\r" if turn % 10 == 0 else f">>> a = {turn}; print('turn', a)\r")
        while not re.search("· (ok, |not kept|not run)", terminal.raw.decode(errors="replace")):
            terminal.look(60)
        if turn % 100 == 0:
            terminal.watch(1)
            mebibytes = [share(pid) for pid in processes(terminal.process.pid)]
            found[str(turn)] = {
                "process": round(mebibytes[0], 1),
                "sandbox": round(sum(mebibytes[1:]), 1),
                "processes": len(mebibytes),
            }
    terminal.close()
    return found


def share(pid: int) -> float:
    """Return the proportional share of memory of a process in MiB."""
    (line,) = [line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    wanted = sys.argv[1:] or ["start", "keys", "idle", "flood", "memory"]
    found: dict[str, object] = {}
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        if "start" in wanted:
            found["start"] = starts()
        if "idle" in wanted:
            found["idle_percent"] = idle()
        if "keys" in wanted:
            terminal = child(folder)
            found["key_ms"] = spread(keys(terminal))
            found["stop_ms"] = spread(stops(terminal))
            terminal.close()
        if "flood" in wanted:
            terminal = child(folder)
            began = time.monotonic()
            terminal.type(">>> for i in range(100_000): print('line', i)\r")
            terminal.until(r"^· output, ")
            found["flood_s"] = round(time.monotonic() - began, 2)
            terminal.close()
        if "memory" in wanted:
            found["memory_mib"] = memory(500)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
