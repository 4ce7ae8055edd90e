"""Relays, and workers behind them, as the pool knows them."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.workers.peers import Whom
from cluster.workers.pool import Ticket
from cluster.workers.schedule import Job
from cluster.workers.transport.link import Link, LinkClosed, Message
from cluster.workers.vectors import Payload, Receiver
from cluster.workers.wire import encode_request


class Process(Protocol):
    """A relay's process: see :class:`cluster.workers.relay_actor.RelayProcess`."""

    @property
    def ended(self) -> bool:
        """Whether it has ended, or could not be started."""
        ...

    def end(self) -> None:
        """Kill it."""
        ...


@dataclass(eq=False)
class NodeRelay:
    """A relay.

    Attributes:
        node: Ray's identity of its node.
        host: the node's name.
        process: in which it runs.
        since: when that was started.
        link: to it, once it has connected.
        local: name of its Unix socket.
        at: its node, and host and port at which other relays reach it.
        heard: when anything last arrived from it.
        lost: whether it was given up.
        receiver: what it has been sent.
        seats: workers behind it, by number.
        waiting: workers that wait for it, with their greeting.
        direct: workers that have waited so long that the pool serves them until it is there.
        orders: requests to be sent, by payload.
    """

    node: str
    host: str
    process: Process
    since: float
    link: Link | None = None
    local: str = ""
    at: Whom = ("", "", 0)
    heard: float = 0.0
    lost: bool = False
    receiver: Receiver = field(default_factory=lambda: Receiver(shares_memory=False))
    seats: dict[int, "RelayedLink"] = field(default_factory=dict)
    waiting: dict[Link, Message] = field(default_factory=dict)
    direct: set[Link] = field(default_factory=set)
    orders: dict[int, tuple[Payload, Ticket, list[Any]]] = field(default_factory=dict)


class RelayedLink:
    """A worker's link that goes through a relay."""

    shares_memory = False

    def __init__(self, relay: NodeRelay, seat: int) -> None:
        """Name the worker by its seat at the relay."""
        self.relay, self.seat = relay, seat
        self.silent = 0.0  # seconds since the relay has heard from it, as the relay says

    def order(self, assignment: int, job: Job) -> None:
        """Have a request sent by :meth:`Relays.flush`, together with others.

        Args:
            assignment: its number.
            job: the request's.
        """
        payload: Payload = job.vectors
        _, _, orders = self.relay.orders.setdefault(payload.number, (payload, job.ticket, []))
        orders.append([self.seat, assignment, encode_request(job.request)])


AnyLink = Link | RelayedLink


def send(link: Link | None, *message: Any) -> None:
    """Send to a link that may have closed, which the hub reports.

    Args:
        link: of a relay or a worker that has connected.
        message: as :meth:`Link.send` takes it.
    """
    assert link is not None
    try:
        link.send(*message)
    except LinkClosed:
        return
