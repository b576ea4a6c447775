"""Each layer left away once, in a changed copy of the package: a named attack then gets loose, so that the layer is what holds it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest

from tests.sandbox.attacks import ATTACKS
from tests.sandbox.host import Host, legs
from tests.sandbox.judge import judged

NO_SELF_TEST = ("started.py", 'if answer["surprises"] and', "if False and")


@dataclass(frozen=True)
class Ablation:
    """A layer, the wall where it alone holds the attack, how it is taken out, and how that shows."""

    layer: str
    tier: str
    changes: tuple[tuple[str, str, str], ...]
    attack: str
    shows: str = "LOOSE"
    noticed: str = ""
    """What the walls' own test says at the start, where it is one that they try."""
    user: bool = False
    """Whether the product must be an ordinary user's."""


ABLATIONS = [
    Ablation(
        "mounts",
        "A",
        (
            ("outer.py", "    for path in readable:\n", '    for path in [*readable, "/tmp"]:\n'),
            ("outer.py", "for path in needed if not any(", "for path in needed[:0] if not any("),  # else /tmp is shown anew
        ),
        "read: stat of a secret file",
    ),
    Ablation(
        "Landlock",
        "B",
        (("worker.py", "    if plan.landlock:\n", "    if False:\n"),),
        "read: a secret file",
        "the secret came out",
        "can be read",
    ),
    Ablation(
        "seccomp",
        "A",
        (("worker.py", "    if plan.filtered:\n", "    if False:\n"),),
        "turns: memory shared with the state before",
        noticed="its system calls are not filtered",
    ),
    Ablation(
        "another uid",
        "A",
        (("outer.py", "    uid = _free_uid() if os.getuid() == 0 else None\n", "    uid = None\n"),),
        "kernel: be root",
        noticed="it runs as root",
    ),
    Ablation(
        "no capabilities",
        "A",
        (("worker.py", "    walls.keep_capabilities()\n", ""),),
        "kernel: be capable of anything",
        noticed="it has capabilities",
        user=True,
    ),
    Ablation(
        "not dumpable",
        "A-",
        (("init.py", "        walls.not_dumpable()\n", ""), ("worker.py", "    walls.not_dumpable()\n", "")),
        "turns: the memory of the parked states",
        user=True,
    ),
    Ablation(
        "resource limits",
        "A",
        (("worker.py", "    limits.apply(plan.limits, others=plan.others)\n", ""),),
        "exhaustion: open files",
    ),
    Ablation(
        "memory of all together",
        "A",
        (("init.py", "                self._check_use(run)\n", ""),),
        "exhaustion: memory in many small processes",
    ),
    Ablation(
        "disk in memory",
        "A",
        (
            (
                "init.py",
                "mount_tmpfs(self._scratch, size=self._limits.disk,",
                "mount_tmpfs(self._scratch, size=8 * self._limits.disk,",
            ),
        ),
        "exhaustion: big files",
    ),
    Ablation(
        "disk watch", "B", (("init.py", "        elif not self._namespace:\n", "        elif False:\n"),), "exhaustion: big files"
    ),
    Ablation(
        "output",
        "A",
        (("init.py", "if run.written > limits.HARD_OUTPUT * self._limits.output and not run.reason:", "if False:"),),
        "flood: stdout",
        "it ended with timeout",
    ),
    Ablation("time", "A", (("init.py", "GRACE = 0.3\n", "GRACE = 6.0\n"),), "exhaustion: blocked signals", "it ran for 6"),
    Ablation(
        "end of strays",
        "A",
        (("processes.py", "            while strays := self.strays(keep):\n", "            while strays := []:\n"),),
        "process: a daemon",
        "a process is left",
    ),
    Ablation(
        "environment",
        "A",
        (("started.py", "env=start.environment,", "env={**os.environ, **start.environment},"),),
        "secrets: os.environ",
        "the secret came out",
    ),
    Ablation(
        "descriptors",
        "A",
        (
            (
                "started.py",
                "pass_fds=(theirs.fileno(), alarm),",
                "close_fds=bool([os.set_inheritable(file, True) for file in (theirs.fileno(), alarm)]) is False,",
            ),
        ),
        "secrets: open files",
        "the secret came out",
    ),
    Ablation(
        "cleaner",
        "A",
        (("clean.py", 'return text.replace("\\r\\n", "\\n").translate(_TABLE)', "return text"),),
        "terminal: a title by OSC",
        "a terminal would get",
    ),
    Ablation(
        "check of reports",
        "A",
        (("report.py", "    return clean(value)\n", "    return value\n"),),
        "terminal: in a value",
        "a terminal would get",
    ),
    Ablation(
        "who speaks for a turn",
        "A",
        (("init.py", "            if run.process.pid != sender:\n", "            if False:\n"),),
        "channel: forged reports on every descriptor",
    ),
    Ablation(
        "no link is followed",
        "B",
        (("walls.py", "0x02 | 0x04 | 0x08", "0"),),
        "export: a link to a secret",
        "a secret was copied out",
    ),
]


@pytest.mark.parametrize(
    "ablation", [one for one in ABLATIONS if os.getuid() == 0 or one.layer != "another uid"], ids=lambda one: one.layer
)
def test_without_a_layer_an_attack_gets_loose(ablation: Ablation) -> None:
    leg = next(
        leg for leg in legs() if leg.tier == ablation.tier and (leg.uid is not None or os.getuid() != 0 or not ablation.user)
    )
    (attack,) = (attack for attack in ATTACKS if f"{attack.kind}: {attack.name}" == ablation.attack)
    if ablation.noticed:
        with Host(leg, changed=ablation.changes) as host:
            assert ablation.noticed in host.answer["refused"]
    with Host(leg, changed=(*ablation.changes, NO_SELF_TEST)) as host:
        host.execute("memory = ['of', 'before']", turn="before")
        # The proof that limits are in force is one of the things that are left away.
        found = judged(host, "before", replace(attack, bomb=False, timeout=min(2 * attack.timeout, 10.0)))
        assert any(ablation.shows in one for one in found), found
