"""Real failures for the tests of the log: a disk that is full, another process that holds a file."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Child = Callable[..., subprocess.Popen[str]]
FullDisk = Callable[[int], contextlib.AbstractContextManager[None]]

HOLD = """
import sys; from pathlib import Path; from codegen_chat.session.log import Log
log = Log.open(Path(sys.argv[1])); print("held", flush=True); sys.stdin.read()
"""


@pytest.fixture
def child() -> Child:
    """Start a Python that runs some code."""

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        )

    return start


@pytest.fixture
def held(child: Child) -> Callable[[Path], contextlib.AbstractContextManager[subprocess.Popen[str]]]:
    """Have another process hold a log, until it is killed."""

    @contextlib.contextmanager
    def hold(path: Path) -> Iterator[subprocess.Popen[str]]:
        with child(HOLD, str(path)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            try:
                yield process
            finally:
                process.kill()

    return hold


@pytest.fixture
def full_disk() -> FullDisk:
    """Let no file grow beyond a size: write(2) then fails as on a full disk, after a part of it went through."""

    @contextlib.contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
