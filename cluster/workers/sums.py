"""Sums below nodes of the tree over shards, in memory and in messages between relays and the pool."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from cluster.workers.messages import Flat, TaskRange
from cluster.workers.transport.link import NOTHING, Bytes
from cluster.workers.transport.memory import view


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


Placed = tuple[int, int, NodeSum]
"""Level, number and sum of a node."""


def encoded(group: int, names: Sequence[str], placed: Sequence[Placed]) -> list[dict[str, Any]]:
    """Sums as a header, without their gradients.

    Args:
        group: the pool's number of the gradient requests.
        names: of the metrics.
        placed: the sums.
    """
    return [
        {
            "group": group,
            "level": level,
            "number": number,
            "tasks": vars(part.tasks),
            "metrics": names,
            "sums": part.metrics.tolist(),
            "nonfinite": part.nonfinite,
            "dtype": part.gradient.dtype.str,
        }
        for level, number, part in placed
    ]


def gradients(placed: Sequence[Placed]) -> Bytes:
    """Gradients of sums, one after the other."""
    parts = [part.gradient for *_, part in placed]
    if not parts:
        return NOTHING
    return view(parts[0] if len(parts) == 1 else np.concatenate(parts))


def decoded(headers: Sequence[dict[str, Any]], numbers: Bytes) -> list[Placed]:
    """Sums from their headers and gradients, in memory that may be changed."""
    each = len(numbers) // max(len(headers), 1)
    return [
        (
            fields["level"],
            fields["number"],
            NodeSum(
                numbers[place * each : (place + 1) * each].view(fields["dtype"]),
                np.array(fields["sums"]),
                tuple(fields["nonfinite"]),
                TaskRange(**fields["tasks"]),
            ),
        )
        for place, fields in enumerate(headers)
    ]
