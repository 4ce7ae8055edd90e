"""The relay of a node: the one link between the pool and the workers of a node that is not the pool's.

θ crosses the network once and is written to memory that the node's workers share. Their gradients are added up along
the fixed tree here, as far as neighbouring blocks were computed on the node, and what is left crosses the network. The
pool schedules every worker by itself; a relay decides nothing. See :mod:`cluster.workers.relays` for the other end.

Messages from the pool: ``{"orders": [[seat, job, request], …], "group", "shards", "payload", "second"}`` with vectors,
``{"flush": group}``, ``{"drop": seat}``; with many relays ``{"spread", "second", "chunk", "to"}`` with a chunk of
vectors, which is passed on, ``{"collect": group, "attempt", "to", "below"}`` and ``{"forget": group, "attempt"}``. To
the pool: ``{"relay", "local"}`` at first, ``{"seat", "message"}`` for what
a worker says itself, ``{"gone": seat}``, ``{"beat": [[seat, silent], …]}``,
``{"done": [[seat, job, seconds, attempt], …], "sums"}``
with gradients, ``{"unreached": node}``, and to it or to another relay ``{"part": group, "attempt", "chunk", "sums"}``
with gradients. A seat is the number of a worker's link.
"""

import itertools
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cluster.workers.gathering import Gathering
from cluster.workers.messages import GradientReply, GradientRequest, Request
from cluster.workers.peers import Peers
from cluster.workers.serving import BEAT
from cluster.workers.sums import NodeSum, Placed, encoded, gradients
from cluster.workers.transport.hub import Hub
from cluster.workers.transport.link import NOTHING, Bytes, Link, LinkClosed, Message
from cluster.workers.tree import branches
from cluster.workers.vectors import KEPT, Payload, Receiver, Replies, Vectors
from cluster.workers.wire import decode_reply, decode_request
from meta.reduce import TreeSum

MOST_KEPT = 2 * KEPT  # payloads: they may come in another order than the pool sends them


@dataclass(eq=False)
class _Group:
    """Gradient requests that were submitted together, as far as this node is asked for them.

    Attributes:
        number: the pool's.
        shards: of the meta-batch.
        tree: over all shards of the meta-batch.
        names: of the metrics.
        out: orders of it that the node's workers have.
        gathers: whether its sums wait for the pool's ``collect``, and go by other relays.
        attempt: the pool's, of computing and collecting it.
    """

    number: int
    shards: int
    tree: TreeSum[NodeSum]
    names: tuple[str, ...] = ()
    out: int = 0
    gathers: bool = False
    attempt: int = 0


@dataclass(frozen=True, eq=False)
class _Order:
    """A request that a worker has, its vectors, and its group if its gradient is to be added to others."""

    seat: int
    request: Request
    payload: Payload
    group: _Group | None


@dataclass(eq=False)
class _Seat:
    """A worker of this node."""

    number: int
    link: Link
    receiver: Receiver
    replies: Replies = field(default_factory=Replies)
    heard: float = 0.0  # when anything last arrived


class Relay:
    """Hands requests to the workers of a node, and sums back."""

    def __init__(self, up: Link, node: str, secret: bytes, host: str) -> None:
        """Listen for workers and other relays, and say so to the pool.

        Args:
            up: to the pool.
            node: Ray's name of this node.
            secret: the run's.
            host: address of the interface on which other relays reach this one.
        """
        self._up = up
        self._hub = Hub(host, secret)
        self._hub.watch(up)
        self._peers = Peers(self._hub, lambda other: self._up.send({"unreached": other}))
        self._early: dict[int, list[Message]] = {}  # orders whose vectors are on their way, by payload
        self._chunks: dict[int, dict[int, Bytes]] = {}  # of vectors on their way, by payload
        self._gatherings: dict[int, Gathering] = {}  # by group
        self._parts: dict[tuple[int, int], list[Message]] = {}  # of gatherings to come, by group and attempt
        self._vectors = Vectors()
        self._payloads: OrderedDict[int, Payload] = OrderedDict()  # by the pool's number
        self._numbers = itertools.count()
        self._seats: dict[int, _Seat] = {}
        self._by_link: dict[Link, _Seat] = {}
        self._orders: dict[int, _Order] = {}  # by job
        self._groups: dict[int, _Group] = {}
        self._done: list[list[Any]] = []
        self._ready: list[tuple[_Group, Placed]] = []
        here = self._hub.address
        up.send({"relay": node, "local": here.local, "at": [node, here.host, here.port]})

    def run(self) -> None:
        """Go on until the pool closes its link."""
        beat = time.monotonic() + BEAT
        try:
            while True:
                for link, message in self._hub.wait(max(0.0, beat - time.monotonic())):
                    if link is not self._up:
                        self._on_worker(link, message)
                    elif message is None:
                        return
                    else:
                        self._on_pool(message)
                self._peers.settle()
                self._report()
                if time.monotonic() >= beat:
                    beat = time.monotonic() + BEAT
                    self._beat()
        except LinkClosed:
            return  # workers' links report themselves, so this is the pool's
        finally:
            self._hub.close()
            self._peers.close()
            self._vectors.close()

    def _on_pool(self, message: Message) -> None:
        header = message.header
        if "orders" in header:
            if header["payload"] in self._payloads or message.numbers.nbytes:
                self._take_orders(header, message)
            else:
                self._early.setdefault(header["payload"], []).append(message)
        elif "spread" in header:
            self._on_spread(message)
        elif "collect" in header:
            self._collect(header)
        elif "forget" in header:
            self._forget(header["forget"], header["attempt"])
        elif "flush" in header:
            if (group := self._groups.get(header["flush"])) is not None:
                self._release(group)
        elif (seat := self._seats.get(header["drop"])) is not None:
            self._lose(seat)

    def _take_orders(self, header: dict[str, Any], message: Message) -> None:
        """Count all orders first, so that the first gradient waits for its neighbours; then hand them out."""
        payload = self._payload(header, message)
        orders = []
        for number, job, request_header in header["orders"]:
            if (seat := self._seats.get(number)) is None:
                continue  # it has gone, which the pool is about to hear
            request = decode_request(request_header)
            group = self._group(header) if isinstance(request, GradientRequest) else None
            self._orders[job] = _Order(number, request, payload, group)
            payload.open += 1
            if group is not None:
                group.out += 1
            orders.append((seat, job, request_header))
        for seat, job, request_header in orders:
            fields, numbers, descriptors = seat.receiver.header(payload, self._vectors)
            with suppress(LinkClosed):  # the hub reports it
                seat.link.send({"job": job, "request": request_header} | fields, numbers, descriptors)

    def _payload(self, header: dict[str, Any], message: Message) -> Payload:
        """The vectors of a message, or of the earlier one that it names, in memory that the node's workers share."""
        number = header["payload"]
        if message.numbers.nbytes:
            self._keep(number, message.numbers, second=header["second"])
        return self._payloads[number]

    def _keep(self, number: int, numbers: Bytes, *, second: bool) -> None:
        """Write vectors to shared memory, unless they came before, and let the oldest go."""
        if number in self._payloads:
            return
        payload = self._vectors.pack(numbers, None, 1)  # one more than its orders: it is kept
        payload.second = second
        self._payloads[number] = payload
        while len(self._payloads) > MOST_KEPT:
            oldest, gone = self._payloads.popitem(last=False)
            self._vectors.settle(gone)
            self._early.pop(oldest, None)

    def _on_spread(self, message: Message) -> None:
        """Pass a chunk of vectors on before it is used here; the last one lets early orders be handed out."""
        header = message.header
        for whom, below in branches(header["to"]):
            self._peers.send(tuple(whom), header | {"to": below}, message.numbers)
        number, (chunk, count) = header["spread"], header["chunk"]
        chunks = self._chunks.setdefault(number, {})
        chunks[chunk] = message.numbers
        if len(chunks) < count:
            return
        del self._chunks[number]
        whole = chunks[0] if count == 1 else np.concatenate([chunks[at] for at in range(count)])
        self._keep(number, whole, second=header["second"])
        for early in self._early.pop(number, []):
            self._take_orders(early.header, early)

    def _collect(self, header: dict[str, Any]) -> None:
        """Begin to add up a group's sums with those of relays below."""
        number, attempt = header["collect"], header["attempt"]
        group = self._groups[number]
        to = None if header["to"] is None else tuple(header["to"])
        gathering = Gathering(number, attempt, to, header["below"], group.shards, group.names)
        self._gatherings[number] = gathering
        for said in gathering.start(group.tree.take()):
            self._pass_up(gathering, *said)
        for message in self._parts.pop((number, attempt), []):
            self._on_part(message)
        for other in [key for key in self._parts if key[0] < number]:
            del self._parts[other]  # of attempts that were given up

    def _on_part(self, message: Message) -> None:
        number, attempt = message.header["part"], message.header["attempt"]
        gathering = self._gatherings.get(number)
        if gathering is None or gathering.attempt < attempt:
            self._parts.setdefault((number, attempt), []).append(message)
        elif gathering.attempt == attempt:
            for said in gathering.add(message):
                self._pass_up(gathering, *said)

    def _pass_up(self, gathering: Gathering, header: dict[str, Any], numbers: Bytes) -> None:
        if gathering.to is None:
            self._up.send(header, numbers)
        else:
            self._peers.send(gathering.to, header, numbers)

    def _forget(self, number: int, attempt: int) -> None:
        """Drop what was added up of a group: it is computed again, under a new attempt."""
        self._gatherings.pop(number, None)
        if (group := self._groups.get(number)) is not None:
            group.attempt = attempt
            group.tree.take()

    def _group(self, header: dict[str, Any]) -> _Group:
        number = header["group"]
        gathers, attempt = header.get("gathers", False), header.get("attempt", 0)
        if number not in self._groups:
            self._groups[number] = _Group(number, header["shards"], TreeSum(header["shards"]), (), 0, gathers, attempt)
            for old in [one for one in self._groups.values() if one.gathers and one.number < number and not one.out]:
                del self._groups[old.number]  # all of it has arrived, or there would be no new one
                self._gatherings.pop(old.number, None)
        if self._groups[number].attempt < attempt:
            self._forget(number, attempt)
        return self._groups[number]

    def _on_worker(self, link: Link, message: Message | None) -> None:
        seat = self._by_link.get(link)
        if message is None:
            if seat is not None:
                self._lose(seat)
            else:
                self._peers.closed(link)
            return
        if "part" in message.header:
            self._on_part(message)
            return
        if "spread" in message.header:
            self._on_spread(message)
            return
        if seat is None:
            number = next(self._numbers)
            seat = _Seat(number, link, Receiver(shares_memory=link.shares_memory))
            self._seats[number] = self._by_link[link] = seat
        seat.heard = time.monotonic()
        if "job" in message.header:
            self._on_reply(seat, message)
        elif "hello" in message.header:
            self._up.send({"seat": seat.number, "message": message.header})

    def _on_reply(self, seat: _Seat, message: Message) -> None:
        header, job = message.header, message.header["job"]
        order = self._orders[job]
        numbers = NOTHING if "fault" in header else seat.replies.numbers(message)
        if order.group is None or "fault" in header:
            shown = {key: value for key, value in header.items() if key != "segment"}
            self._up.send({"seat": seat.number, "message": shown}, numbers)
        else:
            reply = decode_reply(order.request, header["reply"], numbers.view(header["reply"][0]))
            assert isinstance(reply, GradientReply)
            self._add(order.group, reply)
            self._done.append([seat.number, job, header["seconds"], order.group.attempt])
        self._finish(job)

    def _add(self, group: _Group, reply: GradientReply) -> None:
        request = reply.request
        assert isinstance(request, GradientRequest)
        group.names = reply.metrics
        part = NodeSum(reply.gradient, reply.metric_sums, reply.nonfinite, request.tasks)
        group.tree.cover(request.shard, part, request.level)

    def _finish(self, job: int) -> None:
        """Let an order go: it is answered, or its worker has gone."""
        order = self._orders.pop(job)
        self._vectors.settle(order.payload)
        if order.group is not None:
            order.group.out -= 1
            if order.group.out == 0 and not order.group.gathers:
                del self._groups[order.group.number]
                self._release(order.group)

    def _release(self, group: _Group) -> None:
        """Have a group's sums sent, as far as there are any."""
        self._ready += [(group, placed) for placed in group.tree.take()]

    def _report(self) -> None:
        """Tell the pool what has been computed, with the sums that wait for nothing more on this node."""
        if not self._done and not self._ready:
            return
        sums = [one for group, placed in self._ready for one in encoded(group.number, group.names, [placed])]
        self._up.send({"done": self._done, "sums": sums}, gradients([placed for _, placed in self._ready]))
        self._done, self._ready = [], []

    def _lose(self, seat: _Seat) -> None:
        """Forget a worker."""
        del self._seats[seat.number], self._by_link[seat.link]
        self._hub.drop(seat.link)
        for job in [job for job, order in self._orders.items() if order.seat == seat.number]:
            self._finish(job)
        self._up.send({"gone": seat.number})

    def _beat(self) -> None:
        """Tell the pool that we live, and for how long each worker has been silent."""
        now = time.monotonic()
        self._up.send({"beat": [[seat.number, round(now - seat.heard, 2)] for seat in self._seats.values()]})
