"""Mean and deviation of columns, row by row."""

import numpy as np

from tasks.data.tables.convert import Numbers


class Statistics:
    """Number, mean and variance of columns, updated by batches of rows (Chan, Golub, LeVeque 1983)."""

    def __init__(self, columns: int) -> None:
        """No rows yet.

        Args:
            columns: number of columns C.
        """
        self.count = np.zeros(columns)
        self.missing = np.zeros(columns, dtype=np.int64)
        self.mean = np.zeros(columns)
        self._squares = np.zeros(columns)

    def add(self, values: Numbers) -> None:
        """Adds rows, float64 [n, C], NaN where there is no value."""
        known = ~np.isnan(values)
        count = known.sum(axis=0)
        self.missing += len(values) - count
        mean = np.where(known, values, 0).sum(axis=0) / np.maximum(count, 1)
        squares = (np.where(known, values - mean, 0) ** 2).sum(axis=0)
        total = self.count + count
        shift = mean - self.mean
        share = count / np.maximum(total, 1)
        self._squares += squares + shift**2 * self.count * share
        self.mean += shift * share
        self.count = total

    @property
    def deviation(self) -> Numbers:
        """Standard deviation of each column, 1 where all values are equal."""
        deviation = np.sqrt(self._squares / np.maximum(self.count, 1))
        return np.where(deviation > 1e-12 * np.abs(self.mean), deviation, 1.0)
