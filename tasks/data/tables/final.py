"""The third pass over a table: sorted records become the rows of the store, and describe its columns."""

from collections.abc import Sequence

import numpy as np

from tasks.data.errors import DataError
from tasks.data.left_out import NAMED
from tasks.data.tables.convert import Numbers
from tasks.data.tables.groups import Groups
from tasks.data.tables.manifest import Column
from tasks.data.tables.request import Roles
from tasks.data.tables.rows import RECORD, RowReader
from tasks.data.tables.statistics import Statistics

GAP = 1.5  # a step in time this many times as long as the shortest of its series is a gap


class Final:
    """The values of sorted records as they are stored, and what is noted on the way.

    Attributes:
        unknown: values by column that are categories which no training group has.
        duplicates: rows that are equal to another row of their group.
    """

    def __init__(self, roles: Roles, groups: Groups, reader: RowReader) -> None:
        """Takes what the second pass has learnt.

        Args:
            roles: of the columns.
            groups: of the table.
            reader: after the last row.
        """
        self._roles, self._groups, self._reader, self._times = roles, groups, reader, reader.times
        self._statistics = Statistics(len(roles.values))
        self._codes = {position: one.final_codes() for position, one in reader.vocabularies.items()}
        self.unknown: dict[str, int] = {}
        self.duplicates = 0
        self._duplicated: list[str] = []
        self._gaps: list[str] = []
        self._series = 0

    def values(self, records: Numbers) -> Numbers:
        """Returns the values [n, C] of records sorted by group, without the rows whose label is unknown.

        Raises:
            DataError: if a series has two rows of one time.
        """
        values = records[:, RECORD:].copy()
        for position, codes in self._codes.items():
            known = ~np.isnan(values[:, position])
            values[known, position] = codes[values[known, position].astype(np.int64)]
        if self._roles.labels is not None:
            labelled = values[:, -1] >= 0
            records, values = records[labelled], values[labelled]
        for position in self._codes:
            unknown = int((values[:, position] < 0).sum())
            if unknown:
                name = self._roles.values[position]
                self.unknown[name] = self.unknown.get(name, 0) + unknown
        self._statistics.add(values[records[:, 0] < self._groups.bounds["train"].stop])
        if self._times is None:
            self._note_duplicates(records[:, 0], values)
        else:
            self._check_times(records)
        return values

    def columns(self) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
        """Returns the descriptions of inputs and targets, when every row has been seen.

        Raises:
            DataError: if an input has no value in any training group, or there are fewer than two labels.
        """
        described = [self._described(position) for position in range(len(self._roles.values))]
        inputs, targets = described[: len(self._roles.inputs)], described[len(self._roles.inputs) :]
        if self._roles.labels is not None and len(targets[0].categories) < 2:
            raise DataError(
                f"column '{self._roles.labels}': expected two labels or more in the training groups, received "
                f"{list(targets[0].categories)}; name another --labels, or split otherwise"
            )
        return tuple(inputs), tuple(targets)

    def _described(self, position: int) -> Column:
        name, statistics = self._roles.values[position], self._statistics
        missing = int(statistics.missing[position])
        if position in self._reader.vocabularies:
            categories = self._reader.vocabularies[position].categories
            if not categories:
                raise self._empty(name)
            return Column(name=name, kind="category", missing=missing, categories=categories)
        if not statistics.count[position]:
            raise self._empty(name)
        mean, deviation = float(statistics.mean[position]), float(statistics.deviation[position])
        return Column(name=name, kind="number", mean=mean, deviation=deviation, missing=missing)

    @staticmethod
    def _empty(name: str) -> DataError:
        return DataError(
            f"column '{name}': expected values in the training groups, received none that can be used; leave the "
            "column out, or split otherwise"
        )

    def warnings(self) -> list[str]:
        """Returns sentences about what is doubtful in the data."""
        lines = [
            f"{count:,} values of column '{name}' are categories that no training group has; they count as none"
            for name, count in self.unknown.items()
        ]
        if self.duplicates:
            lines.append(
                f"{self.duplicates:,} rows are equal to another row of their group, so that support and query may "
                f"share them: in group {_first(self._duplicated)}; remove them unless they are measurements of their "
                "own"
            )
        if self._gaps:
            lines.append(
                f"{len(self._gaps):,} of {self._series:,} series have gaps in column '{self._roles.time}': "
                f"{_first(self._gaps)}; windows count rows, so fill the gaps in or cut the series there"
            )
        return lines

    def _note_duplicates(self, groups: Numbers, values: Numbers) -> None:
        """Counts rows that are equal to another of their group, by a hash of 64 bits."""
        bits = np.ascontiguousarray(np.column_stack([groups, values])).view(np.uint64)
        hashes = np.zeros(len(bits), dtype=np.uint64)
        for column in bits.T:
            hashes = (hashes ^ column) * np.uint64(0x9E3779B97F4A7C15)
            hashes ^= hashes >> np.uint64(29)
        order = np.argsort(hashes, kind="stable")
        equal = order[1:][np.diff(hashes[order]) == 0]
        self.duplicates += len(equal)
        names = [self._groups.names[int(number)] for number in np.unique(groups[equal])[: NAMED + 1]]
        self._duplicated += names[: NAMED + 1 - len(self._duplicated)]

    def _check_times(self, records: Numbers) -> None:
        assert self._times is not None
        groups, times = records[:, 0], records[:, 1]
        steps = np.diff(times)
        same = np.diff(groups) == 0
        repeated = same & (steps == 0)
        if repeated.any():
            position = int(repeated.argmax())
            raise DataError(
                f"group '{self._groups.names[int(groups[position])]}': expected one row for each time of a series, "
                f"received two with {self._roles.time} {self._times.shown(times[position])}; remove one, or name a "
                "--group that tells them apart"
            )
        starts = np.flatnonzero(np.concatenate([[True], ~same])) if len(groups) else np.zeros(0, dtype=np.int64)
        self._series += len(starts)
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(groups)], strict=True):
            own = steps[start : stop - 1]
            if len(own) and own.max() > GAP * own.min():
                self._gaps.append(self._groups.names[int(groups[start])])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (" …" if len(names) > NAMED else "")
