"""The shape in which relays pass vectors on: in pairs, then pairs of pairs, below a few that the pool sees."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

FAN_IN = 4  # relays that send sums to the pool; the others send theirs to relays
CHUNK = 4 * 2**20  # bytes of a vector that travel in one message; a multiple of every element's size

T = TypeVar("T")
Branch = tuple[T, Sequence[T]]


def heads(relays: Sequence[T], most: int) -> list[Branch[T]]:
    """Cut relays into consecutive pieces; each has a first one, and the others below it.

    Args:
        relays: in the order of their shards.
        most: number of pieces.

    >>> heads("abcdefgh", 3)
    [('a', 'b'), ('c', 'de'), ('f', 'gh')]
    """
    count = min(most, len(relays))
    cuts = [place * len(relays) // count for place in range(count + 1)] if count else []
    return [(relays[start], relays[start + 1 : stop]) for start, stop in itertools.pairwise(cuts)]


def branches(below: Sequence[T]) -> list[Branch[T]]:
    """Those of the relays below one that it is linked to itself, the farthest first, and what is below each.

    >>> branches("bcdefgh")
    [('e', 'fgh'), ('c', 'd'), ('b', '')]
    """
    result = []
    while below:
        half = len(below) // 2
        result.append((below[half], below[half + 1 :]))
        below = below[:half]
    return result


def bounds(nbytes: int) -> list[tuple[int, int]]:
    """Where a vector of ``nbytes`` is cut into chunks.

    >>> bounds(3), [stop - start for start, stop in bounds(2 * CHUNK + 8)]
    ([(0, 3)], [4194304, 4194304, 8])
    """
    return [(start, min(start + CHUNK, nbytes)) for start in range(0, nbytes, CHUNK)]
