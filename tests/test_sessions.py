"""The examples, played on the embedded model with its own settings; each exported program runs by itself and prints the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codegen_chat.api import Session
from codegen_chat.conversation import Conversation
from codegen_chat.lm import native
from codegen_chat.loading import Loading
from codegen_chat.models import Model, load
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session import spec
from codegen_chat.session.history import History
from codegen_chat.settings import Settings

SPECS = sorted(Path(__file__).parents[1].joinpath("sessions").glob("*.txt"))
BEYOND = sorted(Path(__file__).parents[1].joinpath("sessions", "beyond").glob("*.txt"))
"""What was written like the others, before it was known what the model can do, and is beyond it."""

HELD = sorted(Path(__file__).parents[1].joinpath("sessions", "held").glob("*.jsonl"))
"""Conversations at the prompt as they were kept, mistakes and all."""


@pytest.fixture(scope="module")
def nano() -> Loading[Model]:
    loading = Loading(load)
    loading.begin()
    return loading


@pytest.fixture
def session(nano: Loading[Model]) -> Iterator[Session]:
    with Session.open(Settings(save=False), model=nano) as opened:
        assert opened.unsafe is None
        yield opened


def test_there_are_examples() -> None:
    assert len(SPECS) >= 12
    assert len(SPECS) + len(BEYOND) >= 30


@pytest.mark.parametrize(
    "path", [*SPECS, *(pytest.param(path, marks=pytest.mark.xfail) for path in BEYOND)], ids=lambda path: path.stem
)
def test_an_example_plays_right_and_its_export_runs(path: Path, session: Session, tmp_path: Path) -> None:
    steps = spec.read(path.read_bytes(), path.name, {}).steps
    expectations = 0
    printed = []
    for step in steps:
        own = step.code is not None
        turn = session.run_code(step.code or "", text=step.text) if own else session.run(step.text, given=step.given)
        assert turn.accepted, turn
        assert turn.execution is not None
        printed.append(turn.execution.stdout)
        if turn.execution.value is not None:
            printed.append(f"{turn.execution.value}\n")
        for expectation in step.expectations:
            holds, why = session.conversation.check(expectation.expression)
            assert holds, f"{expectation.where}: {why}\n{turn.code}"
            expectations += 1
    assert expectations
    assert session.export(tmp_path / "out.py") is None
    ran = subprocess.run([sys.executable, "out.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout == "".join(printed)


@pytest.mark.parametrize("path", HELD, ids=lambda path: path.stem)
def test_a_conversation_that_was_held_is_there_again(path: Path) -> None:
    """Undone turns, failures, candidates and branches are read without a loss, and its code does what it did."""
    history = History.read(path)
    assert len(history.all_turns) >= 15
    assert history.dropped == ()
    with Kernel.start() as kernel:
        again = Conversation(None, kernel, history).resume()
    did = [turn.execution for turn in history.turns if turn.execution]
    assert [(each.status, each.stdout, each.value) for each in again] == [(each.status, each.stdout, each.value) for each in did]


@pytest.mark.skipif(not native.instructions(), reason=f"the native step {native.state()}")
def test_every_example_plays_without_torch(tmp_path: Path) -> None:
    """On the native step, with torch out of reach: `import torch` fails in this process."""
    command = "import sys; sys.modules['torch'] = None; from codegen_chat.cli import main; main()"
    arguments = ["run", "--no-save", "--quiet", "--json", *map(str, SPECS)]
    done = subprocess.run([sys.executable, "-c", command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
