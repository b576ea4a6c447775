"""Problems of several turns, as in MTPB: words with {placeholders}, inputs that fill them, and what the program is to print.

Two protocols. *paper*: each turn is answered from words and code so far, cut by the reference's rules, every answer kept; at the
end the program runs once. It is what published checkpoints were measured by. *conversation*: each turn is a turn of the product
(`Conversation`), guarded, run in the sandbox as it comes, left out where it fails, and with `choose` the best of n conversations
is kept (`branches`). It is what the embedded model was made for. Both score the whole program, run once more from nothing, by the
reference's rules (`scorer`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal

from codegen_chat import prompt as prompts
from codegen_chat.bench import branches, scorer
from codegen_chat.bench.lanes import Job, Lane
from codegen_chat.bench.samples import Sample, tail, why
from codegen_chat.choose import RULES, Rule
from codegen_chat.conversation import Conversation
from codegen_chat.drawing import FALLBACK_TEMPERATURE
from codegen_chat.errors import ContextWindowExceeded, UsageError
from codegen_chat.events import Chosen, Committed
from codegen_chat.making import Options
from codegen_chat.session.history import History
from codegen_chat.turn import Completed, Completer, Completion, Prompt, Sampling, Turn, last_execution

TIMEOUT = 20.0
"""Seconds that a whole program may run, as in the reference."""

TURN_TIMEOUT = 10.0
"""Seconds that one turn may run while the conversation goes on: an import of pandas on a busy machine takes five."""

MAX_NEW_TOKENS = 256
"""Of a turn, where the problem does not say."""

TURN_SEEDS = 1000
"""How far apart the seeds of two turns are: more than anyone asks for answers."""

Protocol = Literal["paper", "conversation"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Turns, and the cases: for each the values of the placeholders, and what is printed last."""

    id: str
    category: str
    prompts: tuple[str, ...]
    inputs: tuple[Mapping[str, object], ...]
    outputs: tuple[object, ...]
    max_gen_length: int = MAX_NEW_TOKENS


def read(data: bytes, name: str) -> tuple[Problem, ...]:
    """Read a problem file. Raises UsageError with file:line where a line is no problem, or a case does not fill its words."""
    problems: list[Problem] = []
    for number, line in enumerate(data.decode("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            problem = _problem(json.loads(line), len(problems))
            for case in range(len(problem.inputs)):
                worded(problem, case)
        except KeyError as error:
            raise UsageError(f"{name}:{number}: {error.args[0]!r} is missing") from None
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(f"{name}:{number}: not a problem of MTPB: {error}") from None
        problems.append(problem)
    if not problems:
        raise UsageError(f"{name}: there are no problems in it")
    if len({problem.id for problem in problems}) < len(problems):  # the place tells apart what the ids do not
        problems = [replace(problem, id=f"{place}:{problem.id}") for place, problem in enumerate(problems, 1)]
    return tuple(problems)


def _problem(data: Any, place: int) -> Problem:
    if not isinstance(data, dict):
        raise TypeError("an object is wanted")
    texts, inputs, outputs = data["prompts"], data["inputs"], data["outputs"]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError("prompts are texts, one at least")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise ValueError("inputs and outputs are lists of one length")
    most = data.get("max_gen_length") or MAX_NEW_TOKENS
    return Problem(
        id=str(data.get("id", data.get("name", place + 1))),
        category=str(data.get("category") or ""),
        prompts=tuple(texts),
        inputs=tuple(dict(each) for each in inputs),
        outputs=tuple(outputs),
        max_gen_length=int(most),
    )


def worded(problem: Problem, case: int) -> list[str]:
    """Return a case's turns, with its values in place of the placeholders, written as `str.format` writes them."""
    return [text.format(**problem.inputs[case]) for text in problem.prompts]


@dataclass(frozen=True, slots=True)
class Mtpb:
    """A run over a problem file: n answers to each case, or with `choose` one, chosen by execution among n conversations.

    `temperature` None is the checkpoint's own; where that is greedy, only the first answer is. `rules`: how to choose.
    """

    problems: tuple[Problem, ...]
    n: int = 1
    cases: int | None = None
    protocol: Protocol = "conversation"
    choose: bool = False
    single_turn: bool = False
    corrected: bool = False
    guard: bool = True
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    rules: tuple[Rule, ...] = RULES

    def jobs(self) -> list[Job]:
        """Return a job for each case: its answers are made together."""
        numbers = range(1 if self.choose else self.n)
        return [
            Job(problem.id, case, self.temperature, tuple(numbers))
            for problem in self.problems
            for case in range(len(problem.inputs))[: self.cases]
        ]

    def answer(self, job: Job, lane: Lane) -> list[Sample]:
        """Make the answers of a case, run them and score them."""
        problem = next(problem for problem in self.problems if problem.id == job.task)
        texts = worded(problem, job.case)
        room = problem.max_gen_length
        if self.single_turn:
            texts, room = [" ".join(text.strip() for text in texts)], room * len(texts)
        began = perf_counter()
        if self.protocol == "paper":
            with lane.completer.alone():
                written = list(self._paper(texts, room, job.numbers, lane.completer))
        else:
            written = [self._conversation(texts, room, number, lane) for number in job.numbers]
        scored: dict[str, tuple[bool, str, str]] = {}
        perplexity: dict[str, float | None] = {}
        for answer in written:
            if answer.program not in scored:
                scored[answer.program] = self._score(answer.program, problem.outputs[job.case], lane)
                perplexity[answer.program] = lane.perplexity(answer.program, answer.words) if lane.perplexity else None
        seconds = (perf_counter() - began) / len(written)
        samples = []
        for number, answer in zip(job.numbers, written, strict=True):
            passed, reason, output = scored[answer.program]
            samples.append(
                Sample(
                    job.task,
                    job.case,
                    job.temperature,
                    number,
                    answer.program,
                    passed,
                    answer.trouble or reason,
                    output,
                    category=problem.category,
                    turns=len(problem.prompts),
                    tokens=answer.tokens,
                    seconds=seconds,
                    logprob=answer.logprob,
                    perplexity=perplexity[answer.program],
                    reasons=tuple(answer.reasons),
                )
            )
        return samples

    def _score(self, program: str, wanted: object, lane: Lane) -> tuple[bool, str, str]:
        """Run a program once from nothing. Return whether it passes, in a word why not, and the end of what it wrote."""
        result = last_execution(lane.executor.execute(scorer.showing(program), parent=None, turn=None, timeout=TIMEOUT))
        passed = scorer.passes(result.prints, wanted, corrected=self.corrected)
        return passed, "passed" if passed else why(result), tail(result)

    def _sampling(self, completer: Completer, number: int) -> Sampling:
        """Return how to draw an answer."""
        own = completer.sampling
        temperature = own.temperature if self.temperature is None else self.temperature
        if number and self.temperature is None:
            temperature = temperature or FALLBACK_TEMPERATURE
        return replace(
            own, temperature=temperature, top_p=own.top_p if self.top_p is None else self.top_p, seed=self.seed + number
        )

    def _paper(self, texts: Sequence[str], room: int, numbers: Sequence[int], completer: Completer) -> Iterator[_Answer]:
        """Answer turn by turn as the reference does. Answers that are the same so far have one prompt, and are drawn together."""
        answers = [_Answer(prompts.HEADER) for _ in numbers]
        for turn, text in enumerate(texts):
            groups: dict[str, list[int]] = {}
            for index, answer in enumerate(answers):
                answer.word(prompts.comment(text))
                groups.setdefault(answer.program, []).append(index)
            for prompt_text, members in groups.items():
                draws = [
                    replace(sampling, seed=sampling.seed + TURN_SEEDS * turn)
                    for sampling in (self._sampling(completer, numbers[index]) for index in members)
                ]
                try:
                    for event in completer.complete_many(Prompt(prompt_text, prompts.mtpb_stop, room), draws):
                        if isinstance(event, Completed):
                            answers[members[event.candidate]].write(event.completion)
                except ContextWindowExceeded:
                    for index in members:
                        answers[index].trouble = "context window"
        yield from answers

    def _conversation(self, texts: Sequence[str], room: int, number: int, lane: Lane) -> _Answer:
        """Answer as the product does. The program is what was kept, and a last turn that failed, for what it printed before."""
        options = Options(
            sampling=self._sampling(lane.completer, number),
            guard=self.guard,
            max_new_tokens=room,
            timeout=TURN_TIMEOUT,
            rules=self.rules,
            keep=self.choose,
        )
        answer = _Answer(prompts.HEADER)
        conversation = Conversation(lane.completer, lane.executor, History.memory(), options)
        last: Turn | None = None
        try:
            for event in branches.play(conversation, texts, self.n if self.choose else 1):
                match event:
                    case Completed(completion):
                        answer.tokens += completion.usage.completion_tokens
                    case Chosen(reason=reason):
                        answer.reasons.append(reason)
                    case Committed(turn):
                        last = turn
        except ContextWindowExceeded:
            answer.trouble = "context window"
        turns = conversation.turns
        for turn in (*turns, last) if last and not last.accepted else turns:
            answer.word(prompts.comment(turn.text))
            answer.program += f"{turn.code.rstrip()}\n\n"
            answer.logprob += turn.completion.logprob if turn.completion else 0.0
        for turn in conversation.history.drawn:
            lane.executor.forget(turn.id)
        return answer


class _Answer:
    """A program in the making, and where in it the words stand."""

    def __init__(self, header: str) -> None:
        self.program = header
        self.words: list[tuple[int, int]] = []
        self.tokens = 0
        self.logprob = 0.0
        self.trouble = ""
        self.reasons: list[str] = []

    def word(self, comment: str) -> None:
        """Append a turn's words."""
        self.words.append((len(self.program), len(self.program) + len(comment)))
        self.program += comment

    def write(self, completion: Completion) -> None:
        """Append a turn's code, as the reference does: as it was cut, and an empty line."""
        self.program += completion.text + "\n\n"
        self.tokens += completion.usage.completion_tokens
        self.logprob += completion.logprob
