"""Problems of several turns: read, answered by recorded answers, run in the real sandbox, scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from codegen_chat.bench import lanes, mtpb
from codegen_chat.bench.mtpb import Mtpb, Problem
from codegen_chat.bench.samples import Sample
from codegen_chat.bench.summary import summary
from codegen_chat.errors import UsageError
from codegen_chat.prompt import HEADER
from tests.bench.conftest import Recorded

LET_PASS_BY_NONE = {("9", 0), ("9", 1), ("9", 2), ("10", 1)}
"""Cases of the own problems whose gold is a dict or None."""


def run(benchmark: Mtpb, completer: Recorded, lanes_: int = 2) -> dict[tuple[str, int, int], Sample]:
    jobs = benchmark.jobs()
    samples = [sample for batch in lanes.local(benchmark, jobs, lambda: (completer, None), lanes_) for sample in batch]
    assert len(samples) == len({sample.key for sample in samples}) == sum(len(job.numbers) for job in jobs)
    return {(sample.task, sample.case, sample.number): sample for sample in samples}


def failures(found: dict[tuple[str, int, int], Sample]) -> set[tuple[str, int]]:
    return {(task, case) for (task, case, _), sample in found.items() if not sample.passed}


def test_a_conversation_scores_as_the_reference_but_keeps_a_second_print(
    problems: tuple[Problem, ...], answers: dict[str, str]
) -> None:
    assert failures(run(Mtpb(problems, cases=1), Recorded(answers))) == {("9", 0), ("1", 0)}


def test_recorded_answers_score_as_the_reference_scores_them(problems: tuple[Problem, ...], answers: dict[str, str]) -> None:
    found = run(Mtpb(problems, protocol="paper"), Recorded(answers))
    failed = failures(found)
    assert failed == LET_PASS_BY_NONE
    assert {sample.reason for sample in found.values()} == {"passed", "wrong answer", "ZeroDivisionError"}
    result = summary("mtpb", found.values())
    assert (result["cases"], result["passed"]) == (36, 36 - len(failed))
    assert result["pass_rate"] == result["passed"] / 36
    assert set(result["by_turns"]) == {"2", "3"}
    assert result["by_category"]["dict"]["passed"] == 0


def test_the_corrected_rules_let_all_of_them_pass(problems: tuple[Problem, ...], answers: dict[str, str]) -> None:
    tricky = tuple(problem for problem in problems if problem.id in {"9", "10"})
    assert all(sample.passed for sample in run(Mtpb(tricky, corrected=True), Recorded(answers)).values())


def test_the_paper_keeps_every_answer_as_it_was_cut(problems: tuple[Problem, ...], answers: dict[str, str]) -> None:
    sample = run(Mtpb(problems[:1], cases=1, protocol="paper"), Recorded(answers))["1", 0, 0]
    assert sample.program == HEADER + (
        '# Assign the word "mill" to a variable named "word".\nword = "mill"\n\n\n'
        '# Put one "*" before word and one after it, and call that "framed".\nframed = "*" + word + "*"\n\n\n'
        "# Print framed in capitals.\nprint(framed.upper())\n\n\n"  # cut before the second print
    )
    assert (sample.category, sample.turns, sample.tokens) == ("string", 3, 9)


def test_a_turn_that_fails_is_left_out_of_a_conversation_but_for_the_last(problems: tuple[Problem, ...]) -> None:
    turns = ("Say one.", "Fail.", "Say two and fail.")
    problem = Problem("p", "", turns, ({},), (2,))
    known = {"# Say one.\n": "x = 1\n", "# Fail.\n": "1 / 0\n", "# Say two and fail.\n": "print(x + 1)\nundefined\n"}
    sample = run(Mtpb((problem,), guard=False), Recorded(known))["p", 0, 0]
    assert sample.passed
    assert "1 / 0" not in sample.program
    assert sample.program.endswith("# Say two and fail.\nprint(x + 1)\nundefined\n\n")
    assert not run(Mtpb((problem,), protocol="paper"), Recorded(known))["p", 0, 0].passed


def test_a_print_before_a_timeout_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mtpb, "TIMEOUT", 1.0)
    problem = Problem("p", "", ("Go on.",), ({},), (7,))
    sample = run(Mtpb((problem,), protocol="paper"), Recorded({"# Go on.\n": "print(7)\nwhile True:\n    pass\n"}))["p", 0, 0]
    assert sample.passed


def test_all_words_in_one_turn(problems: tuple[Problem, ...]) -> None:
    words = "# Set number to 123. Print the sum of its digits as text.\n"
    found = run(Mtpb(problems[-1:], cases=1, single_turn=True, protocol="paper"), Recorded({words: "print(6)\n"}))
    sample = found["12", 0, 0]
    assert sample.passed
    assert sample.turns == 2  # the problem's, for the plot


def test_answers_that_are_alike_are_drawn_and_run_together(problems: tuple[Problem, ...], answers: dict[str, str]) -> None:
    completer = Recorded(answers, wrong=[1, 2])
    found = run(Mtpb(problems[:1], n=4, cases=1, protocol="paper", temperature=0.2), completer)
    assert [found["1", 0, number].passed for number in range(4)] == [True, False, False, True]
    assert completer.asked == 12


def test_choosing_gives_one_answer_a_case_and_says_why(problems: tuple[Problem, ...], answers: dict[str, str]) -> None:
    found = run(Mtpb((problems[1], problems[3]), n=5, cases=1, choose=True), Recorded(answers, wrong=[2, 3]))
    assert all(sample.passed for sample in found.values())
    assert [len(sample.reasons) for sample in found.values()] == [1, 1]


def test_what_is_expected_does_not_choose(problems: tuple[Problem, ...], answers: dict[str, str]) -> None:
    """With the expected values of all problems shuffled, every choice is the same, byte for byte; only the scores differ."""
    shuffled = tuple(
        replace(problem, outputs=other.outputs) for problem, other in zip(problems, (*problems[5:], *problems[:5]), strict=True)
    )
    runs = [run(Mtpb(given, n=3, cases=1, choose=True), Recorded(answers, wrong=[0])) for given in (problems, shuffled)]
    chosen = [{key: (sample.program, sample.reasons, sample.logprob) for key, sample in found.items()} for found in runs]
    assert chosen[0] == chosen[1]
    assert sum(sample.passed for sample in runs[1].values()) < sum(sample.passed for sample in runs[0].values())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "Expecting"),
        ("[]", "an object is wanted"),
        ('{"prompts": ["a"], "inputs": [{}]}', "'outputs' is missing"),
        ('{"prompts": [], "inputs": [], "outputs": []}', "one at least"),
        ('{"prompts": ["a"], "inputs": [{}], "outputs": []}', "of one length"),
        ('{"prompts": ["a {B}"], "inputs": [{"A": 1}], "outputs": [1]}', "'B' is missing"),
        ('{"prompts": ["a {"], "inputs": [{"A": 1}], "outputs": [1]}', "Single '{'"),
        ("", "no problems"),
    ],
)
def test_a_line_that_is_no_problem(line: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^p\.jsonl") as error:
        mtpb.read(b"\n" + line.encode(), "p.jsonl")
    assert says in str(error.value)
    assert line == "" or str(error.value).startswith("p.jsonl:2: ")


def test_the_format_of_the_reference_is_read(tmp_path: Path) -> None:
    data = {"name": "n", "description": "d", "category": "c", "id": 7, "prompts": ['Say "{A}" {{}}.'], "inputs": [{"A": [1]}]}
    lines = [json.dumps({**data, "outputs": [None]}), json.dumps({**data, "outputs": [1], "max_gen_length": 128})]
    first, second = mtpb.read("\ufeff".encode() + "\n\n".join(lines).encode(), "p")
    assert (first.id, first.max_gen_length, second.id, second.max_gen_length) == ("1:7", 256, "2:7", 128)
    assert mtpb.worded(first, 0) == ['Say "[1]" {}.']
