"""The pool's end of all relays: to the pool, every worker behind one looks as if it had a link of its own.

A worker on another node greets the pool first and is sent on to the relay of its node, which is started when the
first such worker comes; if that takes long, the pool serves the worker directly until then. When a relay is lost, its
workers come back and are sent on to a new one. Gradients that it held, computed but not arrived, are computed again
then. See :mod:`cluster.workers.relay` for the other end.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cluster.workers.messages import GradientRequest, SummedReply, TaskRange
from cluster.workers.pool import Ticket
from cluster.workers.relayed import AnyLink, NodeRelay, Process, RelayedLink
from cluster.workers.schedule import Job, Schedule
from cluster.workers.transport.hub import Hub
from cluster.workers.transport.link import Bytes, Link, LinkClosed, Message
from cluster.workers.vectors import Vectors

WAITING = 5.0  # seconds that workers wait for a relay; then the pool serves them directly until it is there
MOST_LOST = 3  # relays of one node that have relayed nothing: then its workers go without


@dataclass(eq=False)
class Held:
    """Gradient requests submitted together, computed behind relays, whose sums have not arrived: by relay, by shard."""

    ticket: Ticket
    jobs: dict[NodeRelay, dict[int, Job]] = field(default_factory=dict)
    flushed: bool = False


class Relays:
    """A hub whose links may go through relays."""

    def __init__(
        self,
        hub: Hub,
        schedule: Schedule,
        vectors: Vectors,
        start: Callable[[str], Process],
        on_lost: Callable[[NodeRelay, str, float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start no relay yet.

        Args:
            hub: the pool's.
            schedule: that gets back what a lost relay held.
            vectors: the pool's.
            start: starts a relay on a node.
            on_lost: called with a relay that was lost, before its workers are, the reason, and the seconds for which
                it had held the oldest gradient.
            clock: seconds from anywhere on.
        """
        self._hub, self._schedule, self._vectors, self._clock = hub, schedule, vectors, clock
        self._start, self._on_lost = start, on_lost
        self._relays: dict[str, NodeRelay] = {}  # by node
        self._by_link: dict[Link, NodeRelay] = {}
        self._waiting: dict[Link, NodeRelay] = {}  # workers that wait for a relay, or no longer
        self._moving: set[Link] = set()  # that the pool served directly, and sent on
        self._held: dict[int, Held] = {}  # by number of the payload
        self._lost: dict[str, int] = {}  # by node: relays since the last sum
        self._news: list[tuple[AnyLink, Message | None]] = []

    def wait(self, timeout: float) -> Iterator[tuple[AnyLink, Message | None]]:
        """Wait until something happens, or ``timeout`` seconds; yields messages, and None for a link that closed.

        Args:
            timeout: 0 looks once without waiting.
        """
        for link, message in self._hub.wait(0 if self._news else timeout):
            if (relay := self._by_link.get(link)) is not None:
                yield from self._on_relay(relay, message)
            elif message is None:
                if self._forget(link):
                    yield link, None
            elif "relay" in message.header:
                self._welcome(link, message.header)
            elif not self._sent_on(link, message):
                yield link, message
        news, self._news = self._news, []
        yield from news

    def _sent_on(self, link: Link, message: Message) -> bool:
        """Send a worker that greets us on to the relay of its node, which may have to be started first."""
        hello = message.header.get("hello", {})
        node = hello.get("relayed")
        if not node or self._lost.get(node, 0) >= MOST_LOST:
            return False
        if node not in self._relays:
            self._relays[node] = NodeRelay(node, hello["host"], self._start(node), self._clock())
        relay = self._relays[node]
        if relay.link is None:
            relay.waiting[link] = message
            self._waiting[link] = relay
        else:
            self._send_on(relay, link)
        return True

    def _forget(self, link: Link) -> bool:
        """Forget a worker's own link that has closed; whether the pool has served it."""
        relay = self._waiting.pop(link, None)
        if relay is None:
            return True
        relay.direct.discard(link)
        return relay.waiting.pop(link, None) is None

    def _send_on(self, relay: NodeRelay, link: Link) -> None:
        _send(link, {"relay": relay.local})  # if it has gone, the hub reports that

    def _welcome(self, link: Link, header: dict[str, Any]) -> None:
        """Take in a relay, and send the workers that wait for it on."""
        relay = self._relays.get(header["relay"])
        if relay is None or relay.link is not None:
            self._hub.drop(link)  # one that was given up while it started
            return
        relay.link, relay.local, relay.heard = link, header["local"], self._clock()
        self._by_link[link] = relay
        for worker in (*relay.waiting, *relay.direct):
            del self._waiting[worker]
            self._send_on(relay, worker)
        self._moving |= relay.direct
        relay.waiting.clear()
        relay.direct.clear()

    def _on_relay(self, relay: NodeRelay, message: Message | None) -> Iterator[tuple[AnyLink, Message | None]]:
        if message is None:
            self._lose(relay, "its connection was lost")
            return
        relay.heard = self._clock()
        header = message.header
        if "seat" in header:
            if "hello" in header["message"]:
                relay.seats[header["seat"]] = RelayedLink(relay, header["seat"])
            if (seat := relay.seats.get(header["seat"])) is not None:
                yield seat, replace(message, header=header["message"])
        elif "gone" in header:
            if (seat := relay.seats.pop(header["gone"], None)) is not None:
                yield seat, None
        else:
            for number, relay_says in _of_seats(header):
                if (seat := relay.seats.get(number)) is not None:
                    seat.silent = relay_says.get("silent", 0.0)
                    yield seat, replace(message, header=relay_says)
            self._on_sums(relay, header.get("sums", []), message.numbers)

    def hold(self, link: RelayedLink, job: Job) -> None:
        """Count a gradient as computed behind a relay; it will come as a part of a sum.

        Args:
            link: of the worker that has computed it.
            job: that was settled by this.
        """
        held = self._held.setdefault(job.vectors.number, Held(job.ticket))
        held.jobs.setdefault(link.relay, {})[job.request.shard] = job

    def _on_sums(self, relay: NodeRelay, sums: list[dict[str, Any]], numbers: Bytes) -> None:
        """Deliver a relay's sums."""
        if sums:
            self._lost.pop(relay.node, None)
        each = len(numbers) // max(len(sums), 1)
        for place, fields in enumerate(sums):
            held = self._held.get(fields["group"])
            if held is None or relay not in held.jobs:
                continue  # other workers were faster with all of it
            jobs = held.jobs[relay]
            covered = [jobs.pop(shard) for shard in list(jobs) if _below(fields, jobs[shard])]
            if not jobs:
                del held.jobs[relay]
            if not held.jobs:
                del self._held[fields["group"]]
            if covered:
                self._deliver(covered, fields, numbers[place * each : (place + 1) * each])

    def _deliver(self, jobs: list[Job], fields: dict[str, Any], numbers: Bytes) -> None:
        first = jobs[0].request
        assert isinstance(first, GradientRequest)
        tasks = TaskRange(**fields["tasks"])
        reply = SummedReply(
            request=replace(first, shard=fields["number"], level=fields["level"], tasks=tasks, upcoming=None),
            buffer=np.frombuffer(numbers, dtype=fields["dtype"]),
            metrics=tuple(fields["metrics"]),
            nonfinite=tuple(fields["nonfinite"]),
            sums=tuple(fields["sums"]),
        )
        jobs[0].ticket.deliver(reply, len(jobs))
        for job in jobs:
            self._vectors.settle(job.vectors)

    def flush(self) -> None:
        """Send the requests that were ordered; ask relays for what they hold where all else has been computed."""
        for relay in self._by_link.values():
            orders, relay.orders = relay.orders, {}
            for payload, ticket, batch in orders.values():
                fields, numbers, _ = relay.receiver.header(payload, self._vectors)
                header = {"orders": batch, "group": payload.number, "shards": ticket.shards} | fields
                _send(relay.link, header, numbers)
        for group, held in self._held.items():
            # A relay still waits for a slow worker, whose request another has computed.
            if held.ticket.computed == len(held.ticket.requests) and not held.flushed:
                held.flushed = True
                for relay in held.jobs:
                    _send(relay.link, {"flush": group})

    def silence(self, link: AnyLink, heard: float) -> float:
        """Seconds since a worker has said anything; its relay says for how long, however seldom we look.

        Args:
            link: the worker's.
            heard: when anything last arrived on it.
        """
        return link.silent if isinstance(link, RelayedLink) else self._clock() - heard

    def returns(self, link: AnyLink) -> bool:
        """Whether the worker of a link that has closed is about to come back, by a relay or for a new one."""
        if isinstance(link, RelayedLink):
            return link.relay.lost
        return link in self._moving

    def drop(self, link: AnyLink) -> None:
        """Close a worker's link and forget it."""
        if isinstance(link, Link):
            self._forget(link)
            self._moving.discard(link)
            self._hub.drop(link)
        elif link.relay.seats.pop(link.seat, None) is not None:
            _send(link.relay.link, {"drop": link.seat})

    def check(self, timeout: float) -> None:
        """Give up on relays that have ended or are silent; :meth:`wait` reports their workers.

        A relay that takes long to start, or waits for its node to answer Ray, holds up nobody.

        Args:
            timeout: seconds without a sign of life.
        """
        for relay in list(self._relays.values()):
            if relay.link is None and relay.process.ended:
                self._lose(relay, "it did not start")
            elif relay.link is None and self._clock() - relay.since > WAITING:
                self._news += relay.waiting.items()
                relay.direct.update(relay.waiting)
                relay.waiting.clear()
            elif relay.link is not None and self._clock() - relay.heard > timeout:
                self._lose(relay, f"no sign of life for {timeout:g} s")

    def _lose(self, relay: NodeRelay, reason: str) -> None:
        """Put back what a relay held, and let its workers come back."""
        relay.lost = True
        del self._relays[relay.node]
        self._lost[relay.node] = self._lost.get(relay.node, 0) + 1
        relay.process.end()
        if relay.link is not None:
            del self._by_link[relay.link]
            self._hub.drop(relay.link)
        held_for = 0.0
        for group, held in list(self._held.items()):
            held_for = max(held_for, self._schedule.again(list(held.jobs.pop(relay, {}).values())))
            held.flushed = False
            if not held.jobs:
                del self._held[group]
        self._on_lost(relay, reason, held_for)
        self._news += [(seat, None) for seat in relay.seats.values()]
        for link in relay.direct:
            del self._waiting[link]
        for link, greeting in relay.waiting.items():
            del self._waiting[link]
            if not self._sent_on(link, greeting):
                self._news.append((link, greeting))

    def close(self) -> None:
        """End all relays. May be called twice."""
        relays, self._relays = self._relays, {}
        for relay in relays.values():
            relay.process.end()


def _send(link: Link | None, *message: Any) -> None:
    """Send to a link that may have closed, which the hub reports."""
    assert link is not None
    try:
        link.send(*message)
    except LinkClosed:
        return


def _of_seats(header: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A relay's report on its workers, by seat."""
    for seat, silent in header.get("beat", []):
        yield seat, {"silent": silent}
    for seat, job, seconds in header.get("done", []):
        yield seat, {"job": job, "seconds": seconds, "held": True}


def _below(fields: dict[str, Any], job: Job) -> bool:
    """Whether a request is a part of a sum."""
    request = job.request
    assert isinstance(request, GradientRequest)
    shift: int = fields["level"] - request.level
    return bool(request.shard >> shift == fields["number"]) if shift >= 0 else False
