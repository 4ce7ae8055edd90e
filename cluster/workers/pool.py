"""What the loop asks of a pool of workers, and the pool that computes in this very process."""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cluster.config.schema import Config
from cluster.workers.messages import Flat, Order, Result
from cluster.workers.worker import Worker


@dataclass(eq=False)
class Ticket:
    """Orders handed in together, and the results that have come so far."""

    orders: Sequence[Order]
    results: deque[Result] = field(default_factory=deque)
    delivered: int = 0

    @property
    def complete(self) -> bool:
        """Whether every order has been answered."""
        return self.delivered == len(self.orders)

    def deliver(self, result: Result) -> None:
        """Take in one result."""
        self.results.append(result)
        self.delivered += 1


class Pool(Protocol):
    """Workers that compute orders under a version of θ; each order is answered exactly once.

    Attributes:
        failures: one line per worker that was lost.
    """

    failures: list[str]

    @property
    def warnings(self) -> list[str]:
        """Lines about workers that were asked for and not there."""
        ...

    def submit(self, orders: Sequence[Order], theta: Flat, *, background: bool = False) -> Ticket:
        """Hand in orders; returns at once. Background orders run when no others wait."""
        ...

    def gather(self, ticket: Ticket) -> Iterator[Result]:
        """The ticket's results as they come, until it is complete."""
        ...

    def poll(self) -> None:
        """Let work that has been handed in move on, without waiting."""
        ...

    def close(self) -> None:
        """Stop the workers. May be called twice."""
        ...


class InlinePool:
    """One worker in this process: for debugging, for small jobs, and where Ray is not wanted (``workers: 0``)."""

    def __init__(self, config: Config) -> None:
        """Build the worker."""
        self.failures: list[str] = []
        self._worker = Worker(config)
        self._waiting: deque[tuple[Ticket, Order, Flat]] = deque()

    @property
    def warnings(self) -> list[str]:
        """None: this process is always there."""
        return []

    def submit(self, orders: Sequence[Order], theta: Flat, *, background: bool = False) -> Ticket:
        """Keep the orders until somebody waits for them."""
        del background
        ticket = Ticket(orders)
        self._waiting.extend((ticket, order, theta) for order in orders)
        return ticket

    def gather(self, ticket: Ticket) -> Iterator[Result]:
        """Compute in order of submission until the ticket is complete."""
        while ticket.results or not ticket.complete:
            if not ticket.results:
                self.poll()
            else:
                yield ticket.results.popleft()

    def poll(self) -> None:
        """Compute the oldest waiting order."""
        if self._waiting:
            ticket, order, theta = self._waiting.popleft()
            # Nothing is drawn ahead: there is no idle moment to draw in.
            result = self._worker.run(dataclasses.replace(order, upcoming=None), theta)
            ticket.deliver(dataclasses.replace(result, order=order))

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
