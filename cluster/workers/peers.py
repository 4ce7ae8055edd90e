"""A relay's links to other relays, which it sends to; each is made when it is first needed, in a thread."""

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cluster.workers.transport.greeting import Refused
from cluster.workers.transport.hub import Address, Hub, connect
from cluster.workers.transport.link import NOTHING, Bytes, Link, LinkClosed

DIALLING = 5.0  # seconds until a relay that cannot be reached is given up

Whom = tuple[str, str, int]
"""Ray's identity of a relay's node, host and port at which the relay listens."""


class Peers:
    """Links to other relays."""

    def __init__(self, hub: Hub, on_unreached: Callable[[str], None]) -> None:
        """Make no link yet.

        Args:
            hub: the relay's.
            on_unreached: called with the node of a relay that messages may not have reached.
        """
        self._hub, self._on_unreached = hub, on_unreached
        self._links: dict[str, Link] = {}
        self._waiting: dict[str, list[tuple[Any, Bytes]]] = {}  # by node, until there is a link
        self._closed = False
        self._dialled: queue.SimpleQueue[tuple[str, Link | None]] = queue.SimpleQueue()

    def send(self, whom: Whom, header: Any, numbers: Bytes = NOTHING) -> None:
        """Send a message, at once or when there is a link.

        Args:
            whom: another relay.
            header: anything that JSON holds.
            numbers: bytes [N], not to be changed afterwards.
        """
        node, host, port = whom
        if (link := self._links.get(node)) is not None:
            self._send(node, link, header, numbers)
        elif node in self._waiting:
            self._waiting[node].append((header, numbers))
        else:
            self._waiting[node] = [(header, numbers)]
            address = Address(local="", host=host, port=port, secret=self._hub.address.secret)
            threading.Thread(target=self._dial, args=(node, address), name="dial", daemon=True).start()

    def _dial(self, node: str, address: Address) -> None:
        link = None
        with suppress(OSError, Refused):  # the relay's own thread says so
            link = connect(address, same_machine=False, patience=DIALLING)
        self._dialled.put((node, link))
        if self._closed:
            self.close()
        self._hub.ring()

    def settle(self) -> None:
        """Send what has waited for links that are there now."""
        while not self._dialled.empty():
            node, link = self._dialled.get()
            waiting = self._waiting.pop(node, [])
            if link is None:
                self._on_unreached(node)
                continue
            self._links[node] = link
            self._hub.watch(link)
            for header, numbers in waiting:
                self._send(node, link, header, numbers)

    def _send(self, node: str, link: Link, header: Any, numbers: Bytes) -> None:
        try:
            link.send(header, numbers)
        except LinkClosed:
            self._links.pop(node, None)
            self._on_unreached(node)

    def closed(self, link: Link) -> None:
        """Forget a link that the hub has reported as closed."""
        for node in [node for node, own in self._links.items() if own is link]:
            del self._links[node]
            self._on_unreached(node)

    def close(self) -> None:
        """Close links that were made and not used; the hub closes the others. May be called twice."""
        self._closed = True
        with suppress(queue.Empty):
            while True:
                if (link := self._dialled.get_nowait()[1]) is not None:
                    link.close()
