"""θ, and a second vector where requests have one, on their way to workers, and the numbers of replies.

Workers on the pool's machine read them from shared memory. To the relay of another machine, or to a worker without
one, they are sent with the first request that needs them; it keeps the latest few, and both ends count them alike.
"""

import itertools
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cluster.workers.messages import Flat
from cluster.workers.transport.link import NOTHING, Bytes, Message
from cluster.workers.transport.memory import AVAILABLE, Segments, received, view

KEPT = 2  # payloads that the other end of a link between machines keeps

_numbers = itertools.count()


@dataclass(eq=False)
class Payload:
    """Vectors of one batch of requests.

    Attributes:
        number: unlike that of any other payload.
        bytes: θ, then the second vector if there is one, [N].
        second: whether there is one.
        segment: number of the shared memory that holds the bytes, or None.
        open: requests that are not settled; at 0 the memory may be used again.
    """

    bytes: Bytes
    second: bool
    open: int
    segment: int | None = None
    number: int = field(default_factory=lambda: next(_numbers))

    @cached_property
    def lasting(self) -> Bytes:
        """The bytes in memory of their own: sending them may last beyond the payload's requests."""
        return self.bytes.copy()


class Vectors:
    """Payloads of a pool."""

    def __init__(self) -> None:
        """Hold no memory yet."""
        self._segments = Segments()

    def pack(self, theta: Flat | Bytes, second: Flat | None, requests: int) -> Payload:
        """Copy vectors to where they are sent from.

        Args:
            theta: θ [P], or the bytes of another pool's payload.
            second: the second vector [P], or None.
            requests: number of requests that need them.
        """
        parts = [theta] if second is None else [theta, second.astype(theta.dtype, copy=False)]
        if not AVAILABLE:
            return Payload(view(np.concatenate(parts)), second is not None, requests)
        number = self._segments.lend(sum(part.nbytes for part in parts))
        data = self._segments[number].bytes
        np.concatenate(parts, out=data.view(theta.dtype))
        return Payload(data, second is not None, requests, number)

    def settle(self, payload: Payload) -> None:
        """Count one of the payload's requests as settled."""
        payload.open -= 1
        if payload.open == 0 and payload.segment is not None:
            self._segments.give_back(payload.segment)

    def descriptor(self, payload: Payload) -> int:
        """Descriptor of the shared memory that holds a payload."""
        assert payload.segment is not None
        return self._segments[payload.segment].descriptor

    def close(self) -> None:
        """Let all memory go."""
        self._segments.close()


class Receiver:
    """Vectors that one worker, or one relay, has been sent, as far as the sender knows."""

    def __init__(self, *, shares_memory: bool) -> None:
        """Nothing yet."""
        self._shares = shares_memory and AVAILABLE
        self._segments: set[int] = set()
        self._payloads: deque[int] = deque(maxlen=KEPT)

    def note(self, payload: Payload) -> None:
        """Count a payload as sent, by others.

        Args:
            payload: vectors.
        """
        self._payloads.append(payload.number)

    def header(self, payload: Payload, vectors: Vectors) -> tuple[dict[str, object], Bytes, tuple[int, ...]]:
        """How a request says where its vectors are: fields of its header, numbers to send, descriptors to send.

        Args:
            payload: the request's.
            vectors: those that the payload belongs to.
        """
        if self._shares:
            new = payload.segment not in self._segments
            assert payload.segment is not None
            self._segments.add(payload.segment)
            where: dict[str, object] = {"segment": [payload.segment, payload.bytes.nbytes], "second": payload.second}
            return where, NOTHING, (vectors.descriptor(payload),) if new else ()
        fields: dict[str, object] = {"payload": payload.number, "second": payload.second}
        if payload.number in self._payloads:
            return fields, NOTHING, ()
        self._payloads.append(payload.number)
        return fields, payload.lasting, ()


class Replies:
    """Replies of one worker: its shared memory, or numbers that came over the network."""

    def __init__(self) -> None:
        """Know no memory yet."""
        self._segments: dict[int, Bytes] = {}

    def numbers(self, message: Message) -> Bytes:
        """A reply's numbers as bytes [N], which nobody changes any more.

        Args:
            message: the reply; a new segment may come with it.
        """
        if "segment" not in message.header:
            return message.numbers
        number, nbytes = message.header["segment"]
        if message.descriptors:
            self._segments[number] = received(message.descriptors[0], nbytes)
        return np.array(self._segments[number])  # the worker writes there again
