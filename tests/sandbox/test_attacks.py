"""Every attack on every leg, judged by what happened to the machine and not by what the code inside says."""

from __future__ import annotations

import pytest

from tests.sandbox.attacks import ATTACKS, HOSTILE, Attack
from tests.sandbox.host import Host
from tests.sandbox.judge import judged

BEFORE = "memory = ['of', 'before']"


@pytest.fixture(scope="module")
def parked(host: Host) -> str:
    """A state of one ordinary turn, from which attacks start."""
    assert host.answer == {"tier": host.leg.tier}
    assert host.execute(BEFORE, turn="before").status == "ok"
    return "before"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack.kind}: {attack.name}")
def test_holds(host: Host, parked: str, attack: Attack) -> None:
    known = [] if host.leg.tier in attack.tiers else ["LOOSE"]  # as docs/security.md says of the tier
    assert judged(host, parked, attack) in ([], known)


@pytest.mark.parametrize("hostile", HOSTILE, ids=str)
def test_a_hostile_state_harms_only_itself(host: Host, parked: str, hostile: str) -> None:
    before = host.marks()
    host.execute(HOSTILE[hostile], parent=parked, turn="hostile", timeout=1.0)
    after = host.execute("1 + 1", parent="hostile", timeout=1.0)
    assert (after.status, after.value) == ("ok", "2") or after.status != "ok"
    assert host.marks() == before
    assert host.execute("memory", parent=parked).value == "['of', 'before']"


def test_enough_attacks() -> None:
    assert len(ATTACKS) + len(HOSTILE) >= 300
    assert len({(attack.kind, attack.name) for attack in ATTACKS}) == len(ATTACKS)
    assert len({attack.code for attack in ATTACKS}) == len(ATTACKS)
