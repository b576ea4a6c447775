"""One kernel, and one attacked machine per leg, for all tests that do not ask for their own; and a limit around them all."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from codegen_chat.sandbox import limits
from codegen_chat.sandbox.kernel import Kernel
from tests.sandbox.host import Host, legs

MOST_PROCESSES = 1500
MOST_MEMORY = 8 << 30

# A machine that does other work besides makes single examples slow.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes minutes to the slow legs, the ablations and ordinary programs in the second tier; keep the rest together.

    Where tests run in several processes, all of the sandbox's run in one of them: a bomb has the limits of one machine.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("sandbox"))
    if "EVERY_LEG" in os.environ:
        return
    slow = [item for item in items if "test_ablation" in item.nodeid or ("test_programs" in item.nodeid and "[B-" in item.nodeid)]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(scope="session", autouse=True)
def outer_limit() -> Iterator[None]:
    """See that no bomb which gets loose takes the machine along: by control groups, or as an ordinary user by a limit of processes."""
    if os.getuid() != 0:
        most = limits.tasks_of_user() + MOST_PROCESSES
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_NPROC, (most, hard))
    groups = []
    for controller, file, most in (("pids", "pids.max", MOST_PROCESSES), ("memory", "memory.limit_in_bytes", MOST_MEMORY)):
        with contextlib.suppress(
            OSError
        ):  # no such right, or the newer kind of control groups, which lets no process in beside others
            groups.append(_group(controller, file, most))
    yield
    for group in groups:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (group.parent / "cgroup.procs").write_text(pid)
        with contextlib.suppress(OSError):
            group.rmdir()


def _group(controller: str, file: str, most: int) -> Path:
    lines = (line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines())
    ours = next((path for _, names, path in lines if controller in names.split(",")), None)
    if ours is None:
        raise FileNotFoundError(controller)
    group = Path(f"/sys/fs/cgroup/{controller}{ours}", f"codegen-chat-tests-{os.getpid()}")
    group.mkdir()
    (group / file).write_text(str(most))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return group


@pytest.fixture(scope="session")
def kernel() -> Iterator[Kernel]:
    with Kernel.start(imports=["numpy"]) as started:
        yield started


# Every leg takes minutes: the slow legs of .ci/run ask for all.
@pytest.fixture(scope="module", params=legs(every="EVERY_LEG" in os.environ), ids=lambda leg: leg.name)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(request.param) as machine:
        yield machine
