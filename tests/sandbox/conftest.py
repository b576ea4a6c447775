"""One kernel, and one attacked machine per leg, for all tests that do not ask for their own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from codegen_chat.sandbox.kernel import Kernel
from tests.sandbox.host import Host, legs

# A machine that does other work besides makes single examples slow.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def kernel() -> Iterator[Kernel]:
    with Kernel.start(imports=["numpy"]) as started:
        yield started


# Every leg takes minutes: the slow legs of .ci/run ask for all.
@pytest.fixture(scope="module", params=legs(every="EVERY_LEG" in os.environ), ids=lambda leg: leg.name)
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    with Host(request.param) as machine:
        yield machine
