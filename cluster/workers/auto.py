"""``cluster.workers: auto``: how many workers pay, from the measured time of a shard and the cost of coordination.

Only time depends on the choice, no bit of θ does: it may differ from machine to machine, and from resumption to
resumption.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self, TypeVar

from cluster.config.schema import Config
from cluster.errors import EngineError
from cluster.runs.lasting import in_job
from cluster.workers.messages import Flat, Request
from cluster.workers.worker import Workable, Worker
from meta.engine.machine import available_cores

START = 10.0  # seconds until Ray and the workers have started on one machine
PER_STEP = 4e-4  # seconds that handing out a batch of requests and waking up for it takes
PER_SHARD = 1e-4  # seconds of the driver for a request and its reply
LONG = 1.0  # seconds; a first task that takes longer is timed once more, one that takes ten times as long not at all


@dataclass(frozen=True)
class WorkerCount:
    """A number of workers, and why."""

    workers: int
    reason: str


def choose(shard: float, shards: int, batches: int, cores: int) -> WorkerCount:
    """The number of workers on one machine with which the work ends first; 0 computes in the command's own process.

    Args:
        shard: seconds that one shard takes.
        shards: shards that can be computed side by side.
        batches: how often, one after another.
        cores: workers that the machine has room for.

    >>> choose(2e-4, 1, 70_000, 2).workers, choose(0.05, 16, 1000, 2).workers, choose(0.05, 16, 10, 2).workers
    (0, 2, 0)
    """

    def seconds(workers: int) -> float:
        if workers == 0:
            return batches * shards * shard
        rounds = math.ceil(shards / workers)
        return START + batches * (rounds * shard + PER_STEP + PER_SHARD * shards)

    workers = min(range(max(1, min(cores, shards)) + 1), key=seconds)
    alone = f"{_duration(seconds(0))} in this process"
    if workers == 0:
        best = min(range(1, max(2, cores + 1)), key=seconds)
        beside = f"{_duration(seconds(best))} with {best} and their start"
    else:
        beside = f"{_duration(seconds(workers))} with {workers}"
    return WorkerCount(workers, f"a shard takes {_duration(shard)}: {alone}, {beside}")


def _duration(seconds: float) -> str:
    """For people.

    >>> _duration(0.00018), _duration(0.05), _duration(12.3), _duration(3600)
    ('0.18 ms', '50 ms', '12 s', '60 min')
    """
    if seconds < 1:
        return f"{1e3 * seconds:.2g} ms"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


class Settable(Workable, Protocol):
    """A set-up whose number of workers can be settled."""

    def under(self, config: Config) -> Self:
        """The same parts under a configuration that differs in what changes none of them."""
        ...


S = TypeVar("S", bound=Settable)


def settled(setup: S, requests: Sequence[Request], batches: int = 1) -> tuple[S, str]:
    """A set-up with a number of workers, and why it is that number; the same one if its configuration names a number.

    Args:
        setup: what workers are built from.
        requests: one batch; the first of it is computed here to be timed.
        batches: how many such batches there are.

    Returns:
        The set-up, still with ``auto`` where workers run on a cluster or on GPUs: the pool then asks
        for as many as there are shards.
    """
    if setup.config.cluster.workers != "auto" or elsewhere(setup.config):
        return setup, ""
    count = _count(setup, requests, batches)
    cluster = setup.config.cluster.model_copy(update={"workers": count.workers})
    return setup.under(setup.config.model_copy(update={"cluster": cluster})), count.reason


def _count(setup: Workable, requests: Sequence[Request], batches: int) -> WorkerCount:
    config = setup.config
    limits = config.cluster
    cores = min(max(1, available_cores() // limits.threads), limits.max_workers or len(requests))
    try:
        shard = _timed(setup, requests[0])
    except EngineError as error:  # which the workers will say too, and the run then falls back
        workers = max(min(cores, len(requests)), limits.min_workers)
        return WorkerCount(workers, f"one a core, since no shard could be timed: {error}")
    count = choose(shard, len(requests), batches, cores)
    if count.workers < limits.min_workers:
        return WorkerCount(limits.min_workers, f"cluster.min_workers; {count.reason}")
    return count


def elsewhere(config: Config) -> bool:
    """Whether workers run where this process cannot measure for them."""
    return _joins(config) or config.cluster.gpus_per_worker > 0


def gpus_elsewhere(config: Config) -> bool:
    """Whether workers have GPUs that this process may not have."""
    return config.cluster.gpus_per_worker > 0 and config.cluster.workers != 0 and _joins(config)


def _joins(config: Config) -> bool:
    """Whether the workers run on a cluster that the command joins."""
    return config.cluster.address != "local" or in_job()


def _timed(setup: Workable, request: Request, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a request takes, what is compiled for it left out.

    One task is timed, and then as many of the request's as take a second, so that no length of it makes this long.
    """
    worker = Worker(setup.placed())
    theta: Flat = setup.layout.flatten(setup.initial_params()).numpy()
    first, tasks = request.tasks, len(request.tasks.indices)

    def once(count: int) -> float:
        part = replace(request, tasks=replace(first, stop=first.start + count))
        began = clock()
        worker.run(part, theta)
        return clock() - began

    one = once(1)
    if one <= 10 * LONG:
        one = once(1) if one > LONG else min(once(1), once(1))
    count = min(tasks, int(LONG / one))
    if count < 2:
        return tasks * one
    once(count)  # another shape may be compiled anew
    return tasks / count * min(once(count), once(count))
