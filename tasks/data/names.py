"""The identity of a class by its name, the same rule for every source."""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from tasks.data.errors import DataError

Item = TypeVar("Item")

_NO_WIDTH = dict.fromkeys((0x200B, 0x2060, 0xFEFF))  # spaces that nobody sees


def class_name(written: str, where: str) -> str:
    r"""Returns the name of the class of a label or folder: composed Unicode, single spaces, none at the ends.

    Args:
        written: the label or folder as it is written.
        where: its place, for the message.

    Raises:
        DataError: if nothing is left.

    >>> class_name("k0 ", "here"), class_name("Cafe\u0301  au lait", "here")
    ('k0', 'Café au lait')
    """
    name = " ".join(unicodedata.normalize("NFC", written.translate(_NO_WIDTH)).split())
    if not name:
        raise DataError(f"{where}: expected a class name, received {written!r}; name the class, or leave it out")
    return name


def joined(named: Iterable[tuple[str, Sequence[Item]]], where: str) -> tuple[dict[str, list[Item]], list[str]]:
    """Returns items by class; names that stand for the same class are joined.

    Args:
        named: names as they are written, with their items.
        where: their place, for messages.

    Returns:
        Items by class name, and a warning for each class that is written in several ways, and for names that differ
        in upper and lower case only, which stay classes of their own.
    """
    items: dict[str, list[Item]] = {}
    written: dict[str, list[str]] = {}
    for name, more in named:
        one = class_name(name, where)
        items.setdefault(one, []).extend(more)
        if name not in written.setdefault(one, []):
            written[one].append(name)
    return items, spelling_warnings(written)


def spelling_warnings(written: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns warnings for classes that are written in several ways, and for names that differ in case only.

    Args:
        written: spellings by class name.
    """
    several = [names for names in written.values() if len(names) > 1]
    warnings = [
        f"{', '.join(map(repr, sorted(names)))} are taken for one class: they differ in spaces or in the form of "
        "their Unicode only"
        for names in several
    ]
    folded: dict[str, list[str]] = {}
    for name in written:
        folded.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    alike = [names for names in folded.values() if len(names) > 1]
    return warnings + [
        f"{', '.join(map(repr, sorted(names)))} are taken for classes of their own, though they differ in upper and "
        "lower case or in the form of letters only; rename them if they are one"
        for names in alike
        if min(map(len, names)) > 1  # single letters are classes of characters
    ]
