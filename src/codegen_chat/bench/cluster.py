"""Lanes on many machines, by Ray. The driver keeps the account: a job is done when its samples are in its file, and not before.

A worker is a process that has loaded the model and started one sandbox. When one is lost, what it was at is given to another,
and a new one is started in its place, wherever Ray finds room. A job gives the same samples wherever it is done, so one that was
done twice counts once.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Generator, Iterable
from functools import cached_property, partial
from typing import Any

from codegen_chat.bench.lanes import LIMITS, Benchmark, Job, Lane, Shared
from codegen_chat.bench.likelihood import of_parts
from codegen_chat.bench.samples import Sample
from codegen_chat.errors import CodegenChatError, UsageError, first_line
from codegen_chat.models import by_settings
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.settings import Settings

TRIES = 5
"""How often a job is given out, when each worker that had it was lost, before the run gives up."""


class Worker:
    """A lane in a process of Ray's. Sandbox and model start with its first job, so that their errors are that job's."""

    def __init__(self, benchmark: Benchmark, settings: Settings | None) -> None:
        """Take the settings that name the model; None: no job asks for one."""
        self._benchmark = benchmark
        self._settings = settings

    @cached_property
    def _lane(self) -> Lane:
        kernel = Kernel.start(LIMITS, imports=["numpy"])
        if self._settings is None:
            return Lane(Shared(None), kernel)
        loaded = by_settings(self._settings)
        return Lane(Shared(loaded.engine), kernel, partial(of_parts, loaded))

    def answer(self, job: Job) -> list[Sample]:
        """Do one job."""
        return self._benchmark.answer(job, self._lane)

    def process(self) -> int:
        """Return the id of this process."""
        return os.getpid()


def distributed(
    benchmark: Benchmark, jobs: Iterable[Job], settings: Settings | None, address: str, workers: int | None
) -> Generator[list[Sample], None, None]:
    """Do the jobs on a cluster; yield the samples of each as it ends. `workers` None: one for each node.

    The model of the settings (None: no job asks for one) must be on every node, under the same name. Raises UsageError where Ray
    is not installed or the cluster cannot be reached, what a job raises, and CodegenChatError where one job lost its worker too
    often.
    """
    try:
        import ray  # noqa: PLC0415  only who asks for a cluster waits for it
        from ray.exceptions import RayActorError, RayTaskError  # noqa: PLC0415
    except ImportError:
        raise UsageError("--ray needs Ray: pip install 'codegen-chat[ray]'") from None
    try:
        host, _, port = address.partition(":")
        if port.isdigit():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), 10).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"no Ray cluster at {address}: {first_line(error)}") from None
    remote = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Worker)
    waiting = list(reversed(list(jobs)))
    lost: Counter[Job | None] = Counter()
    running: dict[Any, tuple[Any, Job | None]] = {}  # None: the worker starts, which takes as long as the cluster has no room

    def start() -> None:
        worker = remote.remote(benchmark, settings)
        running[worker.process.remote()] = worker, None

    for _ in range(min(workers or sum(node["Alive"] for node in ray.nodes()), len(waiting))):
        start()
    try:
        while waiting or any(job for _, job in running.values()):
            (ended, *_), _ = ray.wait(list(running), num_returns=1)
            worker, job = running.pop(ended)
            try:
                outcome = ray.get(ended)
            except RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except RayActorError:
                lost[job] += 1
                if lost[job] == TRIES:
                    raise CodegenChatError(
                        f"{TRIES} workers were lost with {job or 'nothing'}: is there memory enough?"
                    ) from None
                if job is not None:
                    waiting.append(job)
                start()
                continue
            if waiting:
                following = waiting.pop()
                running[worker.answer.remote(following)] = worker, following
            if job is not None:
                yield outcome
    finally:
        ray.shutdown()  # the workers are this driver's, and end with it
