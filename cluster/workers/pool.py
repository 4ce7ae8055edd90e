"""The interface of a pool of workers, and the pool that computes in this very process."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from cluster.runs.events import Event
from cluster.workers.messages import Flat, GradientRequest, Reply, Request
from cluster.workers.worker import Workable, Worker

ENOUGH = 1.15  # a request less is worth some imbalance
FINER = 4  # times as many blocks where workers differ


@dataclass(eq=False)
class Ticket:
    """Requests submitted together, and the replies that have come so far.

    Attributes:
        requests: what was submitted.
        replies: those that nobody has taken yet; one may answer several requests with their sum.
        computed: number of requests that a worker has computed.
        delivered: number of requests whose reply is here.
    """

    requests: Sequence[Request]
    replies: deque[Reply] = field(default_factory=deque)
    computed: int = 0
    delivered: int = 0

    @cached_property
    def shards(self) -> int:
        """Number of shards of all requests."""
        return sum(len(one.parts) if isinstance(one, GradientRequest) else 1 for one in self.requests)

    @property
    def complete(self) -> bool:
        """Whether every request has its reply."""
        return self.delivered == len(self.requests)

    def deliver(self, reply: Reply, requests: int = 1) -> None:
        """Add a reply to one request, or to several."""
        self.replies.append(reply)
        self.delivered += requests


class Pool(Protocol):
    """Workers that compute requests under a version of θ; each request is replied to, gradients perhaps by a sum.

    Attributes:
        failures: one line per worker or relay that was lost.
        events: what happened to workers and nodes, and what it cost.
        workers: number of workers beside this process.
    """

    failures: list[str]
    events: list[Event]
    workers: int

    @property
    def level(self) -> int:
        """A gradient request may ask for 2^level shards at once; no bit depends on it."""
        ...

    @property
    def warnings(self) -> list[str]:
        """Lines about workers that were asked for and not there."""
        ...

    @property
    def activity(self) -> list[str]:
        """For each worker, what it does now."""
        ...

    def submit(
        self, requests: Sequence[Request], theta: Flat, second: Flat | None = None, *, background: bool = False
    ) -> Ticket:
        """Submit requests under θ [P]; returns at once. Background requests run when no others wait.

        Args:
            requests: all about rollouts, or none of them.
            theta: θ.
            second: the second vector [P] of requests about rollouts.
            background: whether others go first.
        """
        ...

    def gather(self, ticket: Ticket) -> Iterator[Reply]:
        """The ticket's replies as they come, until it is complete."""
        ...

    def poll(self) -> None:
        """Deliver replies that have arrived, and submit further work, without waiting."""
        ...

    def close(self) -> None:
        """Stop the workers. May be called twice."""
        ...


def level_of(setup: Workable, workers: int, fast: int) -> int:
    """The level of the blocks of shards that workers are asked for; see :func:`level_for`.

    Args:
        setup: what workers are built from.
        workers: number of workers asked for.
        fast: those of them that are there and not slow.

    Returns:
        0 where a worker cannot add shards up.
    """
    return level_for(setup.config.shards, workers, fast) if setup.adds_shards else 0


def level_for(shards: int, workers: int, fast: int) -> int:
    """The level of blocks as large as keeps all workers busy, finer ones where some are slow or missing.

    Args:
        shards: of a meta-batch.
        workers: number of workers asked for.
        fast: those of them that are there and not slow.

    Returns:
        The largest level at which the worker with most to do has at most ENOUGH times the shards that it has with
        single ones.

    >>> level_for(16, 2, 2), level_for(16, 3, 3), level_for(16, 16, 16), level_for(16, 2, 1)
    (3, 1, 0, 2)
    """
    takers = workers if fast == workers else FINER * max(fast, 1)

    def most(level: int) -> int:
        blocks = -(-shards // (1 << level))
        return min(shards, -(-blocks // takers) << level)

    levels = range((shards - 1).bit_length() + 1)
    return max(level for level in levels if most(level) <= ENOUGH * most(0))


class InlinePool:
    """One worker in this process: for debugging, for small jobs, and where Ray is not wanted (``workers: 0``)."""

    def __init__(self, setup: Workable) -> None:
        """Make the worker."""
        self.failures: list[str] = []
        self.events: list[Event] = []
        self.workers = 0
        self._level = level_of(setup, 1, 1)
        self._worker = Worker(setup.placed())
        self._waiting: deque[tuple[Ticket, Request, Flat, Flat | None]] = deque()

    @property
    def level(self) -> int:
        """All shards in one request."""
        return self._level

    @property
    def warnings(self) -> list[str]:
        """No warnings: this process is always there."""
        return []

    @property
    def activity(self) -> list[str]:
        """No workers: the command's own process computes."""
        return []

    def submit(
        self, requests: Sequence[Request], theta: Flat, second: Flat | None = None, *, background: bool = False
    ) -> Ticket:
        """Queue the requests; they are computed by :meth:`gather` or :meth:`poll`.

        Args:
            requests: one for each shard.
            theta: θ [P].
            second: a second vector [P], for requests about rollouts.
            background: whether they run only when no other requests are queued.
        """
        del background
        ticket = Ticket(requests)
        self._waiting.extend((ticket, request, theta, second) for request in requests)
        return ticket

    def gather(self, ticket: Ticket) -> Iterator[Reply]:
        """Compute requests in order of submission until the ticket is complete; yields the ticket's replies."""
        while ticket.replies or not ticket.complete:
            if not ticket.replies:
                self.poll()
            else:
                yield ticket.replies.popleft()

    def poll(self) -> None:
        """Compute the oldest queued request."""
        if self._waiting:
            ticket, request, theta, second = self._waiting.popleft()
            ticket.deliver(self._worker.run(request, theta, second))

    def close(self) -> None:
        """Drop what is queued."""
        self._waiting.clear()
