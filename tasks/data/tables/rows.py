"""Rows of a table as records of numbers, and the categories of the training groups among them."""

import numpy as np
from numpy.typing import NDArray

from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.tables.convert import MOST_CATEGORIES, Numbers, Times, numbers, texts
from tasks.data.tables.groups import Groups, Ids
from tasks.data.tables.read import Batch
from tasks.data.tables.request import Roles

RECORD = 2  # numbers of a record before its values: group and time


class Vocabulary:
    """The categories of a column, numbered as they come, and which of them the training groups have."""

    def __init__(self, name: str) -> None:
        """No categories yet.

        Args:
            name: the column.
        """
        self._name = name
        self._codes: dict[str, int] = {}
        self._trained: set[int] = set()

    def codes(self, batch: Batch) -> Numbers:
        """Returns the numbers of a batch's categories, float64 [n], NaN where there is none.

        Raises:
            DataError: if there are too many categories.
        """
        positions, distinct = texts(batch, self._name)
        table = np.full(len(distinct), np.nan)
        for position, category in enumerate(distinct):
            if category is not None:
                table[position] = self._codes.setdefault(category, len(self._codes))
        if len(self._codes) > MOST_CATEGORIES:
            raise DataError(
                f"{batch.path}, column '{self._name}': expected at most {MOST_CATEGORIES:,} categories, received more; "
                "an identifier is no category: leave the column out, or merge rare categories"
            )
        return table[positions]

    def train(self, codes: Numbers) -> None:
        """Notes the categories of training rows.

        Args:
            codes: as :meth:`codes` returns them.
        """
        self._trained |= set(np.unique(codes[~np.isnan(codes)]).astype(np.int64).tolist())

    @property
    def categories(self) -> tuple[str, ...]:
        """The training groups' categories, sorted."""
        return tuple(sorted(name for name, code in self._codes.items() if code in self._trained))

    def final_codes(self) -> Numbers:
        """Returns the position in :attr:`categories` of each number so far, -1 for one that training does not have."""
        order = {name: position for position, name in enumerate(self.categories)}
        return np.array([order.get(name, -1) for name in self._codes], dtype=np.float64)


class RowReader:
    """Turns batches into records, and learns the categories of the training groups.

    A record is float64 [2 + C]: number of the group, time (0 without one), and the C values.

    Attributes:
        kept: records by group, int64 [G].
        vocabularies: by position among the values, of those that are categories.
    """

    def __init__(self, roles: Roles, groups: Groups, missing: str, left_out: LeftOut) -> None:
        """No rows yet.

        Args:
            roles: of the columns.
            groups: of the table.
            missing: what to do with rows that lack a value, one of :data:`tasks.data.tables.request.MISSING`.
            left_out: counts rows that are left out.
        """
        self._roles, self._groups, self._missing, self._left_out = roles, groups, missing, left_out
        self.times = None if roles.time is None else Times(roles.time)
        self.kept: Ids = np.zeros(len(groups.names), dtype=np.int64)
        self.vocabularies = {
            position: Vocabulary(name)
            for position, (name, category) in enumerate(zip(roles.values, roles.is_category, strict=True))
            if category
        }
        self._held_out_labels: dict[tuple[int, int], int] = {}

    def records(self, batch: Batch) -> Numbers:
        """Returns the records [n, 2 + C] of the batch's rows that are kept.

        Raises:
            DataError: naming row and column of a value that cannot be used.
        """
        ids = self._groups.of(batch, self._roles.group)
        values = np.column_stack([self._column(batch, position) for position in range(len(self._roles.values))])
        keep = self._whole(batch, values, ids >= 0)
        times = np.zeros(len(ids)) if self.times is None else self.times.of(batch)
        ids, values, times = ids[keep], values[keep], times[keep]
        self.kept += np.bincount(ids, minlength=len(self.kept))
        training = ids < self._groups.bounds["train"].stop
        for position, vocabulary in self.vocabularies.items():
            vocabulary.train(values[training, position])
        if self._roles.labels is not None:
            pairs = np.stack([ids[~training], values[~training, -1].astype(np.int64)], axis=1)
            for (group, code), count in zip(*_counts(pairs), strict=True):
                self._held_out_labels[group, code] = self._held_out_labels.get((group, code), 0) + count
        return np.column_stack([ids.astype(np.float64), times, values])

    def leave_unknown_labels_out(self) -> int:
        """Takes held-out rows whose label no training group has out of :attr:`kept`; returns their number."""
        if self._roles.labels is None:
            return 0
        final, removed = self.vocabularies[len(self._roles.values) - 1].final_codes(), 0
        for (group, code), count in self._held_out_labels.items():
            if final[code] < 0:
                self.kept[group] -= count
                removed += count
        return removed

    def _column(self, batch: Batch, position: int) -> Numbers:
        if position in self.vocabularies:
            return self.vocabularies[position].codes(batch)
        return numbers(batch, self._roles.values[position])

    def _whole(self, batch: Batch, values: Numbers, keep: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mask of the rows that are kept, of those that are in a group."""
        gaps = np.isnan(values) & keep[:, None]
        inputs = len(self._roles.inputs)
        for gap, reason in ((gaps[:, :inputs].any(axis=1), "an input"), (gaps[:, inputs:].any(axis=1), "a target")):
            if not gap.any() or (reason == "an input" and self._missing == "impute"):
                continue
            row = int(gap.argmax())
            name = self._roles.values[int(gaps[row].argmax())]
            where = f"{batch.row(row)}, column '{name}'"
            if self._missing == "refuse":
                raise DataError(
                    f"{where}: expected a value, received none; add it, leave such rows out with --missing drop, or "
                    "fill inputs in by the training mean with --missing impute"
                )
            self._left_out.add(f"rows without {reason}", where, int((gap & keep).sum()))
            keep = keep & ~gap
        return keep


def _counts(pairs: NDArray[np.int64]) -> tuple[list[tuple[int, int]], list[int]]:
    """Distinct pairs [n, 2] and how often each is there."""
    distinct, counts = np.unique(pairs, axis=0, return_counts=True)
    return [(group, code) for group, code in distinct.tolist()], counts.tolist()
