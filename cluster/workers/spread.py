"""θ on its way to many relays: the pool sends it to a few, which pass it on."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cluster.workers.relayed import NodeRelay, send
from cluster.workers.tree import FAN_IN, bounds, branches, heads
from cluster.workers.vectors import KEPT, Payload


@dataclass(frozen=True, eq=False)
class _Sent:
    """A payload, and by relay the relays that pass it on to that one."""

    payload: Payload
    by: dict[NodeRelay, tuple[NodeRelay, ...]]


class Spread:
    """Payloads that were sent by other relays; the latest few are sent again where one of those is lost."""

    def __init__(self, relays: Callable[[], Iterable[NodeRelay]]) -> None:
        """Send nothing yet.

        Args:
            relays: says which ones are linked.
        """
        self._relays = relays
        self._sent: deque[_Sent] = deque(maxlen=KEPT)

    def send(self, payload: Payload) -> bool:
        """Send a payload to all relays, if there are many of them and it has not been.

        Args:
            payload: vectors.

        Returns:
            Whether it was sent so, now or before.
        """
        if any(sent.payload is payload for sent in self._sent):
            return True
        relays = sorted(self._relays(), key=lambda relay: relay.node)
        if len(relays) <= FAN_IN:
            return False
        by: dict[NodeRelay, tuple[NodeRelay, ...]] = {}

        def note(relay: NodeRelay, below: Sequence[NodeRelay], before: tuple[NodeRelay, ...]) -> None:
            by[relay] = before
            relay.receiver.note(payload)
            for child, others in branches(below):
                note(child, others, (*before, relay))

        for head, below in heads(relays, FAN_IN):
            note(head, below, ())
            _send(head, payload, below)
        self._sent.append(_Sent(payload, by))
        return True

    def mend(self, lost: NodeRelay) -> None:
        """Send what relays may not have received, since another does not pass it on, or cannot be reached by others.

        Args:
            lost: that other.
        """
        for sent in self._sent:
            for relay, before in sent.by.items():
                if lost is relay or lost in before:
                    _send(relay, sent.payload, ())


def _send(relay: NodeRelay, payload: Payload, below: Sequence[NodeRelay]) -> None:
    if relay.link is None or relay.lost:
        return
    cuts, to = bounds(payload.lasting.nbytes), [other.at for other in below]
    for chunk, (start, stop) in enumerate(cuts):
        header = {"spread": payload.number, "second": payload.second, "chunk": [chunk, len(cuts)], "to": to}
        send(relay.link, header, payload.lasting[start:stop])
