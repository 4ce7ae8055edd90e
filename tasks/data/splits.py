"""Assignment of every class to one split."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from tasks.data.errors import DataError
from tasks.data.names import class_name
from tasks.family import SPLITS, Split

RATIO = "0.64,0.16,0.2"


def shuffled(names: Collection[str], seed: int) -> list[str]:
    """Returns the names in an order that depends on the seed and the set of names alone.

    Args:
        names: names in any order.
        seed: seed of the shuffle.
    """
    if not 0 <= seed < 2**64:
        raise DataError(f"expected a seed from 0 to 2^64 - 1, received {seed}")
    ordered = sorted(names)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], dtype=np.uint64)))
    return [ordered[number] for number in rng.permutation(len(ordered)).tolist()]


def by_counts(names: Collection[str], counts: Sequence[int], seed: int) -> dict[Split, list[str]]:
    """Shuffles the names and assigns consecutive parts to the splits; names are sorted within each.

    Args:
        names: class names in any order.
        counts: number of classes for train, val and test.
        seed: seed of the shuffle.

    Raises:
        DataError: if there are fewer names than the counts add up to.
    """
    if len(names) < sum(counts):
        raise DataError(f"expected {sum(counts)} classes to split, received {len(names)}")
    order, parts = shuffled(names, seed), {}
    for split, count in zip(SPLITS, counts, strict=True):
        parts[split], order = sorted(order[:count]), order[count:]
    return parts


def by_ratio(names: Collection[str], ratio: str, seed: int) -> dict[Split, list[str]]:
    """Shuffles the names and assigns consecutive parts to the splits by shares.

    Args:
        names: class names in any order.
        ratio: shares of train, val and test, such as ``0.64,0.16,0.2``.
        seed: seed of the shuffle.

    Raises:
        DataError: if ``ratio`` is not three positive numbers.
    """
    try:
        shares = [float(share) for share in ratio.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS) or not all(0 < share < float("inf") for share in shares):
        raise DataError(f"expected a ratio of three positive numbers such as {RATIO}, received '{ratio}'")
    val, test = (round(len(names) * share / sum(shares)) for share in shares[1:])
    return by_counts(names, (len(names) - val - test, val, test), seed)


def by_lists(names: Collection[str], folder: Path) -> dict[Split, list[str]]:
    """Returns the splits that ``train.txt``, ``val.txt`` and ``test.txt`` of a folder list, one class name per line.

    Classes on no list are left out.

    Args:
        names: names of all classes.
        folder: folder of the lists.

    Raises:
        DataError: if a list is missing, names a class that does not exist, or one that another list names too.
    """
    parts: dict[Split, list[str]] = {}
    owner: dict[str, Path] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if not path.is_file():
            raise DataError(f"expected class lists train.txt, val.txt and test.txt in '{folder}', found no {path.name}")
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        parts[split] = [class_name(line, str(path)) for line in lines if line.strip()]
        for name in parts[split]:
            if name in owner:
                raise DataError(
                    f"{path}: expected splits without a common class, received '{name}', which {owner[name].name} "
                    "names too; give every class to one split"
                )
            if name not in names:
                raise DataError(
                    f"{path}: expected names of classes, received '{name}', which the source has not; "
                    "correct the list, or add the class"
                )
            owner[name] = path
    return parts


def split_classes(names: Collection[str], ratio: str | None, lists: Path | None, seed: int) -> dict[Split, list[str]]:
    """Returns the splits by lists if there are any, else by ratio.

    Args:
        names: class names in any order.
        ratio: shares as for :func:`by_ratio`, None for the default.
        lists: folder as for :func:`by_lists`.
        seed: seed of the shuffle.

    Raises:
        DataError: if ``ratio`` and ``lists`` are both present, or one is wrong.
    """
    if lists is None:
        return by_ratio(names, ratio or RATIO, seed)
    if ratio is not None:
        raise DataError("expected --ratio or --lists, received both; leave one out")
    return by_lists(names, lists)


def described(ratio: str | None, lists: Path | None, seed: int) -> str:
    """Returns how :func:`split_classes` splits with these arguments, in words, for a store's origin."""
    return "lists" if lists else f"ratio {ratio or RATIO}, seed {seed}"
