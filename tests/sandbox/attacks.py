"""The attacks, read from `cases/`: a file for each class, an entry for each attack.

An entry begins with `### name`, followed by what is special about it: `ends:` the statuses that the turn may end with (ok and error
unless said), `bomb` (the limits are proved to be in force before), `timeout:` in seconds, `raw` (it has `call`, a raw system call).
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


@dataclass(frozen=True)
class Attack:
    """One attack. `ends` are the statuses that a turn may end with; `bomb` wants the limits proved before."""

    kind: str
    name: str
    code: str
    ends: tuple[str, ...] = ("ok", "error")
    bomb: bool = False
    timeout: float = 5.0


def read(path: Path) -> list[Attack]:
    """Return the attacks of a file."""
    attacks = []
    for entry in path.read_text(encoding="utf-8").split("### ")[1:]:
        title, _, code = entry.partition("\n")
        name, *special = title.split(" | ")
        facts = dict(fact.partition(": ")[::2] for fact in special)
        assert facts.keys() <= {"ends", "bomb", "timeout", "raw"}, title
        attacks.append(
            Attack(
                path.stem,
                name,
                RAW + code if "raw" in facts else code,
                tuple(facts["ends"].split()) if "ends" in facts else ("ok", "error"),
                "bomb" in facts,
                float(facts.get("timeout", "5")),
            )
        )
    return attacks


ATTACKS = [attack for path in sorted(Path(__file__).with_name("cases").glob("*.txt")) for attack in read(path)]
