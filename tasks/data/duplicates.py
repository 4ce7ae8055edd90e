"""Detection of equal images: the same pixels twice in a class, in two classes, or in two splits."""

import hashlib
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.store import Pixels

NAMED = 5  # examples of each kind


class Fingerprints:
    """Hashes of 128 bits of every image of a store, and its origin: 28 bytes an image."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._places = tuple(array("i") for _ in range(3))

    def add(self, split: int, number: int, image: int, pixels: Pixels) -> None:
        """Adds one image.

        Args:
            split: number of the split.
            number: number of the class within the split.
            image: number of the image in the class's raw data.
            pixels: uint8 [height, width, channels].
        """
        self._digests += hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).digest()
        for column, value in zip(self._places, (split, number, image), strict=True):
            column.append(value)

    def duplicates(self, where: Callable[[int, int, int], str]) -> dict[str, Any]:
        """Returns the number of images that are equal to an earlier one, by kind, with the names of some pairs.

        Args:
            where: (split, class, image) -> name of the image.

        Returns:
            ``within_class``, ``across_classes`` (of one split) and ``across_splits``, counts of images, and ``first``:
            by the same names, pairs of equal images. A group of equal images counts as the gravest kind that fits it.
        """
        digests = np.frombuffer(self._digests, dtype=">u8").reshape(-1, 2)
        places = np.stack([np.frombuffer(column, dtype=np.int32) for column in self._places], axis=1)
        order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay in the order they came in
        equal = np.flatnonzero((digests[order[1:]] == digests[order[:-1]]).all(axis=1)) + 1
        counts = dict.fromkeys(("within_class", "across_classes", "across_splits"), 0)
        first: dict[str, list[list[str]]] = {name: [] for name in counts}
        for group in _groups(equal):
            members = places[order[group]]
            kind, other = _gravest(members)
            counts[kind] += len(members) - 1
            if len(first[kind]) < NAMED:
                first[kind].append([where(*members[0].tolist()), where(*members[other].tolist())])
        return {**counts, "first": {name: pairs for name, pairs in first.items() if pairs}}


def _groups(equal: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Runs of equal images, as positions in the sorted order; ``equal`` are those that equal the one before."""
    if not len(equal):
        return []
    runs = np.split(equal, np.flatnonzero(np.diff(equal) > 1) + 1)
    return [np.concatenate([run[:1] - 1, run]) for run in runs]


def _gravest(members: NDArray[np.int32]) -> tuple[str, int]:
    """Returns the gravest kind of a group of equal images, and a member that is of this kind with the first one."""
    for kind, columns in (("across_splits", 1), ("across_classes", 2)):
        differs = (members[:, :columns] != members[0, :columns]).any(axis=1)
        if differs.any():
            return kind, int(differs.argmax())
    return "within_class", 1


def in_words(duplicates: dict[str, Any]) -> list[str]:
    """Returns a line for each kind of duplicates that occurs."""
    said = {
        "across_splits": "images of one split are the same pixels as an image of another split: results on held-out "
        "classes profit from them",
        "across_classes": "images are the same pixels as an image of another class of their split",
        "within_class": "images are the same pixels as another one of their class: query images may repeat support "
        "images",
    }
    lines = []
    for kind, text in said.items():
        if count := duplicates.get(kind, 0):
            pairs = "; ".join(" = ".join(pair) for pair in duplicates["first"][kind][:2])
            lines.append(f"{count:,} {text}; first: {pairs}")
    return lines
