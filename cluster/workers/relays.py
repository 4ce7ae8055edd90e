"""The pool's end of all relays: to the pool, every worker behind one looks as if it had a link of its own.

A worker on another node greets the pool first and is sent on to the relay of its node, which is started when the
first such worker comes; if that takes long, the pool serves the worker directly until then. When a relay is lost, its
workers come back and are sent on to a new one. Gradients that it held, computed but not arrived, are computed again
then. See :mod:`cluster.workers.relay` for the other end.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from cluster.workers.held import COLLECTING, HeldSums
from cluster.workers.relayed import AnyLink, NodeRelay, Process, RelayedLink, send
from cluster.workers.schedule import Job, Schedule
from cluster.workers.spread import Spread
from cluster.workers.transport.hub import Hub
from cluster.workers.transport.link import Link, Message
from cluster.workers.vectors import Vectors

WAITING = 5.0  # seconds that workers wait for a relay; then the pool serves them directly until it is there
MOST_LOST = 3  # relays of one node that have relayed nothing: then its workers go without


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
        self._held = HeldSums(schedule, vectors, clock)
        self._spread = Spread(lambda: self._by_link.values())
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
        send(link, {"relay": relay.local})  # if it has gone, the hub reports that

    def _welcome(self, link: Link, header: dict[str, Any]) -> None:
        """Take in a relay, and send the workers that wait for it on."""
        relay = self._relays.get(header["relay"])
        if relay is None or relay.link is not None:
            self._hub.drop(link)  # one that was given up while it started
            return
        relay.link, relay.local, relay.heard = link, header["local"], self._clock()
        relay.at = tuple(header["at"])
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
            self._on_vectors(relay, message)

    def _on_vectors(self, relay: NodeRelay, message: Message) -> None:
        """Take sums, or hear that some did not reach another relay."""
        header = message.header
        if "part" in header:
            self._held.on_part(relay, header, message.numbers)
        elif sums := header.get("sums"):
            self._held.on_sums(relay, sums, message.numbers)
        elif (other := self._relays.get(header.get("unreached", ""))) is not None:
            self._mend(other)
        if header.get("sums"):
            self._lost.pop(relay.node, None)

    def hold(self, link: RelayedLink, job: Job, attempt: int) -> None:
        """Count a gradient as computed behind a relay: see :meth:`HeldSums.hold`."""
        self._held.hold(link, job, attempt)

    def flush(self) -> None:
        """Send the requests that were ordered; ask relays for what they hold where all else has been computed."""
        for relay in self._by_link.values():
            orders, relay.orders = relay.orders, {}
            for payload, ticket, batch in orders.values():
                plan = self._held.plan(payload, collected=self._spread.send(payload))
                fields, numbers, _ = relay.receiver.header(payload, self._vectors)
                header = {"orders": batch, "group": payload.number, "shards": ticket.shards} | plan | fields
                send(relay.link, header, numbers)
        self._held.ask()

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
            send(link.relay.link, {"drop": link.seat})

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
        self._held.abort(self._by_link.values(), COLLECTING)

    def _lose(self, relay: NodeRelay, reason: str) -> None:
        """Put back what a relay held, and let its workers come back."""
        relay.lost = True
        del self._relays[relay.node]
        self._lost[relay.node] = self._lost.get(relay.node, 0) + 1
        relay.process.end()
        if relay.link is not None:
            del self._by_link[relay.link]
            self._hub.drop(relay.link)
        held_for = self._held.lose(relay)
        self._mend(relay)
        self._on_lost(relay, reason, held_for)
        self._news += [(seat, None) for seat in relay.seats.values()]
        for link in relay.direct:
            del self._waiting[link]
        for link, greeting in relay.waiting.items():
            del self._waiting[link]
            if not self._sent_on(link, greeting):
                self._news.append((link, greeting))

    def _mend(self, relay: NodeRelay) -> None:
        """Send and compute again what others may not have got from a relay, or to it."""
        self._spread.mend(relay)
        self._held.abort(self._by_link.values())

    def close(self) -> None:
        """End all relays. May be called twice."""
        relays, self._relays = self._relays, {}
        for relay in relays.values():
            relay.process.end()


def _of_seats(header: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """A relay's report on its workers, by seat."""
    for seat, silent in header.get("beat", []):
        yield seat, {"silent": silent}
    for seat, job, seconds, attempt in header.get("done", []):
        yield seat, {"job": job, "seconds": seconds, "held": attempt}
