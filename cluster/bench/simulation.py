"""A simulated outer step: the pool's own schedule under a clock of events, for any number of workers and nodes.

Times are in seconds, sizes in bytes. The driver does one thing at a time; θ goes once to each worker of another node
and once into the memory that workers of its own node share; gradients come back one per block of shards. What is left
out: failures, the start, evaluations and checkpoints, and whatever else uses machines and network.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster.workers.messages import GradientRequest, shards
from cluster.workers.pool import Ticket, level_for
from cluster.workers.schedule import Job, Schedule

TICK = 1e-6  # by which time moves on at least, whatever was rounded


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Times and rates of the machines that are simulated.

    Attributes:
        shard: measured times of one shard, of which each shard takes one at random.
        learner: of the driver between the last gradient and the next θ.
        send: of the driver for one request.
        receive: of the driver for one reply, besides copying and adding.
        latency: from sending to the other side's waking up, on one node.
        network: the same between nodes.
        memory: bytes per second that a gradient is copied and added up with.
        bandwidth: bytes per second between the driver's node and all others together.
        nbytes: size of θ.
    """

    shard: Sequence[float]
    learner: float
    send: float
    receive: float
    latency: float
    network: float
    memory: float
    bandwidth: float
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Workers of one speed on nodes, the first of which is the driver's; some workers may be slow.

    Attributes:
        nodes: number of nodes.
        workers_per_node: workers on each.
        slow: number of workers that take ten times as long.
    """

    nodes: int
    workers_per_node: int
    slow: int = 0

    @property
    def workers(self) -> int:
        """Workers on all nodes."""
        return self.nodes * self.workers_per_node


@dataclass
class Simulated:
    """Means over the steps of a simulation, in seconds a step.

    Attributes:
        step: from one θ to the next.
        driver: that the driver is busy.
        network: that the driver's network is busy in the direction that is busier.
        compute: that a worker computes, averaged over those that do.
        busy: workers that compute anything.
    """

    step: float = 0.0
    driver: float = 0.0
    network: float = 0.0
    compute: float = 0.0
    busy: float = 0.0


@dataclass
class _Step:
    """State of the step that is simulated."""

    began: float
    driver: float  # when it is free
    out: float  # when the network is free, from the driver
    into: float  # to the driver
    worked: dict[int, float] = field(default_factory=dict)  # by worker: seconds in this step
    sent: set[int] = field(default_factory=set)  # workers of other nodes that have this θ
    driver_busy: float = 0.0
    out_busy: float = 0.0
    into_busy: float = 0.0


class Simulation:
    """Outer steps of a training on a cluster."""

    def __init__(self, costs: Costs, cluster: Cluster, shards: int, *, copies: bool = True, seed: int = 0) -> None:
        """Seat the workers.

        Args:
            costs: of everything.
            cluster: where.
            shards: of a meta-batch.
            copies: as ``cluster.copies``.
            seed: of the times of shards.
        """
        self._costs, self._cluster, self._shards = costs, cluster, shards
        self._rng = np.random.Generator(np.random.Philox(seed))
        self._now = 0.0
        self._schedule = Schedule(copies=copies, clock=lambda: self._now)
        for worker in range(cluster.workers):
            self._schedule.join(worker)
        self._free = dict.fromkeys(range(cluster.workers), 0.0)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()
        self._settled = 0

    def run(self, steps: int) -> Simulated:
        """Simulate steps; a few before them are not counted.

        Args:
            steps: how many are counted.
        """
        warm = max(2, steps // 10)
        time, total = 0.0, Simulated()
        for number in range(warm + steps):
            step = self._one(time, number)
            if number >= warm:
                total.step += (step.driver - time) / steps
                total.driver += step.driver_busy / steps
                total.network += max(step.out_busy, step.into_busy) / steps
                total.compute += sum(step.worked.values()) / max(len(step.worked), 1) / steps
                total.busy += len(step.worked) / steps
            time = step.driver
        return total

    def _one(self, began: float, number: int) -> _Step:
        step = _Step(began, began, began, began)
        self._drive(step, self._costs.nbytes / self._costs.memory)
        level = level_for(self._shards, self._cluster.workers, self._schedule.fast)
        requests = [
            GradientRequest(step=number, shard=block, tasks=tasks, size=1, level=level)
            for block, tasks in enumerate(shards("train", 0, self._shards, 2**level))
        ]
        ticket, count = Ticket(requests), len(requests)
        for request in requests:
            self._schedule.add(Job(ticket, request, None))
        self._settled = 0
        while self._settled < count:
            self._hand_out(step)
            look = step.driver + max(self._schedule.next_look(), TICK)
            if not self._events or self._events[0][0] > look:
                step.driver = look
                self._now = look
                continue
            at, _, happen = heapq.heappop(self._events)
            happen(at)
        self._drive(step, self._costs.learner)
        return step

    def _drive(self, step: _Step, seconds: float) -> None:
        step.driver += seconds
        step.driver_busy += seconds

    def _hand_out(self, step: _Step) -> None:
        self._now = step.driver
        costs = self._costs
        for worker, assignment, job in list(self._schedule.assign()):
            self._drive(step, costs.send)
            arrival = step.driver + costs.latency
            if worker >= self._cluster.workers_per_node:
                arrival = step.driver + costs.network
                if worker not in step.sent:
                    step.sent.add(worker)
                    seconds = costs.nbytes / costs.bandwidth
                    step.out = max(step.out, step.driver) + seconds
                    step.out_busy += seconds
                    arrival = step.out + costs.network
            seconds = float(self._rng.choice(costs.shard, len(job.request.tasks.indices)).sum())
            if worker < self._cluster.slow:
                seconds *= 10
            end = max(arrival, self._free[worker]) + seconds
            self._free[worker] = end
            step.worked[worker] = step.worked.get(worker, 0.0) + seconds
            self._after(end, self._computed(step, worker, assignment, seconds))

    def _computed(self, step: _Step, worker: int, assignment: int, seconds: float) -> Callable[[float], None]:
        """The event at which a worker has computed a block and sends its gradient."""

        def happen(at: float) -> None:
            arrival = at + self._costs.latency
            if worker >= self._cluster.workers_per_node:
                transfer = self._costs.nbytes / self._costs.bandwidth
                step.into = max(step.into, at) + transfer
                step.into_busy += transfer
                arrival = step.into + self._costs.network
            self._after(arrival, lambda at: self._received(step, at, worker, assignment, seconds))

        return happen

    def _received(self, step: _Step, at: float, worker: int, assignment: int, seconds: float) -> None:
        step.driver = max(step.driver, at)
        self._drive(step, self._costs.receive + 2 * self._costs.nbytes / self._costs.memory)
        self._now = step.driver
        if self._schedule.settle(worker, assignment, seconds) is not None:
            self._settled += 1

    def _after(self, at: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), happen))
