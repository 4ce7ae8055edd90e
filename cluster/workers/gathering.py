"""Sums of one meta-batch over a relay and the relays below it, chunk by chunk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cluster.workers.peers import Whom
from cluster.workers.sums import NodeSum, Placed, decoded, encoded, gradients
from cluster.workers.transport.link import Bytes, Message
from cluster.workers.tree import bounds
from meta.reduce import TreeSum


@dataclass(eq=False)
class Gathering:
    """Sums of a relay and of relays below it.

    Attributes:
        group: the pool's number of the gradient requests.
        attempt: the pool's; what belongs to another one is not added up.
        to: relay that the sums are sent to; None: the pool.
        below: number of relays whose sums are awaited.
        shards: of the meta-batch.
        names: of the metrics.
    """

    group: int
    attempt: int
    to: Whom | None
    below: int
    shards: int
    names: Sequence[str]
    _trees: list[TreeSum[NodeSum]] = field(default_factory=list)
    _arrived: list[int] = field(default_factory=list)

    def start(self, own: Sequence[Placed]) -> Iterator[tuple[dict[str, Any], Bytes]]:
        """Add the relay's own sums; yields messages that wait for nothing.

        Args:
            own: of gradients of one size, at least one.
        """
        gradient = own[0][2].gradient
        for start, stop in bounds(gradient.nbytes):
            cut = slice(start // gradient.itemsize, stop // gradient.itemsize)
            tree: TreeSum[NodeSum] = TreeSum(self.shards)
            for level, number, part in own:
                tree.cover(number, replace(part, gradient=part.gradient[cut]), level)
            self._trees.append(tree)
            self._arrived.append(0)
        if not self.below:
            for chunk in range(len(self._trees)):
                yield self._message(chunk)

    def add(self, message: Message) -> Iterator[tuple[dict[str, Any], Bytes]]:
        """Add a chunk of another relay's sums; yields a message if it was the last that was missing.

        Args:
            message: as another relay's :meth:`add` or :meth:`start` made it.
        """
        chunk = message.header["chunk"][0]
        for level, number, part in decoded(message.header["sums"], message.numbers):
            self._trees[chunk].cover(number, part, level)
        self._arrived[chunk] += 1
        if self._arrived[chunk] == self.below:
            yield self._message(chunk)

    def _message(self, chunk: int) -> tuple[dict[str, Any], Bytes]:
        placed = self._trees[chunk].take()
        header = {
            "part": self.group,
            "attempt": self.attempt,
            "chunk": [chunk, len(self._trees)],
            "sums": encoded(self.group, self.names, placed),
        }
        return header, gradients(placed)

    @property
    def complete(self) -> bool:
        """Whether all chunks have been sent."""
        return all(count == self.below for count in self._arrived)
