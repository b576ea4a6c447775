"""Lanes on many machines, by Ray. The driver keeps the account: a job is done when its samples are in its file, and not before.

A worker is a process that has loaded the model and started one sandbox. When one is lost, what it was at is given to another,
and a new one is started in its place, wherever Ray finds room. A job gives the same samples wherever it is done, so one that was
done twice counts once.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

from codegen_chat.api import load
from codegen_chat.bench.lanes import LIMITS, Benchmark, Job, Lane, Shared
from codegen_chat.bench.likelihood import of_parts
from codegen_chat.bench.samples import Sample
from codegen_chat.errors import CodegenChatError, UsageError
from codegen_chat.sandbox.kernel import Kernel

TRIES = 5
"""How often a job is given out, when each worker that had it was lost, before the run gives up."""


class Worker:
    """A lane in a process of Ray's. Sandbox and model start with its first job, so that their errors are that job's."""

    def __init__(self, benchmark: Benchmark, model: tuple[str, str, str] | None) -> None:
        """Take the model by name, dtype and device; None: no job asks for one."""
        self._benchmark = benchmark
        self._model = model

    @cached_property
    def _lane(self) -> Lane:
        kernel = Kernel.start(LIMITS, imports=["numpy"])
        if self._model is None:
            return Lane(Shared(None), kernel)
        name, dtype, device = self._model
        loaded = load(name, dtype=dtype, device=device)
        return Lane(Shared(loaded.engine), kernel, partial(of_parts, loaded))

    def answer(self, job: Job) -> list[Sample]:
        """Do one job."""
        return self._benchmark.answer(job, self._lane)

    def process(self) -> int:
        """Return the id of this process."""
        return os.getpid()


def distributed(
    benchmark: Benchmark, jobs: Iterable[Job], model: tuple[str, str, str] | None, address: str, workers: int | None
) -> Generator[list[Sample], None, None]:
    """Do the jobs on a cluster; yield the samples of each as it ends. `workers` None: one for each node.

    The model must be on every node, under the same name. Raises UsageError where Ray is not installed or the cluster cannot be
    reached, what a job raises, and CodegenChatError where one job lost its worker too often.
    """
    try:
        import ray  # noqa: PLC0415  only who asks for a cluster waits for it
        from ray.exceptions import RayActorError, RayTaskError  # noqa: PLC0415
    except ImportError:
        raise UsageError("--ray needs Ray: pip install 'codegen-chat[ray]'") from None
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster at {address}: {str(error).splitlines()[0]}") from None
    remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Worker)
    count = workers or max(1, len([node for node in ray.nodes() if node["Alive"]]))
    waiting = list(reversed(list(jobs)))
    tries: dict[Job, int] = {}
    running: dict[Any, tuple[Any, Job]] = {}
    idle = [remote.remote(benchmark, model) for _ in range(min(count, len(waiting)))]
    try:
        while waiting or running:
            while waiting and idle:
                worker, job = idle.pop(), waiting.pop()
                running[worker.answer.remote(job)] = worker, job
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            worker, job = running.pop(ended)
            try:
                samples = ray.get(ended)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except RayActorError:
                tries[job] = tries.get(job, 0) + 1
                if tries[job] == TRIES:
                    raise CodegenChatError(f"{job.task}: {TRIES} workers were lost with it; is there memory enough?") from None
                waiting.append(job)
                idle.append(remote.remote(benchmark, model))
            else:
                idle.append(worker)
                yield samples
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            with suppress(Exception):
                ray.kill(worker)
        ray.shutdown()
