"""Random keys at a real terminal: whatever is typed, interrupted, killed, a cold replay of the log gives prompt and namespace."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

import pytest

from codegen_chat.conversation import Conversation
from codegen_chat.making import Options
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from tests.terminal.child import Model
from tests.terminal.conftest import PATIENCE, Terminal

SCRIPTS, TYPISTS = (100, 10) if "EVERY_LEG" in os.environ else (6, 1)
"""Scripts that each of so many tests types: a typist mostly waits, so several can type at once (`-n 4`)."""
LINES = (
    ">>> a{n} = {n}\r",
    ">>> a{n} = [{n}]; print(a{n})\r",
    ">>> a0 = a0 + 1\r",
    ">>> import time; time.sleep(60)\r",
    "number\r",
    "hello {n}\r",
    "fail\r",
    "slowly\r",
    "A function.\n>>? def f{n}():\r",
    "What is @a{n}?\r",
    "a{n}\r",
    "half a line",
    "\x1b[200~>>> b = 1\r... c = 2\x1b[201~\r",
    "/undo\r",
    "/redo\r",
    "/retry\r",
    "/retry 3\r",
    "/pick {k}\r",
    "/edit {k}\r\x01\r",
    "/edit {k}\r9\r",
    "/fix\r",
    "/fork {k}\r",
    "/branches {k}\r",
    "/hide {k}\r",
    "/pin {k}\r",
    "/show all\r/vars\r",
)


class Typist:
    """Types at a REPL that starts a session after another, and starts it again when it has killed it."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder = folder
        self._chance = chance
        self._states = folder / "states"
        self._states.mkdir()
        self._terminal = self._start()

    def script(self) -> None:
        """Type a script, to the end of its session."""
        for _ in range(self._chance.randrange(2, 12)):
            match self._chance.random():
                case chance if chance < 0.05:
                    self._terminal.close()
                    self._terminal = self._start("-c")
                case chance if chance < 0.25:
                    self._terminal.type("\x03")
                case _:
                    line = self._chance.choice(LINES)
                    self._terminal.type(line.format(n=self._chance.randrange(4), k=self._chance.randrange(1, 4)))
            self._terminal.watch(self._chance.choice([0, 0, 0.01, 0.1, 0.3]))
        deadline = time.monotonic() + PATIENCE
        while not any(self._states.iterdir()):
            assert time.monotonic() < deadline, self._terminal.text
            assert self._terminal.process.poll() is None, self._terminal.text
            self._terminal.type("\x03")
            self._terminal.watch(0.1)
            self._terminal.type("\x04")
            for _ in range(40):
                if not any(self._states.iterdir()):
                    self._terminal.watch(0.05)

    def _start(self, *flags: str) -> Terminal:
        logs = [log for log in (self._folder / "sessions").glob("*.jsonl") if log.read_bytes().count(b"\n") > 1]
        child = [sys.executable, str(Path(__file__).with_name("child.py")), str(self._folder), f"--state={self._states}"]
        started = Terminal([*child, "--sessions=1000000", *(flags if logs else [])])
        started.until(r"^· ready$")
        return started

    def close(self) -> None:
        """Hang up."""
        self._terminal.close()


def check(home: Path, session: str, kernel: Kernel) -> bool:
    """Compare a session as it was at its end with a cold replay of its log; return whether there is one."""
    log = home / "sessions" / f"{session}.jsonl"
    if not log.exists():  # nothing happened in it
        return False
    told = json.loads((home / "states" / session).read_text())
    history = History.read(log)
    replayed = Conversation(Model(2048), kernel, history, Options(timeout=20))
    replayed.resume()
    assert history.dropped == ()
    assert replayed.prompt_text() == told["prompt"]
    assert dict(replayed.names()) == told["names"]
    return True


@pytest.mark.parametrize("typist", range(TYPISTS))
def test_whatever_is_typed_the_log_gives_it_again(home: Path, typist: int) -> None:
    seed = int(os.environ.get("SCRIPTS_SEED", random.SystemRandom().randrange(10**6)))
    sys.stdout.write(f"SCRIPTS_SEED={seed}\n")  # shown where it fails
    hands = Typist(home, random.Random(seed))
    compared = 0
    try:
        with Kernel.start(imports=("numpy",)) as kernel:  # nothing is to run out of time
            for _ in range(SCRIPTS):
                hands.script()
                for state in list((home / "states").iterdir()):
                    compared += check(home, state.name, kernel)
                    state.unlink()  # a kill may make the typist go on with this session
    finally:
        hands.close()
    assert compared
