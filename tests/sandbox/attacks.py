"""The attacks, read from `cases/`: a file for each class, an entry for each attack.

An entry begins with `### name`, followed by what is special about it: `ends:` the statuses that the turn may end with (ok and error
unless said), `bomb` (the limits are proved to be in force before), `timeout:` in seconds (5, or where a timeout would be wrong 60: a
busy machine is slow), `raw` (it has `call`, a raw system call),
`asks:` names of files that are copied out after it, `tiers:` those that hold it, where not all do: docs/security.md tells of the rest.
Whatever an entry says, each is judged from outside by `test_attacks.py`: the token never comes out, no file, process or listener of
the host is touched, no process is left, the state before is intact. Where nothing of that would show, the code prints LOOSE.
«names» stand for facts of the machine that is attacked (host.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RAW = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == 'x86_64'
def call(number, *arguments):
    "One raw system call: its number where that is one, else those of x86_64 and aarch64."
    return libc.syscall(number if isinstance(number, int) else number[0 if x86 else 1], *arguments)
"""

FORGE = """
import json, os, struct
def FORGE(body, head={'report': True}):
    "Write a report of our own into every open file: one of them is the channel to init."
    head, body = ((part if isinstance(part, str) else json.dumps(part)).encode() for part in (head, body))
    for fd in range(3, 256):
        try: os.write(fd, struct.pack('!II', len(head), len(body)) + head + body)
        except OSError: pass
"""


@dataclass(frozen=True)
class Attack:
    """One attack. `ends` are the statuses that a turn may end with; `bomb` wants the limits proved before."""

    kind: str
    name: str
    code: str
    ends: tuple[str, ...] = ("ok", "error")
    bomb: bool = False
    timeout: float = 60.0
    asks: tuple[str, ...] = ()
    tiers: tuple[str, ...] = ("A", "A-", "B")


def read(path: Path) -> list[Attack]:
    """Return the attacks of a file."""
    attacks = []
    for entry in path.read_text(encoding="utf-8").split("### ")[1:]:
        title, _, code = entry.partition("\n")
        name, *special = title.split(" | ")
        facts = dict(fact.partition(": ")[::2] for fact in special)
        assert facts.keys() <= {"ends", "bomb", "timeout", "raw", "asks", "tiers"}, title
        ends = tuple(facts.get("ends", "ok error").split())
        attacks.append(
            Attack(
                path.stem,
                name,
                (RAW if "raw" in facts else FORGE if "FORGE(" in code else "") + code,
                ends,
                "bomb" in facts,
                float(facts.get("timeout", "5" if "timeout" in ends else "60")),
                tuple(facts.get("asks", "").split()),
                tuple(facts.get("tiers", "A A- B").split()),
            )
        )
    return attacks


ATTACKS = [attack for path in sorted(Path(__file__).with_name("cases").glob("*.txt")) for attack in read(path)]

HOSTILE = {attack.name: attack.code for attack in read(Path(__file__).parent / "cases" / "states" / "hostile.txt")}
"""Turns whose states, once accepted, do not behave as states do: what they harm must be themselves alone."""
