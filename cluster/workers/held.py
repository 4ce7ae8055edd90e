"""Gradients that were computed behind relays and have not arrived: where they are, and their way to the pool.

With a few relays each sends its sums to the pool by itself. With more of them the sums of a meta-batch wait until all
of it has been computed; then relays pass them to each other in pairs, and a few heads to the pool. If anything fails
on that way, what has not arrived is computed again, under another number of the attempt.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cluster.workers.messages import GradientRequest, SummedReply, TaskRange
from cluster.workers.pool import Ticket
from cluster.workers.relayed import NodeRelay, RelayedLink, send
from cluster.workers.schedule import Job, Schedule
from cluster.workers.transport.link import Bytes
from cluster.workers.tree import FAN_IN, branches, heads
from cluster.workers.vectors import Payload, Vectors

REMEMBERED = 16  # payloads whose attempts are known
COLLECTING = 30.0  # seconds without a part of a sum
MOST_ABORTED = 5  # collections that were given up; then each relay sends to the pool


@dataclass(eq=False)
class Held:
    """Gradient requests submitted together, computed behind relays, whose sums have not arrived.

    Attributes:
        ticket: of all the requests.
        jobs: by relay, by shard.
        since: when their sums were asked for, or one has last arrived; None: they have not been.
        arriving: sums of which chunks are missing, by relay, by chunk.
    """

    ticket: Ticket
    jobs: dict[NodeRelay, dict[int, Job]] = field(default_factory=dict)
    since: float | None = None
    arriving: dict[NodeRelay, dict[int, Bytes]] = field(default_factory=dict)


class HeldSums:
    """All of them, by number of the payload."""

    def __init__(self, schedule: Schedule, vectors: Vectors, clock: Callable[[], float] = time.monotonic) -> None:
        """Hold nothing yet.

        Args:
            schedule: gets back what was lost.
            vectors: the pool's.
            clock: seconds from anywhere on.
        """
        self._schedule, self._vectors, self._clock = schedule, vectors, clock
        self._held: dict[int, Held] = {}
        self._attempts: OrderedDict[int, int] = OrderedDict()  # by payload, of those that are collected
        self._aborted = 0

    def plan(self, payload: Payload, *, collected: bool) -> dict[str, Any]:
        """Fields of an order that say whether sums of its group are collected.

        Args:
            payload: the group's.
            collected: whether they are to be, for a group that is new.
        """
        if collected and payload.number not in self._attempts:
            self._attempts[payload.number] = 0
            while len(self._attempts) > REMEMBERED:
                self._attempts.popitem(last=False)
        attempt = self._attempts.get(payload.number)
        return {} if attempt is None else {"gathers": True, "attempt": attempt}

    def hold(self, link: RelayedLink, job: Job, attempt: int) -> None:
        """Count a gradient as computed behind a relay; it will come as a part of a sum.

        Args:
            link: of the worker that has computed it.
            job: that was settled by this.
            attempt: under which it was added up.
        """
        if attempt != self._attempts.get(job.vectors.number, attempt):
            self._schedule.again([job])  # its relay has dropped it meanwhile
            return
        held = self._held.setdefault(job.vectors.number, Held(job.ticket))
        held.jobs.setdefault(link.relay, {})[job.request.shard] = job

    def on_sums(self, relay: NodeRelay, sums: Sequence[dict[str, Any]], numbers: Bytes) -> None:
        """Deliver sums that a relay has sent by itself."""
        each = len(numbers) // max(len(sums), 1)
        for place, fields in enumerate(sums):
            self._arrived([relay], fields, numbers[place * each : (place + 1) * each])

    def on_part(self, relay: NodeRelay, header: dict[str, Any], numbers: Bytes) -> None:
        """Take a chunk of sums that were collected, and deliver them when it was the last."""
        number, sums = header["part"], header["sums"]
        held, (chunk, count) = self._held.get(number), header["chunk"]
        if held is None or header["attempt"] != self._attempts.get(number):
            return
        held.since = self._clock()
        chunks = held.arriving.setdefault(relay, {})
        chunks[chunk] = numbers.reshape(len(sums), -1)
        if len(chunks) < count:
            return
        del held.arriving[relay]
        whole = chunks[0] if count == 1 else np.concatenate([chunks[at] for at in range(count)], axis=1)
        for fields, gradient in zip(sums, whole, strict=True):
            self._arrived(list(held.jobs), fields, gradient)

    def _arrived(self, relays: Iterable[NodeRelay], fields: dict[str, Any], gradient: Bytes) -> None:
        """Deliver a sum over what relays have computed, unless other workers were faster with all of it."""
        held = self._held.get(fields["group"])
        covered = []
        for relay in relays if held is not None else ():
            assert held is not None
            jobs = held.jobs.get(relay, {})
            covered += [jobs.pop(shard) for shard in list(jobs) if _below(fields, jobs[shard])]
            if not jobs:
                held.jobs.pop(relay, None)
        if held is not None and not held.jobs:
            del self._held[fields["group"]]
        if covered:
            self._deliver(covered, fields, gradient)

    def _deliver(self, jobs: list[Job], fields: dict[str, Any], gradient: Bytes) -> None:
        first = jobs[0].request
        assert isinstance(first, GradientRequest)
        tasks = TaskRange(**fields["tasks"])
        reply = SummedReply(
            request=replace(first, shard=fields["number"], level=fields["level"], tasks=tasks, upcoming=None),
            buffer=np.frombuffer(gradient, dtype=fields["dtype"]),
            metrics=tuple(fields["metrics"]),
            nonfinite=tuple(fields["nonfinite"]),
            sums=tuple(fields["sums"]),
        )
        jobs[0].ticket.deliver(reply, len(jobs))
        for job in jobs:
            self._vectors.settle(job.vectors)

    def ask(self) -> None:
        """Ask relays for what they hold where all else has been computed."""
        for group, held in self._held.items():
            if held.since is not None or held.ticket.computed < len(held.ticket.requests):
                continue
            held.since = self._clock()
            if group in self._attempts:
                self._collect(group, held)
                continue
            for relay in held.jobs:  # it still waits for a slow worker, whose request another has computed
                send(relay.link, {"flush": group})

    def _collect(self, group: int, held: Held) -> None:
        """Have relays add up what they hold, and a few of them send it."""
        holders = sorted(held.jobs, key=lambda relay: relay.node)  # in the order of their shards
        most = FAN_IN if self._aborted < MOST_ABORTED else len(holders)

        def ask(relay: NodeRelay, below: Sequence[NodeRelay], to: NodeRelay | None) -> None:
            children = branches(below)
            header = {"collect": group, "attempt": self._attempts[group], "to": to and to.at, "below": len(children)}
            send(relay.link, header)
            for child, others in children:
                ask(child, others, relay)

        for head, below in heads(holders, most):
            ask(head, below, None)

    def lose(self, relay: NodeRelay) -> float:
        """Have computed again what a lost relay held, and what was on its way perhaps by it.

        Args:
            relay: that was lost.

        Returns:
            Seconds for which it had held the oldest gradient.
        """
        held_for = 0.0
        for group, held in list(self._held.items()):
            held_for = max(held_for, self._schedule.again(list(held.jobs.pop(relay, {}).values())))
            held.arriving.pop(relay, None)
            collecting = group in self._attempts and held.since is not None  # to be aborted
            if not collecting:
                held.since = None
            if not held.jobs and not collecting:
                del self._held[group]
        return held_for

    def abort(self, relays: Iterable[NodeRelay], patience: float = 0.0) -> None:
        """Give up collecting, and have what has not arrived computed again.

        Args:
            relays: all that live.
            patience: seconds without a part for which nothing is given up.
        """
        for group, held in list(self._held.items()):
            if group not in self._attempts or held.since is None or self._clock() - held.since < patience:
                continue
            self._aborted += 1
            self._attempts[group] += 1
            del self._held[group]
            for relay in relays:
                send(relay.link, {"forget": group, "attempt": self._attempts[group]})
            for jobs in held.jobs.values():
                self._schedule.again(list(jobs.values()))


def _below(fields: dict[str, Any], job: Job) -> bool:
    """Whether a request is a part of a sum."""
    request = job.request
    assert isinstance(request, GradientRequest)
    shift: int = fields["level"] - request.level
    return bool(request.shard >> shift == fields["number"]) if shift >= 0 else False
