"""Random keys at a real terminal: whatever is typed, interrupted, killed, a cold replay of the log gives prompt and namespace."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from codegen_chat.conversation import Conversation, Options
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from tests.terminal.child import Model
from tests.terminal.conftest import PATIENCE, Terminal

SCRIPTS = 1000 if "EVERY_LEG" in os.environ else 6
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
        ended = len(list(self._states.iterdir()))
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
        while len(list(self._states.iterdir())) == ended:
            assert time.monotonic() < deadline, self._terminal.text
            assert self._terminal.process.poll() is None, self._terminal.text
            for key in "\x03\x04":
                self._terminal.type(key)
                self._terminal.watch(0.1)

    def _start(self, *flags: str) -> Terminal:
        logs = [log for log in (self._folder / "sessions").glob("*.jsonl") if log.read_bytes().count(b"\n") > 1]
        child = [sys.executable, str(Path(__file__).with_name("child.py")), str(self._folder), f"--state={self._states}"]
        started = Terminal([*child, "--sessions=1000000", *(flags if logs else [])])
        started.until(r"^· ready$")
        return started

    def close(self) -> None:
        """Hang up."""
        self._terminal.close()


def test_whatever_is_typed_the_log_gives_it_again(home: Path) -> None:
    seed = int(os.environ.get("SCRIPTS_SEED", random.SystemRandom().randrange(10**6)))
    typist = Typist(home, random.Random(seed))
    try:
        for _ in range(SCRIPTS):
            typist.script()
    finally:
        typist.close()
    compared = 0
    with Kernel.start() as kernel:
        for state in (home / "states").iterdir():
            log = home / "sessions" / f"{state.name}.jsonl"
            if not log.exists():  # nothing happened in it
                continue
            told = json.loads(state.read_text())
            history = History.read(log)
            assert history.dropped == ()
            replayed = Conversation(Model(2048), kernel, history, Options(timeout=20))
            replayed.resume()
            assert replayed.prompt_text() == told["prompt"], f"SCRIPTS_SEED={seed}, {log}"
            assert dict(replayed.names()) == told["names"], f"SCRIPTS_SEED={seed}, {log}"
            compared += 1
    assert compared
