"""The relay of a node: the one link between the pool and the workers of a node that is not the pool's.

θ crosses the network once and is written to memory that the node's workers share. Their gradients are added up along
the fixed tree here, as far as neighbouring blocks were computed on the node, and what is left crosses the network. The
pool schedules every worker by itself; a relay decides nothing. See :mod:`cluster.workers.relays` for the other end.

Messages from the pool: ``{"orders": [[seat, job, request], …], "group", "shards", "payload", "second"}`` with vectors,
``{"flush": group}``, ``{"drop": seat}``. To the pool: ``{"relay", "local"}`` at first, ``{"seat", "message"}`` for what
a worker says itself, ``{"gone": seat}``, ``{"beat": [[seat, silent], …]}``, and ``{"done": [[seat, job, seconds], …],
"sums"}`` with gradients. A seat is the number of a worker's link.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from cluster.workers.messages import Flat, GradientReply, GradientRequest, Request, TaskRange
from cluster.workers.serving import BEAT
from cluster.workers.transport.hub import Hub
from cluster.workers.transport.link import NOTHING, Link, LinkClosed, Message
from cluster.workers.transport.memory import view
from cluster.workers.vectors import KEPT, Payload, Receiver, Replies, Vectors
from cluster.workers.wire import decode_reply, decode_request
from meta.reduce import TreeSum


@dataclass(frozen=True, eq=False)
class NodeSum:
    """Gradients [P], metrics [M] in float64 and tasks below a node of the tree."""

    gradient: Flat
    metrics: Flat
    nonfinite: tuple[int, ...]
    tasks: TaskRange

    def __add__(self, other: Self, /) -> Self:
        """The sum, in the memory of the first, which is not needed any more."""
        first, last = sorted((self.tasks, other.tasks), key=lambda tasks: tasks.start)
        return replace(
            self,
            gradient=np.add(self.gradient, other.gradient, out=self.gradient),
            metrics=self.metrics + other.metrics,
            nonfinite=(*self.nonfinite, *other.nonfinite),
            tasks=replace(first, stop=last.stop),
        )


@dataclass(eq=False)
class _Group:
    """Gradient requests that were submitted together, as far as this node is asked for them.

    Attributes:
        number: the pool's.
        tree: over all shards of the meta-batch.
        names: of the metrics.
        out: orders of it that the node's workers have.
    """

    number: int
    tree: TreeSum[NodeSum]
    names: tuple[str, ...] = ()
    out: int = 0


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

    def __init__(self, up: Link, node: str, secret: bytes) -> None:
        """Listen for workers, and say so to the pool.

        Args:
            up: to the pool.
            node: Ray's name of this node.
            secret: the run's.
        """
        self._up = up
        self._hub = Hub(None, secret)
        self._hub.watch(up)
        self._vectors = Vectors()
        self._payloads: OrderedDict[int, Payload] = OrderedDict()  # by the pool's number
        self._numbers = itertools.count()
        self._seats: dict[int, _Seat] = {}
        self._by_link: dict[Link, _Seat] = {}
        self._orders: dict[int, _Order] = {}  # by job
        self._groups: dict[int, _Group] = {}
        self._done: list[list[Any]] = []
        self._ready: list[tuple[_Group, int, int, NodeSum]] = []  # group, level, number, sum
        up.send({"relay": node, "local": self._hub.address.local})

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
                self._report()
                if time.monotonic() >= beat:
                    beat = time.monotonic() + BEAT
                    self._beat()
        except LinkClosed:
            return  # workers' links report themselves, so this is the pool's
        finally:
            self._hub.close()
            self._vectors.close()

    def _on_pool(self, message: Message) -> None:
        header = message.header
        if "orders" in header:
            self._take_orders(header, message)
        elif "flush" in header:
            if (group := self._groups.get(header["flush"])) is not None:
                self._release(group)
        elif (seat := self._seats.get(header["drop"])) is not None:
            self._lose(seat)

    def _take_orders(self, header: dict[str, Any], message: Message) -> None:
        """Count all orders first, so that the first gradient waits for its neighbours; then hand them out."""
        payload = self._payload(header, message)
        orders = []
        for number, job, encoded in header["orders"]:
            if (seat := self._seats.get(number)) is None:
                continue  # it has gone, which the pool is about to hear
            request = decode_request(encoded)
            group = self._group(header) if isinstance(request, GradientRequest) else None
            self._orders[job] = _Order(number, request, payload, group)
            payload.open += 1
            if group is not None:
                group.out += 1
            orders.append((seat, job, encoded))
        for seat, job, encoded in orders:
            fields, numbers, descriptors = seat.receiver.header(payload, self._vectors)
            with suppress(LinkClosed):  # the hub reports it
                seat.link.send({"job": job, "request": encoded} | fields, numbers, descriptors)

    def _payload(self, header: dict[str, Any], message: Message) -> Payload:
        """The vectors of a message, or of the earlier one that it names, in memory that the node's workers share."""
        number = header["payload"]
        if message.numbers.nbytes:
            # One more than its orders: it is kept.
            payload = self._vectors.pack(message.numbers, None, 1)
            payload.second = header["second"]
            self._payloads[number] = payload
            while len(self._payloads) > KEPT:
                self._vectors.settle(self._payloads.popitem(last=False)[1])
        return self._payloads[number]

    def _group(self, header: dict[str, Any]) -> _Group:
        number = header["group"]
        if number not in self._groups:
            self._groups[number] = _Group(number, TreeSum(header["shards"]))
        return self._groups[number]

    def _on_worker(self, link: Link, message: Message | None) -> None:
        seat = self._by_link.get(link)
        if message is None:
            if seat is not None:
                self._lose(seat)
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
            self._done.append([seat.number, job, header["seconds"]])
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
            if order.group.out == 0:
                del self._groups[order.group.number]
                self._release(order.group)

    def _release(self, group: _Group) -> None:
        """Have a group's sums sent, as far as there are any."""
        self._ready += [(group, level, number, part) for level, number, part in group.tree.take()]

    def _report(self) -> None:
        """Tell the pool what has been computed, with the sums that wait for nothing more on this node."""
        if not self._done and not self._ready:
            return
        sums = [
            {
                "group": group.number,
                "level": level,
                "number": number,
                "tasks": vars(part.tasks),
                "metrics": group.names,
                "sums": part.metrics.tolist(),
                "nonfinite": part.nonfinite,
                "dtype": part.gradient.dtype.str,
            }
            for group, level, number, part in self._ready
        ]
        gradients: Sequence[Flat] = [part.gradient for *_, part in self._ready]
        numbers = NOTHING if not gradients else gradients[0] if len(gradients) == 1 else np.concatenate(gradients)
        self._up.send({"done": self._done, "sums": sums}, view(numbers))
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
