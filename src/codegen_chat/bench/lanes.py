"""Where answers are made: lanes beside each other, each with a sandbox of its own, all with one model.

A lane takes a job at a time. While one lane's code runs, another's is generated; the model serves one completion at a time. What
a job gives depends on nothing but the job, so the number of lanes, and who does what when, change no result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import Field, dataclass, replace
from queue import Empty, SimpleQueue
from threading import Event, RLock, Thread
from typing import Any, ClassVar, NamedTuple, Protocol

from codegen_chat.bench.samples import Key, Sample
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import Accept, Completed, Completer, Completion, Delta, Executor, Limits, Prompt, Sampling

LIMITS = replace(Limits(), processes=64)
"""What a measured program may use."""


class Job(NamedTuple):
    """Answers that are made together: of one task's case, at one temperature, these numbers."""

    task: str
    case: int
    temperature: float | None
    numbers: tuple[int, ...]

    @property
    def keys(self) -> list[Key]:
        """Which samples it gives."""
        return [Key(self.task, self.case, self.temperature, number) for number in self.numbers]


class Benchmark(Protocol):
    """Tasks, and how one is answered. It is a dataclass of data, so that it can be sent to another machine."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def jobs(self) -> list[Job]:
        """Return all there is to do, in the order in which it is best done."""
        ...

    def answer(self, job: Job, lane: Lane) -> list[Sample]:
        """Do one job: generate, run, score."""
        ...


Perplexity = Callable[[str, Sequence[tuple[int, int]]], float | None]
"""The perplexity of the parts of a text, given by where they begin and end, each after all that stands before it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What a job is done with. `perplexity` is None where no model can tell."""

    completer: Shared
    executor: Executor
    perplexity: Perplexity | None = None


class StoppedError(Exception):
    """Nobody waits for what a lane was asked any more."""


class Shared:
    """A completer for several threads. A completion is drawn to its end before another begins, and after `stop` none does.

    None stands for it where no job asks for one.
    """

    def __init__(self, completer: Completer | None) -> None:
        self._given = completer
        self._lock = RLock()
        self._stopped = False

    @property
    def _completer(self) -> Completer:
        if self._given is None or self._stopped:
            raise StoppedError
        return self._given

    def stop(self) -> None:
        """Let whoever asks for a completion end."""
        self._stopped = True

    @property
    def window(self) -> int:
        """The model's."""
        return self._completer.window

    @property
    def sampling(self) -> Sampling:
        """The checkpoint's."""
        return self._completer.sampling

    def count(self, text: str) -> int:
        """Return how many tokens a text has."""
        return self._completer.count(text)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep the model for several completions, whose prompts continue one another."""
        with self._lock:
            yield

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        """Complete as the model does."""
        with self._lock:
            events = list(self._completer.complete(prompt, sampling, accept=accept))
        yield from events

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        """Complete as the model does."""
        with self._lock:
            events = list(self._completer.complete_many(prompt, samplings, accept=accept))
        yield from events


def count() -> int:
    """Return how many lanes are worth it here: one generates, the others run what was generated."""
    return min(4, 1 + len(os.sched_getaffinity(0)))


def local(
    benchmark: Benchmark, jobs: Iterable[Job], model: Callable[[], tuple[Completer | None, Perplexity | None]], lanes: int
) -> Generator[list[Sample], None, None]:
    """Do the jobs on this machine; yield the samples of each as it ends, in whatever order.

    The sandboxes start before the model loads, so that their processes are small. Closing the generator lets the lanes end after
    the step that they are at, and their jobs are then lost. Raises what loading the model, a sandbox or a job raises.
    """
    jobs = list(jobs)
    waiting: SimpleQueue[Job] = SimpleQueue()
    for job in jobs:
        waiting.put(job)
    ended: SimpleQueue[list[Sample] | BaseException] = SimpleQueue()
    stop = Event()

    def work(lane: Lane) -> None:
        try:
            while not stop.is_set():
                ended.put(benchmark.answer(waiting.get_nowait(), lane))
        except Empty:
            """All is done, or being done."""
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            ended.put(error)

    with ExitStack() as stack:
        kernels = [stack.enter_context(Kernel.start(LIMITS, imports=["numpy"])) for _ in range(min(lanes, len(jobs)))]
        completer, perplexity = model() if jobs else (None, None)
        shared = Shared(completer)
        threads = [
            Thread(target=work, args=[Lane(shared, kernel, _alone(perplexity, shared))], name="lane", daemon=True)
            for kernel in kernels
        ]
        try:
            for thread in threads:
                thread.start()
            for _ in jobs:
                outcome = ended.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            stop.set()
            shared.stop()
            for thread, kernel in zip(threads, kernels, strict=True):
                while thread.is_alive():  # one may be about to run what it has just been given
                    kernel.interrupt()
                    thread.join(0.05)


def _alone(perplexity: Perplexity | None, completer: Shared) -> Perplexity | None:
    """Return the same for several threads."""

    def measure(text: str, parts: Sequence[tuple[int, int]]) -> float | None:
        with completer.alone():
            return perplexity(text, parts) if perplexity else None

    return measure if perplexity else None
