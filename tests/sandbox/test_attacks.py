"""Every attack on every leg, judged by what happened to the machine and not by what the code inside says."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from tests.sandbox.attacks import ATTACKS, Attack
from tests.sandbox.host import Host, gone

BEFORE = "memory = ['of', 'before']"


@pytest.fixture(scope="module")
def parked(host: Host) -> str:
    """A state of one ordinary turn, from which attacks start."""
    assert host.answer == {"tier": host.leg.tier}
    assert host.execute(BEFORE, turn="before").status == "ok"
    return "before"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}: {attack.name}")
def test_holds(host: Host, parked: str, attack: Attack) -> None:
    if attack.bomb:
        assert host.limits_in_force()
    before, processes = host.marks(), host.sandbox_pids()
    execution = host.execute(host.filled(attack.code), parent=parked, timeout=attack.timeout)
    told = json.dumps(asdict(execution), ensure_ascii=False)
    assert host.token not in told
    assert "LOOSE" not in execution.stdout + str(execution.value), told[:2000]
    assert execution.status in attack.ends, told[:2000]
    assert execution.duration < attack.timeout + 5  # what ignores the end of its time is killed
    assert len(execution.stdout) + len(execution.stderr) <= 64 << 10
    assert not set(execution.stdout + execution.stderr + str(execution.value)) & set(map(chr, [*range(9), *range(11, 32), 127]))
    assert not host.reached()
    if attack.kind != "turns":  # which may cost the sandbox, and the product starts another
        assert gone(host.sandbox_pids() - processes)
    assert host.marks() == before
    assert host.execute("memory.append('once more')\nmemory", parent=parked).value == "['of', 'before', 'once more']"


HOSTILE_STATES = {
    "does not fork": "import os\nos.fork = lambda: 0",
    "says that it forked": "import os\nos.fork = lambda: 1\nos.waitpid = lambda *_: (0, 0)",
    "breaks the fork": "import os\ndef fork(): raise ValueError\nos.fork = fork",
    "ends when it should fork": "import os\nos.fork = lambda: os._exit(0)",
    "forks a herd": "import os\nreal = os.fork\ndef fork():\n  for _ in range(5):\n    if real() == 0:\n      import time; time.sleep(30)\n  return real()\nos.fork = fork",
    "has a thread that goes on": "import threading, time\ndef late():\n  while True:\n    print('LOOSE'); time.sleep(0.001)\nthreading.Thread(target=late, daemon=True).start()",
    "wakes up by itself": "import os, signal\nif os.fork() == 0:\n  while True:\n    os.kill(os.getppid(), signal.SIGCONT)",
    "has patched what we use": "import builtins, json, os\njson.dumps = None\nos.dup2 = None\nbuiltins.open = None",
    "has left a handler": "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nsignal.setitimer(signal.ITIMER_REAL, 0.2, 0.01)\nsignal.signal(signal.SIGALRM, lambda *_: print('LOOSE'))",
}


@pytest.mark.parametrize("hostile", HOSTILE_STATES, ids=str)
def test_a_hostile_state_harms_only_itself(host: Host, parked: str, hostile: str) -> None:
    before = host.marks()
    host.execute(HOSTILE_STATES[hostile], parent=parked, turn="hostile", timeout=1.0)
    after = host.execute("1 + 1", parent="hostile", timeout=1.0)
    assert (after.status, after.value) == ("ok", "2") or after.status != "ok"
    assert host.marks() == before
    assert host.execute("memory", parent=parked).value == "['of', 'before']"


def test_enough_attacks() -> None:
    assert len(ATTACKS) >= 130
    assert len({(attack.kind, attack.name) for attack in ATTACKS}) == len(ATTACKS)
