"""The pool's end of all links: accepts workers that know the run's secret, and waits for whatever arrives first."""

import contextlib
import queue
import secrets
import selectors
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cluster.workers.transport import greeting
from cluster.workers.transport.link import Link, LinkClosed, Message

UNIX = getattr(socket, "AF_UNIX", None)
GREETING_SECONDS = 10.0
GREETINGS_AT_ONCE = 8  # a connection that says nothing holds up no other


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a hub listens, and what to prove there.

    Attributes:
        local: name of its abstract Unix socket, empty where the system has none.
        host: of its TCP socket, an interface of the hub's machine.
        port: of its TCP socket.
        secret: the run's, 32 bytes.
    """

    local: str
    host: str
    port: int
    secret: bytes


class Hub:
    """Links to workers, and the events on them."""

    def __init__(self, host: str | None, secret: bytes | None = None) -> None:
        """Listen on this machine and on one interface.

        Args:
            host: address of the interface: loopback, or the one that the cluster's nodes reach; None: on this machine
                alone, which has to be Linux.
            secret: the run's, if there is one already.
        """
        self._selector = selectors.DefaultSelector()
        self._watched: dict[Link, int] = {}  # events that the selector waits for
        self._arrivals: queue.SimpleQueue[Link] = queue.SimpleQueue()
        self._greetings = ThreadPoolExecutor(GREETINGS_AT_ONCE, thread_name_prefix="greeting")
        self._strangers: set[socket.socket] = set()  # connections that have not been greeted
        self._closed = False
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listeners: list[socket.socket] = []
        local, port = "", 0
        if host is not None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listeners.append(socket.create_server((host, 0), family=family))
            port = self._listeners[0].getsockname()[1]
        if sys.platform == "linux":  # elsewhere Unix sockets need files, which a killed driver would leave behind
            local = f"metaray-{secrets.token_hex(16)}"
            inside = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            inside.bind(f"\0{local}")
            inside.listen()
            self._listeners.append(inside)
        self.address = Address(
            local=local, host=host or "", port=port, secret=secret or secrets.token_bytes(greeting.SIZE)
        )
        self._accepting = [
            threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True)
            for listener in self._listeners
        ]
        for thread in self._accepting:
            thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = listener.accept()
                self._strangers.add(connection)
                with contextlib.suppress(RuntimeError):  # the hub has been closed, or is about to
                    self._greetings.submit(self._greet, connection)

    def _greet(self, connection: socket.socket) -> None:
        try:
            greeting.greet(connection, self.address.secret, side=greeting.POOL, timeout=GREETING_SECONDS)
        except greeting.Refused:
            connection.close()
            return
        finally:
            self._strangers.discard(connection)
        self._arrivals.put(Link(connection))
        self.ring()

    def ring(self) -> None:
        """Have :meth:`wait` look at once what other threads have done."""
        with contextlib.suppress(OSError):  # the hub is being closed; it drops whoever has arrived
            self._ringer.send(b"!")

    def wait(self, timeout: float) -> Iterator[tuple[Link, Message | None]]:
        """Wait until something happens, or ``timeout`` seconds; yields messages, and None for a link that closed.

        Args:
            timeout: 0 looks once without waiting.
        """
        for link, events in list(self._watched.items()):
            if link.events != events:
                self._selector.modify(link, link.events, link)
                self._watched[link] = link.events
        for key, events in self._selector.select(timeout):
            link = key.data
            if link is None:
                self._welcome()
            elif link in self._watched:  # else it was dropped by what the caller did with an event before
                yield from self._events(link, events)

    def _events(self, link: Link, events: int) -> Iterator[tuple[Link, Message | None]]:
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
            if events & selectors.EVENT_READ and (message := link.receive()) is not None:
                yield link, message
        except LinkClosed:
            self.drop(link)
            yield link, None

    def _welcome(self) -> None:
        """Watch the links that have been greeted."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)
        while not self._arrivals.empty():
            self.watch(self._arrivals.get())

    def watch(self, link: Link) -> None:
        """Wait for events on a link too, which blocks no more from now on."""
        link.never_block()
        self._selector.register(link, link.events, link)
        self._watched[link] = link.events

    def drop(self, link: Link) -> None:
        """Close a link and forget it."""
        if self._watched.pop(link, None) is not None:
            self._selector.unregister(link)
        link.close()

    def close(self) -> None:
        """Close all links and listeners. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # macOS: not connected
                listener.shutdown(socket.SHUT_RDWR)  # ends accept()
            listener.close()
        for thread in self._accepting:
            thread.join(timeout=1.0)
        for connection in list(self._strangers):
            with contextlib.suppress(OSError):  # it has gone by itself
                connection.shutdown(socket.SHUT_RDWR)  # ends its greeting
        self._greetings.shutdown(wait=True, cancel_futures=True)
        for connection in self._strangers:
            connection.close()
        self._welcome()
        for link in list(self._watched):
            self.drop(link)
        self._selector.close()
        self._bell.close()
        self._ringer.close()


def connect(address: Address, *, same_machine: bool, patience: float) -> Link:
    """A worker's blocking link to a hub.

    Args:
        address: the hub's.
        same_machine: whether to connect by its Unix socket, if it has one.
        patience: seconds until a hub that does not answer is given up.

    Raises:
        OSError: if the hub cannot be reached.
        greeting.Refused: if it does not know the secret.
    """
    if same_machine and address.local:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        connection = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(patience)
        connection.connect(f"\0{address.local}" if connection.family == UNIX else (address.host, address.port))
        greeting.greet(connection, address.secret, side=greeting.WORKER, timeout=GREETING_SECONDS)
    except BaseException:
        connection.close()
        raise
    return Link(connection)
