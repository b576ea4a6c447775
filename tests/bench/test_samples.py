"""The file that only grows, runs that are broken off, and what is made of a run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from codegen_chat.bench import lanes, report
from codegen_chat.bench.compare import compare
from codegen_chat.bench.likelihood import of_parts
from codegen_chat.bench.mtpb import Mtpb, Problem
from codegen_chat.bench.samples import NAME, Sample, Samples
from codegen_chat.bench.summary import summary
from codegen_chat.errors import UsageError
from codegen_chat.models import load
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import last_execution
from tests.bench.conftest import OWN

COMMAND = [sys.executable, "-m", "codegen_chat.cli", "bench", "mtpb", str(OWN), "--json"]
HEADER = {"benchmark": "mtpb", "model": "m"}
ONE = Sample("a", 0, None, 0, "print(1)", passed=True, reason="passed", category="c", turns=2, reasons=("why",))
TWO = replace(ONE, case=1, passed=False, reason="<b>Odd</b>", program="print('<script>')", output="2\n", perplexity=3.5)


def test_samples_come_back_and_count_once(tmp_path: Path) -> None:
    samples = Samples.open(tmp_path / "run", HEADER)
    assert samples.add([ONE, TWO]) == [ONE, TWO]
    assert samples.add([replace(ONE, passed=False), TWO]) == []
    samples.close()
    again = Samples.open(tmp_path / "run", HEADER)
    assert list(again) == [ONE, TWO]
    assert list(Samples.read(tmp_path / "run")) == list(Samples.read(tmp_path / "run" / NAME)) == [ONE, TWO]
    again.close()


def test_a_torn_line_is_dropped_and_written_again(tmp_path: Path) -> None:
    samples = Samples.open(tmp_path, HEADER)
    samples.add([ONE, TWO])
    samples.close()
    path = tmp_path / NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    again = Samples.open(tmp_path, HEADER)
    assert list(again) == [ONE]
    again.add([TWO])
    again.close()
    assert path.read_bytes() == whole


def test_the_samples_of_another_run_are_left_alone(tmp_path: Path) -> None:
    Samples.open(tmp_path, HEADER).close()
    before = (tmp_path / NAME).read_bytes()
    with pytest.raises(UsageError, match=r"another run \(model, n differ\)"):
        Samples.open(tmp_path, HEADER | {"model": "x", "n": 2})
    assert (tmp_path / NAME).read_bytes() == before


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    samples = Samples.open(tmp_path, HEADER)
    with pytest.raises(UsageError, match="another run"):
        Samples.open(tmp_path, HEADER)
    samples.close()


@pytest.mark.parametrize("text", ["[]\n", "{}\n", '{"benchmark": "x"}\n{"task": 1}\n', "no\n"])
def test_what_is_no_samples_file(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(UsageError, match=NAME):
        Samples.read(tmp_path)


def test_no_samples_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            Samples.read(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        Samples.open(tmp_path / "file" / "run", HEADER)


def test_a_killed_run_goes_on_and_gives_what_an_unbroken_one_gives(tmp_path: Path, problems: tuple[Problem, ...]) -> None:
    """The command itself, with the embedded model, killed in the middle of its work; then the same in this process."""
    limits = ["--limit", "3", "--cases", "1", "-n", "2", "--lanes", "1"]
    command = [*COMMAND, *limits, "-o", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as broken:
        assert broken.stdout is not None
        broken.stdout.readline()  # some is done, more is not
        broken.kill()
    kept = len(Samples.read(tmp_path))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < kept < 6
    assert f"{kept} of 6 answers are there already" in again.stderr
    end = json.loads(again.stdout.splitlines()[-1])
    assert (end["cases"], end["samples"]) == (3, 6)

    model = load()
    benchmark = Mtpb(problems[:3], n=2, cases=1)
    tools = (model.engine, partial(of_parts, model))
    whole = [sample for batch in lanes.local(benchmark, benchmark.jobs(), lambda: tools, 2) for sample in batch]
    assert [replace(sample, seconds=0) for sample in Samples.read(tmp_path)] == [
        replace(sample, seconds=0) for sample in sorted(whole, key=lambda sample: sample.key[::3])
    ]


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    command = [*COMMAND, "-o", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert running.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert '"end"' not in out


@dataclass
class Failing:
    """A benchmark whose jobs fail, or never end. `ended` has how those ended that ran."""

    code: str
    ended: list[str] = field(default_factory=list)

    def jobs(self) -> list[lanes.Job]:
        return [lanes.Job("t", case, None, (0,)) for case in range(4)]

    def answer(self, job: lanes.Job, lane: lanes.Lane) -> list[Sample]:
        if job.case == 2:
            raise UsageError("broken")
        self.ended.append(last_execution(lane.executor.execute(self.code, parent=None, turn=None)).status)
        return [replace(ONE, case=job.case)]


def test_an_error_in_a_lane_ends_all_of_them() -> None:
    failing = Failing("while True: pass")
    with pytest.raises(UsageError, match="broken"):
        list(lanes.local(failing, failing.jobs(), lambda: (None, None), 3))
    assert set(failing.ended) <= {"interrupted"}  # and not "timeout"


def test_a_sandbox_that_is_lost_is_started_again() -> None:
    with Kernel.start() as kernel:
        sample = Failing("x = 1").answer(lanes.Job("t", 0, None, (0,)), lanes.Lane(lanes.Shared(None), kernel))
    assert sample == [ONE]


def test_two_runs_are_compared_case_by_case() -> None:
    a = [replace(ONE, task=f"t{number:02}", passed=number < 4) for number in range(20)]
    b = [replace(sample, passed=number < 12) for number, sample in enumerate(a)]
    found = compare(a, b[:-1])
    assert (found.cases, found.left_out, found.worse) == (19, 1, ())
    assert found.better == tuple(f"t{number:02}" for number in range(4, 12))
    assert found.test == "McNemar's exact test"
    assert found.chance == pytest.approx(2 / 2**8)
    assert compare(a, a).chance == 1.0


def test_cases_of_one_problem_are_not_taken_for_independent() -> None:
    a = [replace(ONE, task=f"t{number % 4}", case=number // 4, passed=False) for number in range(20)]
    found = compare(a, [replace(sample, passed=True) for sample in a])
    assert found.chance == pytest.approx(2 / 2**4)
    assert found.better[1] == "t0[1]"


def test_the_page_shows_failures_as_text_and_links_to_them(tmp_path: Path) -> None:
    samples = Samples(HEADER)
    samples.add([ONE, TWO, replace(TWO, task="b", perplexity=7.0)])
    names = report.write(tmp_path, samples, summary("mtpb", samples, (1,)))
    assert names == ["report.html", "by_turns.png", "perplexity.png"]
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "print(&#x27;&lt;script&gt;&#x27;)" in page
    assert 'href="#kind--b-Odd--b-"' in page
    assert 'id="kind--b-Odd--b-"' in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in names[1:])
