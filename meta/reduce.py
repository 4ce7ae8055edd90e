"""Sums along a fixed binary tree: the same bits whatever order the parts arrive in.

Floating-point addition is not associative, so a sum in order of arrival would differ from run to run. Here
the shape of the tree depends on the number of parts alone: neighbours are added first, then neighbouring
pairs, and so on. Both orders of one addition agree (a + b = b + a), so arrival order cannot matter.
"""

from collections.abc import Sequence
from typing import Generic, Protocol, Self, TypeVar


class Addable(Protocol):
    """Anything with ``+``: numpy arrays, tensors, numbers."""

    def __add__(self, other: Self, /) -> Self: ...


A = TypeVar("A", bound=Addable)


class TreeSum(Generic[A]):
    """Adds ``count`` numbered parts in any order of arrival; holds only partial sums whose neighbour is missing.

    >>> tree = TreeSum(3)
    >>> tree.add(2, 30.0); tree.add(0, 1.0); tree.add(1, 2.0)
    >>> tree.total()
    33.0
    """

    def __init__(self, count: int) -> None:
        """Makes an empty tree over parts 0 … count-1."""
        if count < 1:
            raise ValueError(f"expected at least one part to add up, received {count}")
        self._count = count
        self._seen: set[int] = set()
        self._waiting: dict[tuple[int, int], A] = {}

    @property
    def missing(self) -> list[int]:
        """Numbers of the parts that have not been added yet, in increasing order."""
        return [number for number in range(self._count) if number not in self._seen]

    def add(self, number: int, part: A, level: int = 0) -> None:
        """Adds part ``number``, or the sum of the parts below an inner node of the tree.

        Args:
            number: the part's place in the tree, from 0 to count-1, or the node's place at its level.
            part: its value; all parts have one type and shape.
            level: of the node: it holds the parts from number · 2^level to (number + 1) · 2^level - 1, as far as there
                are so many, added up along the tree.

        Raises:
            ValueError: if there is no such part or node, or a part of it was added before.
        """
        width = -(-self._count // 2**level)
        if not 0 <= number < width:
            raise ValueError(f"expected a part number from 0 to {width - 1} at level {level}, received {number}")
        below = range(number << level, min((number + 1) << level, self._count))
        if twice := [part for part in below if part in self._seen]:
            raise ValueError(f"part {twice[0]} was counted already; every part is counted exactly once")
        self._seen.update(below)
        while width > 1:
            sibling = number ^ 1
            if sibling < width:
                other = self._waiting.pop((level, sibling), None)
                if other is None:
                    break
                part = other + part
            level, number, width = level + 1, number // 2, (width + 1) // 2
        self._waiting[level, number] = part

    def cover(self, number: int, part: A, level: int = 0) -> bool:
        """Adds the sum of a node whose parts may have been counted before, each of them still counted once.

        Where workers compute a part twice, two sums may overlap. Parts below an incomplete node have been added up
        below it only, so its whole sum takes the place of theirs.

        Args:
            number: as of :meth:`add`.
            part: as of :meth:`add`.
            level: as of :meth:`add`.

        Returns:
            False if all of the node's parts were counted already: nothing changes then.
        """
        below = range(number << level, min((number + 1) << level, self._count))
        counted = [one for one in below if one in self._seen]
        if len(counted) == len(below) > 0:
            return False
        if counted:
            self._seen.difference_update(counted)
            for lower, place in [(low, at) for low, at in self._waiting if low < level and at >> level - low == number]:
                del self._waiting[lower, place]
        self.add(number, part, level)
        return True

    def take(self) -> list[tuple[int, int, A]]:
        """Removes all partial sums, and forgets their parts.

        Returns:
            Level, number and sum of each, fit for :meth:`add` and :meth:`cover` of another tree over as many parts.
        """
        sums = [(level, number, part) for (level, number), part in self._waiting.items()]
        self._waiting.clear()
        self._seen.clear()
        return sums

    def total(self) -> A:
        """Returns the sum of all parts.

        Raises:
            ValueError: if parts are missing.
        """
        if self.missing:
            raise ValueError(f"expected all {self._count} parts, still missing {self.missing}")
        (total,) = self._waiting.values()
        return total


def tree_sum(parts: Sequence[A]) -> A:
    """Returns the sum of ``parts`` along the fixed tree.

    >>> tree_sum([1, 2, 3, 4, 5])
    15
    """
    tree: TreeSum[A] = TreeSum(len(parts))
    for number, part in enumerate(parts):
        tree.add(number, part)
    return tree.total()
