"""Entries that a preparation leaves out: counted by reason, the first of each named."""

from collections.abc import Mapping
from typing import Any

NAMED = 5  # examples of each reason


class LeftOut:
    """Things that are left out, by reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, list[str]] = {}

    def add(self, reason: str, where: str, count: int = 1) -> None:
        """Count something; ``where`` names it."""
        self._counts[reason] = self._counts.get(reason, 0) + count
        first = self._first.setdefault(reason, [])
        if len(first) < NAMED:
            first.append(where)

    def as_plain(self) -> dict[str, dict[str, Any]]:
        """By reason, the most frequent first: ``count`` and ``first``, the names of the first ones."""
        order = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return {reason: {"count": self._counts[reason], "first": self._first[reason]} for reason in order}


def in_lines(left_out: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each reason of :meth:`LeftOut.as_plain`."""
    lines = []
    for reason, found in left_out.items():
        more = " …" if found["count"] > len(found["first"]) else ""
        lines.append(f"{found['count']:,} left out, {reason}: {', '.join(found['first'])}{more}")
    return lines
