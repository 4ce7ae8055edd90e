"""A worker's end of its link to the pool: requests come in, replies go out, and vectors beside them.

:class:`cluster.workers.actor.WorkerActor` is what Ray starts, places and watches.
"""

import importlib
import json
import os
import platform
import threading
import time
from collections import OrderedDict, deque
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from cluster.config.schema import parse
from cluster.errors import ClusterError, MetarayError
from cluster.workers.arithmetic import arithmetic
from cluster.workers.faults import described
from cluster.workers.messages import Flat, GradientRequest, Reply, Request, TaskRange
from cluster.workers.post import Post
from cluster.workers.schedule import DEPTH
from cluster.workers.transport.greeting import Refused
from cluster.workers.transport.hub import Address, connect
from cluster.workers.transport.link import Bytes, Link, LinkClosed, Message
from cluster.workers.transport.memory import AVAILABLE, Segments, received, view
from cluster.workers.vectors import KEPT
from cluster.workers.wire import decode_request, encode_reply
from cluster.workers.worker import Workable, Worker

BEAT = 1.0  # seconds between signs of life
CONNECTING = 30.0  # seconds until a pool that cannot be reached is given up
PAUSE = 0.1  # seconds until the pool has missed a lost relay too


def built(builder: str, config: str) -> Workable:
    """A set-up in another process than the one that has described it.

    Args:
        builder: ``module:function`` that builds it from its configuration.
        config: that, as JSON.
    """
    module, _, name = builder.partition(":")
    setup: Workable = getattr(importlib.import_module(module), name)(parse(json.loads(config)))
    return setup


class Server:
    """A :class:`cluster.workers.worker.Worker` that is asked over links."""

    def __init__(self, setup: Workable) -> None:
        """Make the worker.

        Args:
            setup: what it is built from.
        """
        setup = setup.placed()
        self._worker = Worker(setup)
        self._data, self._dtype = setup.data, np.dtype(setup.config.dtype)

    def serve(self, post: Post) -> None:
        """Compute requests until the pool closes the link.

        Args:
            post: where the pool is, and who we are; on another node the pool sends the worker on to a relay.

        Raises:
            ClusterError: if the pool cannot be reached.
        """
        address = post.address
        try:
            link = connect(address, same_machine=post.node == post.pool_node, patience=CONNECTING)
        except (OSError, Refused) as error:
            raise ClusterError(
                f"a worker cannot reach the run at {address.host}:{address.port}: {error}; let the nodes of the "
                "cluster connect to each other on all ports, as Ray needs too, or start the run on a node of it with "
                "'metaray submit'"
            ) from error
        hello = {
            "number": post.number,
            "start": post.start,
            "pid": os.getpid(),
            "node": post.node,
            "host": platform.node(),
            "data": self._data,
            "arithmetic": arithmetic(),
        }
        if post.node != post.pool_node and AVAILABLE:
            self._serve_relayed(link, address, hello | {"relayed": post.node})
        else:
            self._serve(link, hello)

    def _serve_relayed(self, link: Link, address: Address, hello: dict[str, Any]) -> None:
        """Compute requests that come through a relay, and go back to the pool when it is lost."""
        while (relay := self._serve(link, hello)) is not None:
            with suppress(OSError, Refused):  # it has just been lost
                link = connect(replace(address, local=relay), same_machine=True, patience=CONNECTING)
                self._serve(link, hello)
            time.sleep(PAUSE)
            try:
                link = connect(address, same_machine=False, patience=CONNECTING)
            except (OSError, Refused):
                return  # the pool is closed

    def _serve(self, link: Link, hello: dict[str, Any]) -> str | None:
        """Compute what a link brings.

        Returns:
            The local name of the relay that we are sent on to, or None if the link was closed.
        """
        serving = _Serving(link, self._worker, self._dtype)
        try:
            link.send({"hello": hello})
            threading.Thread(target=_beat, args=(link,), name="beat", daemon=True).start()
            serving.run()
        except _SentOn as elsewhere:
            return elsewhere.local
        except LinkClosed:  # the pool is closed, or has given this worker up, or its relay is lost
            return None
        finally:
            link.close()  # else the pool would go on hearing the heart of a worker that serves no more
            serving.close()


def _beat(link: Link) -> None:
    """Say every second that the process lives, however long it computes."""
    with suppress(LinkClosed, OSError):
        while True:
            time.sleep(BEAT)
            link.send({"beat": True})


class _SentOn(Exception):  # noqa: N818 - no fault
    """The pool wants us to connect to a relay."""

    def __init__(self, local: str) -> None:
        super().__init__(local)
        self.local = local


@dataclass(frozen=True, eq=False)
class _Order:
    """A request with its number, θ [P], and the second vector [P] if there is one."""

    job: int
    request: Request
    theta: Flat
    second: Flat | None


class _Serving:
    """One worker's end of its link: vectors that arrived, and shared memory for replies."""

    def __init__(self, link: Link, worker: Worker, dtype: np.dtype[Any]) -> None:
        self._link, self._worker, self._dtype = link, worker, dtype
        self._theirs: dict[int, Bytes] = {}  # the pool's segments by number
        self._payloads: OrderedDict[int, Any] = OrderedDict()  # vectors by number, as bytes
        self._own = Segments()
        self._lent: list[int] = []  # segments of the latest replies, the oldest first
        self._told: set[int] = set()  # segments whose descriptor the pool has
        self._orders: deque[_Order] = deque()  # received and not computed
        self._step = -1  # of the latest gradient
        self._first: TaskRange | None = None  # what the first request of that step said comes next

    def run(self) -> NoReturn:
        """Compute requests one after another.

        Raises:
            LinkClosed: at the end.
            _SentOn: if they come from elsewhere.
        """
        while True:
            if not self._orders:
                self._orders.append(self._receive())
            order = self._orders.popleft()
            while len(self._orders) < DEPTH - 1 and self._link.has_input:
                self._orders.append(self._receive())
            self._compute(order)
            while not self._orders and not self._link.has_input and self._worker.between_requests():
                pass

    def _receive(self) -> "_Order":
        message = self._link.receive()
        assert message is not None  # the socket blocks
        if "relay" in message.header:
            raise _SentOn(message.header["relay"])
        theta, second = self._vectors(message.header, message)
        return _Order(message.header["job"], decode_request(message.header["request"]), theta, second)

    def _compute(self, order: "_Order") -> None:
        request = self._with_upcoming(order.request)
        began = time.perf_counter()
        try:
            reply = self._worker.run(request, order.theta, order.second)
        except MetarayError as error:
            self._link.send({"job": order.job, "fault": described(error), "seconds": time.perf_counter() - began})
            return
        self._reply(order.job, reply, time.perf_counter() - began)

    def _with_upcoming(self, request: Request) -> Request:
        """The request, saying which tasks to draw ahead: the next request's, else the first ones of the next step."""
        if not isinstance(request, GradientRequest):
            return request
        if request.step != self._step:
            self._step, self._first = request.step, request.upcoming
        following = self._orders[0].request if self._orders else None
        upcoming = following.tasks if isinstance(following, GradientRequest) else self._first
        return replace(request, upcoming=upcoming)

    def _vectors(self, order: dict[str, Any], message: Message) -> tuple[Flat, Flat | None]:
        """θ [P], and the second vector [P] if there is one: from shared memory, or as the network brought them."""
        if "segment" in order:
            number, nbytes = order["segment"]
            if message.descriptors:
                self._theirs[number] = received(message.descriptors[0], nbytes)
            payload = self._theirs[number]
        else:
            if message.numbers.nbytes:
                self._payloads[order["payload"]] = message.numbers
                while len(self._payloads) > KEPT:
                    self._payloads.popitem(last=False)
            payload = self._payloads[order["payload"]]
        numbers: Flat = payload.view(self._dtype)
        if not order["second"]:
            return numbers, None
        theta, second = np.split(numbers, 2)
        return theta, second

    def _reply(self, job: int, reply: Reply, seconds: float) -> None:
        head = {"job": job, "reply": encode_reply(reply), "seconds": seconds}
        numbers = view(reply.buffer)
        if not self._link.shares_memory:
            self._link.send(head, numbers)
            return
        # The pool sends a request only when it has read the reply to the one before the last.
        if len(self._lent) == DEPTH:
            self._own.give_back(self._lent.pop(0))
        number = self._own.lend(numbers.nbytes)
        self._lent.append(number)
        segment = self._own[number]
        segment.bytes[:] = numbers
        new = () if number in self._told else (segment.descriptor,)
        self._told.add(number)
        self._link.send(head | {"segment": [number, numbers.nbytes]}, descriptors=new)

    def close(self) -> None:
        """Let memory go."""
        self._own.close()
