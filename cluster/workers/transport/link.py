"""A link: messages over a socket. Each is a header in JSON, numbers as they lie in memory, and file descriptors.

A Unix socket carries descriptors of shared memory, so that numbers need not pass through it; a TCP socket carries the
numbers themselves. Nothing that arrives is unpickled.
"""

import json
import os
import select
import selectors
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = struct.Struct("<IQ")  # bytes of the header, bytes of the numbers
LONGEST_HEADER = 2**24
MOST_DESCRIPTORS = 8
Bytes = NDArray[np.uint8]
NOTHING: Bytes = np.empty(0, dtype=np.uint8)


class LinkClosed(Exception):  # noqa: N818 - the other end has gone; what that means is for the caller to say
    """The other end of a link has closed it, or the network between has failed."""


@dataclass(frozen=True, eq=False)
class Message:
    """A received message: its header, its numbers as bytes [N], and file descriptors, which the receiver now owns."""

    header: Any
    numbers: Bytes
    descriptors: tuple[int, ...]


class Link:
    """One end of a connection. Reading and writing may happen in different threads."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected socket, blocking or not."""
        self._socket = connection
        self._unix = connection.family == getattr(socket, "AF_UNIX", None)
        if not self._unix:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lock = threading.Lock()
        self._outgoing: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._target = memoryview(bytearray(PREFIX.size))
        self._filled = 0
        self._stage = "prefix"
        self._sizes = (0, 0)
        self._header: Any = None
        self._numbers = NOTHING
        self._descriptors: list[int] = []

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._socket.fileno()

    def never_block(self) -> None:
        """Queue what the other end does not take at once, and receive only what is there."""
        self._socket.setblocking(False)

    @property
    def shares_memory(self) -> bool:
        """Whether the other end runs on this machine and can be handed descriptors."""
        return self._unix

    @property
    def events(self) -> int:
        """Events for a selector: input, and output while some is queued."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)

    @property
    def has_input(self) -> bool:
        """Whether a read would not block."""
        return bool(select.select([self._socket], [], [], 0)[0])

    def send(self, header: Any, numbers: Bytes = NOTHING, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; on a non-blocking socket what does not fit is queued for :meth:`flush`.

        Args:
            header: anything that JSON holds.
            numbers: bytes [N] that follow it; not to be changed until they are sent.
            descriptors: file descriptors, over a Unix socket alone; they stay the caller's.

        Raises:
            LinkClosed: if the other end has gone.
        """
        text = json.dumps(header, separators=(",", ":")).encode()
        with self._lock:
            self._outgoing.append((memoryview(PREFIX.pack(len(text), numbers.nbytes) + text), descriptors))
            if numbers.nbytes:
                self._outgoing.append((numbers.data, ()))
            self._flush()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it.

        Raises:
            LinkClosed: if the other end has gone.
        """
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        outgoing = self._outgoing  # another thread may close the link meanwhile, which leaves this one as it is
        try:
            while outgoing:
                data, descriptors = outgoing[0]
                if descriptors:
                    sent = socket.send_fds(self._socket, [data], list(descriptors))
                else:
                    sent = self._socket.send(data)
                if sent == len(data):
                    outgoing.popleft()
                else:
                    outgoing[0] = (data[sent:], ())
        except BlockingIOError:
            return
        except OSError as error:
            raise LinkClosed(str(error)) from error

    def receive(self) -> Message | None:
        """The next message; None if the socket does not block and the message is not all there yet.

        Raises:
            LinkClosed: if the other end has gone, or what arrives is no message.
        """
        try:
            while True:
                while self._filled < len(self._target):
                    count = self._read(self._target[self._filled :])
                    if count == 0:
                        raise LinkClosed("the other end closed the connection")
                    self._filled += count
                if (message := self._advance()) is not None:
                    return message
        except BlockingIOError:
            return None
        except (OSError, ValueError) as error:
            raise LinkClosed(str(error)) from error

    def _read(self, target: memoryview) -> int:
        if not self._unix or self._stage != "prefix":
            return self._socket.recv_into(target)
        # Descriptors come with the first bytes of their message.
        data, descriptors, _, _ = socket.recv_fds(self._socket, len(target), MOST_DESCRIPTORS)
        self._descriptors += descriptors
        target[: len(data)] = data
        return len(data)

    def _advance(self) -> Message | None:
        """Go on from a part that is complete; the message, if that was its last part."""
        if self._stage == "prefix":
            self._sizes = PREFIX.unpack(self._target)
            if self._sizes[0] > LONGEST_HEADER:
                raise ValueError(f"expected a header of at most {LONGEST_HEADER} bytes, received {self._sizes[0]}")
            self._await("header", memoryview(bytearray(self._sizes[0])))
            return None
        if self._stage == "header":
            self._header = json.loads(bytes(self._target))
            self._numbers = np.empty(self._sizes[1], dtype=np.uint8) if self._sizes[1] else NOTHING
            if self._sizes[1]:
                self._await("numbers", self._numbers.data)
                return None
        message = Message(self._header, self._numbers, tuple(self._descriptors))
        self._descriptors, self._numbers, self._header = [], NOTHING, None
        self._await("prefix", memoryview(bytearray(PREFIX.size)))
        return message

    def _await(self, stage: str, target: memoryview) -> None:
        self._stage, self._target, self._filled = stage, target, 0

    def close(self) -> None:
        """Close the socket, and descriptors that nobody took. May be called twice."""
        self._socket.close()
        self._outgoing = deque()
        descriptors, self._descriptors = self._descriptors, []
        for descriptor in descriptors:
            os.close(descriptor)
