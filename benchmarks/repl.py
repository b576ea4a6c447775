"""How the prompt feels, in figures: `.venv/bin/python benchmarks/repl.py` prints a JSON object.

Everything is typed at a real pseudo-terminal; a time is from the write of a key to the read of what it changes.

    prompt_s       from the command to the first prompt, medians of five starts
    help_ratio     `--help` over a bare interpreter, medians of five
    key_ms         a typed letter to its echo, p50 and p95 of 300, while nothing else goes on
    stop_ms        Ctrl-C to the end of a model that writes 50 lines a second, p50 and p95 of 20
    idle_percent   CPU of the process while it waits for ten seconds, the model loaded
    flood_s        100,000 lines printed by a turn, to the next prompt (the sandbox keeps 64 KiB of them)
    memory_mib     resident memory after 50 and after 500 turns
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
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


def start() -> float:
    """Return seconds from the command to the prompt."""
    began = time.monotonic()
    terminal = Terminal(COMMAND)
    terminal.until(r"^>$")
    took = time.monotonic() - began
    terminal.close()
    return took


def run(*command: str) -> float:
    """Return seconds that a command takes."""
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - began


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
    clock = Path(f"/proc/{terminal.process.pid}/stat")

    def used() -> float:
        fields = clock.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = used()
    terminal.watch(10)
    percent = (used() - before) * 10
    terminal.close()
    return round(percent, 2)


def memory(terminal: Terminal, turns: int) -> float:
    """Run turns until there are so many; return resident memory in MiB."""
    status = Path(f"/proc/{terminal.process.pid}/status")
    done = terminal.text.count("· ok")
    while done < turns:
        terminal.type(f">>> a = {done}; print('turn', a)\r")
        terminal.until(rf"^turn {done}$\n· ok.*\n>")
        done += 1
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
    return round(int(line.split()[1]) / 1024, 1)


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = folder
        help_s = statistics.median(run(*COMMAND, "--help") for _ in range(5))
        bare_s = statistics.median(run(sys.executable, "-c", "pass") for _ in range(5))
        found: dict[str, object] = {
            "prompt_s": round(statistics.median(start() for _ in range(5)), 3),
            "help_ratio": round(help_s / bare_s, 1),
            "idle_percent": idle(),
        }
        terminal = child(folder)
        found["key_ms"] = spread(keys(terminal))
        found["stop_ms"] = spread(stops(terminal))
        began = time.monotonic()
        terminal.type(">>> for i in range(100_000): print('line', i)\r")
        terminal.until(r"^· output, ")
        found["flood_s"] = round(time.monotonic() - began, 2)
        terminal.close()
        turns = int(sys.argv[1]) if len(sys.argv) > 1 else 500
        terminal = child(folder)
        found["memory_mib"] = {"50": memory(terminal, 50), str(turns): memory(terminal, turns)}
        terminal.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
