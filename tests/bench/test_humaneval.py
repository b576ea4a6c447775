"""The data's own solutions pass, and wrong ones fail, in each tier of the sandbox."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import cast

import pytest

from codegen_chat.bench import lanes
from codegen_chat.bench.humaneval import HumanEval, Task, judge, read
from codegen_chat.bench.summary import curves, summary
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import Execution, Executor, Output
from tests.bench.conftest import Recorded
from tests.sandbox.host import Host, legs
from tests.test_cli import Cli

pytestmark = pytest.mark.xdist_group("sandbox")  # one attacked host at a time: its users are the same


class Elsewhere:
    """The sandbox of a product that is another person's, as far as a benchmark uses one."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        yield self._host.execute(code, parent=parent, turn=turn, timeout=timeout or 5.0)


@pytest.fixture(scope="module", params=["A", "B"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Tier B is that of an ordinary user without namespaces, whoever runs the tests."""
    if request.param == "A":
        with Kernel.start(lanes.LIMITS) as started:
            assert started.tier == "A"
            yield started
    else:
        with Host(next(leg for leg in legs() if leg.tier == "B")) as host:
            assert host.answer == {"tier": "B"}
            yield cast("Executor", Elsewhere(host))


@pytest.fixture(scope="module")
def tasks() -> tuple[Task, ...]:
    found = read()
    assert len(found) == 164
    return found


def test_the_canonical_solutions_pass(kernel: Executor, tasks: tuple[Task, ...]) -> None:
    assert sum(judge(task, task.canonical_solution, kernel)[0] for task in tasks) == 164


def test_wrong_solutions_fail(kernel: Executor, tasks: tuple[Task, ...]) -> None:
    """Each returns something that is equal to nothing but itself."""
    assert sum(judge(task, "    return object()\n", kernel)[0] for task in tasks) == 0


@pytest.mark.parametrize("ending", ["    exit()\n", "    import os; os._exit(0)\n", "    raise SystemExit\n"])
def test_a_program_that_ends_itself_has_not_passed(kernel: Executor, tasks: tuple[Task, ...], ending: str) -> None:
    assert not judge(tasks[0], ending, kernel)[0]


def test_completions_are_cut_tested_once_and_counted(tasks: tuple[Task, ...]) -> None:
    answers = {task.prompt: task.canonical_solution + "\ndef more():\n    pass\n" for task in tasks[:3]}
    completer = Recorded(answers, wrong=[1, 3])
    benchmark = HumanEval(tasks[:3], n=4, temperatures=(0.2, 0.6))
    samples = [sample for batch in lanes.local(benchmark, benchmark.jobs(), lambda: (completer, None), 2) for sample in batch]
    assert len(samples) == 24
    assert all(sample.passed == (sample.number % 2 == 0) for sample in samples)
    assert all("more" not in sample.program for sample in samples)
    result = summary("humaneval", samples, (1, 3, 10))
    assert (result["total"], result["samples"], result["passed"]) == (3, 24, 12)
    assert {k: round(best["rate"], 6) for k, best in result["pass_at"].items()} == {"1": 0.5, "3": 1.0}
    assert curves(samples)["0.6"][:2] == [(1, 0.5), (2, pytest.approx(5 / 6))]


def test_temperatures_are_a_list_of_the_command_and_no_setting(run: Cli) -> None:
    done = run("bench", "humaneval", "--canonical", "--limit", "1", "--temperature", "0.2,0.8", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out.splitlines()[-1])["passed"] == 1
    assert "--temperature: a number" in run("bench", "humaneval", "--canonical", "--temperature", "-1").err
