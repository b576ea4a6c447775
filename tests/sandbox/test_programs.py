"""Programs that people write, behind both walls: they give what Python itself gives, or are refused with a reason."""

from __future__ import annotations

import importlib.util

import pytest

from tests.sandbox.host import Host
from tests.sandbox.programs import PROGRAMS, Program


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.kind}: {program.name}")
def test_works(host: Host, program: Program) -> None:
    if host.leg.tier not in program.tiers.split():
        assert host.execute(program.code, timeout=60.0).status == "error"
        return
    execution = host.execute(program.code, timeout=60.0)
    failure = f"{execution.failure.type}: {execution.failure.message}" if execution.failure else ""
    if program.needs and importlib.util.find_spec(program.needs) is None:
        assert failure == f"ModuleNotFoundError: No module named {program.needs!r}"
        return
    assert (execution.status, failure[: len(program.says)]) == ("error" if program.says else "ok", program.says), execution
    assert _lines(execution.stdout) == _lines(program.output)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
