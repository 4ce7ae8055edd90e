"""Entries that a preparation leaves out: counted by reason, the first of each named."""

from collections.abc import Mapping
from typing import Any

NAMED = 5  # examples of each reason


class LeftOut:
    """Counts of things that are left out, by reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Counts something that is left out.

        Args:
            reason: why.
            where: name of the thing, or of the first of several.
            count: number of things.
        """
        self._counts[reason] = self._counts.get(reason, 0) + count
        first = self._first.setdefault(reason, [])
        if len(first) < NAMED:
            first.append(where)

    def as_plain(self) -> dict[str, dict[str, Any]]:
        """Returns ``count`` and ``first``, the names of the first ones, by reason, the most frequent first."""
        order = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return {reason: {"count": self._counts[reason], "first": self._first[reason]} for reason in order}


def in_lines(left_out: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns a line for each reason of :meth:`LeftOut.as_plain`."""
    lines = []
    for reason, entry in left_out.items():
        more = " …" if entry["count"] > len(entry["first"]) else ""
        lines.append(f"{entry['count']:,} left out, {reason}: {', '.join(entry['first'])}{more}")
    return lines
