"""A simulated outer step: the pool's own schedule under a clock of events, for any number of workers and nodes.

Times are in seconds, sizes in bytes. The driver does one thing at a time, and so does each relay; θ goes once to each
other node and once into the memory that workers of a node share. On the driver's node a gradient comes back for each
block of shards; those of another node are added up along the tree by its relay, with the code that relays use. What is
left out: failures, the start, evaluations and checkpoints, and whatever else uses machines and network.
"""

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from cluster.workers.messages import GradientRequest, shards
from cluster.workers.pool import Ticket, level_for
from cluster.workers.schedule import Job, Schedule
from meta.reduce import TreeSum

TICK = 1e-6  # by which time moves on at least, whatever was rounded


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Times and rates of the machines that are simulated.

    Attributes:
        shard: measured times of one shard, of which each shard takes one at random.
        learner: of the driver between the last gradient and the next θ.
        send: of the driver for one request, and of a relay for handing it on.
        receive: of the driver or a relay for one reply, besides copying and adding.
        notice: of the driver for hearing that a relay has a block's gradient.
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
    notice: float
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
class _Relay:
    """State of one node's relay in the step that is simulated."""

    free: float
    tree: TreeSum[int]
    out: int = 0  # blocks that the node's workers have


@dataclass(frozen=True)
class _Work:
    """A block that a worker computes: its seconds of computing."""

    worker: int
    assignment: int
    job: Job
    seconds: float


@dataclass
class _Step:
    """State of the step that is simulated."""

    began: float
    driver: float  # when it is free
    out: float  # when the network is free, from the driver
    into: float  # to the driver
    level: int  # of its blocks
    worked: dict[int, float] = field(default_factory=dict)  # by worker: seconds in this step
    relays: dict[int, _Relay] = field(default_factory=dict)  # by node
    missing: int = 0  # blocks whose gradient has not reached the driver, alone or in a sum
    held: dict[int, set[int]] = field(default_factory=dict)  # by node: blocks that its relay holds and has announced
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
            self._schedule.join(worker, f"{self._node(worker):06d}")
        self._free = dict.fromkeys(range(cluster.workers), 0.0)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()

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
        level = level_for(self._shards, self._cluster.workers, self._schedule.fast)
        step = _Step(began, began, began, began, level)
        self._drive(step, self._costs.nbytes / self._costs.memory)
        requests = [
            GradientRequest(step=number, shard=block, tasks=tasks, size=1, level=level)
            for block, tasks in enumerate(shards("train", 0, self._shards, 2**level))
        ]
        ticket, step.missing = Ticket(requests), len(requests)
        for request in requests:
            self._schedule.add(Job(ticket, request, None))
        while step.missing:
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

    def _node(self, worker: int) -> int:
        return worker // self._cluster.workers_per_node

    def _hand_out(self, step: _Step) -> None:
        self._now = step.driver
        costs = self._costs
        for worker, assignment, job in list(self._schedule.assign()):
            self._drive(step, costs.send)
            arrival = self._arrival(step, self._node(worker))
            seconds = float(self._rng.choice(costs.shard, len(job.request.tasks.indices)).sum())
            if worker < self._cluster.slow:
                seconds *= 10
            end = max(arrival, self._free[worker]) + seconds
            self._free[worker] = end
            step.worked[worker] = step.worked.get(worker, 0.0) + seconds
            self._after(end + costs.latency, self._computed(step, _Work(worker, assignment, job, seconds)))

    def _arrival(self, step: _Step, node: int) -> float:
        """When a request that the driver has just sent wakes a worker."""
        costs = self._costs
        if node == 0:
            return step.driver + costs.latency
        if node not in step.relays:
            seconds = costs.nbytes / costs.bandwidth
            step.out = max(step.out, step.driver) + seconds
            step.out_busy += seconds
            theta = step.out + costs.network
            step.relays[node] = _Relay(theta + costs.nbytes / costs.memory, TreeSum(self._shards))
        relay = step.relays[node]
        relay.out += 1
        relay.free = max(relay.free, step.driver + costs.network) + costs.send
        return relay.free + costs.latency

    def _computed(self, step: _Step, work: _Work) -> Callable[[float], None]:
        """The event at which a block's gradient reaches the driver, or the relay of its node."""
        costs, node = self._costs, self._node(work.worker)
        handling = costs.receive + 2 * costs.nbytes / costs.memory
        if node == 0:
            return lambda at: self._received(step, at, work, handling)

        def relayed(at: float) -> None:
            if step.missing == 0:  # the step is over
                self._after(at + costs.network, lambda at: self._received(step, at, work, costs.notice))
                return
            relay = step.relays[node]
            relay.free = max(relay.free, at) + handling
            relay.out -= 1
            request = work.job.request
            assert isinstance(request, GradientRequest)
            relay.tree.cover(request.shard, 0, request.level)
            self._after(relay.free + costs.network, lambda at: self._received(step, at, work, costs.notice))
            if relay.out == 0:
                self._send_up(step, node, relay.free)

        return relayed

    def _send_up(self, step: _Step, node: int, at: float) -> None:
        """Send what a relay has added up."""
        for level, number, _ in step.relays[node].tree.take():
            seconds = self._costs.nbytes / self._costs.bandwidth
            step.into = max(step.into, at) + seconds
            step.into_busy += seconds
            self._after(step.into + self._costs.network, self._arrived(step, node, level, number))

    def _arrived(self, step: _Step, node: int, level: int, number: int) -> Callable[[float], None]:
        """The event at which a node's sum reaches the driver."""

        def happen(at: float) -> None:
            step.driver = max(step.driver, at)
            self._drive(step, self._costs.receive + 2 * self._costs.nbytes / self._costs.memory)
            held = step.held.get(node, set())
            covered = {block for block in held if block >> level - step.level == number}
            held -= covered
            step.missing -= len(covered)

        return happen

    def _received(self, step: _Step, at: float, work: _Work, handling: float) -> None:
        """The driver hears of a block, and has its gradient if it comes from its own node."""
        step.driver = max(step.driver, at)
        self._drive(step, handling)
        self._now = step.driver
        job = self._schedule.settle(work.worker, work.assignment, work.seconds)
        if job is None:
            return
        node = self._node(work.worker)
        if node == 0:
            step.missing -= 1
        else:
            step.held.setdefault(node, set()).add(job.request.shard)
        if job.ticket.computed == len(job.ticket.requests):
            # Relays that still wait for a slow worker, whose block another has computed, are asked for the rest.
            for waiting in [node for node, blocks in step.held.items() if blocks and step.relays[node].out]:
                self._after(step.driver + self._costs.network, partial(self._send_up, step, waiting))

    def _after(self, at: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (at, next(self._order), happen))
