"""Few-shot forecasting: a task is a stretch of one series, with windows to adapt on before windows to forecast."""

from dataclasses import dataclass

import numpy as np
import torch

from meta.episode import Episode, Examples
from tasks.data.errors import DataError
from tasks.data.tables.store import TableStore
from tasks.family import FamilySpec, Split, TaskKey
from tasks.table import TableTasks


@dataclass(frozen=True, kw_only=True)
class Series(TableTasks):
    """Tasks of forecasting the next rows of a series from the rows before, after adapting to earlier windows of it.

    An example is ``window`` consecutive rows of inputs and the targets of the ``horizon`` rows that follow. A task
    draws a series of the split and a place in it: ``shot`` support examples that begin ``stride`` rows apart, then
    ``query`` examples likewise. Nothing is known in advance: the last support target is not later than the last
    input row of the first query, so no target of a query is seen while adapting or standardising. Rows before that
    moment may be inputs of queries, as they are when a forecast is made.

    Attributes:
        window: rows of inputs.
        horizon: rows of targets after the window; outputs are horizon · targets.
        stride: rows from the beginning of an example to that of the next.
    """

    window: int = 8
    horizon: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        """Checks the numbers; the store is opened when it is first needed."""
        super().__post_init__()
        for name in ("window", "horizon", "stride"):
            if getattr(self, name) < 1:
                raise DataError(f"expected {name} of at least 1, received {getattr(self, name)}")

    @property
    def spec(self) -> FamilySpec:
        """Input shape [window, width of an encoded row], horizon · targets outputs, or one per label."""
        return self._spec((self.window, self.encoder.width), self.horizon)

    def draw(self, key: TaskKey) -> Episode:
        """Returns one task: support [S, window, width], float64, targets [S, horizon · targets], or labels [S]."""
        shot, query = self._shots(key.split)
        group = self._group(key)
        rows, needed = int(self.store.rows(key.split)[group]), self._needed(key.split)
        begin = int(key.rng("place").integers(rows - needed + 1))
        values = self.store.values(key.split, group, np.arange(begin, begin + needed))
        known = (shot - 1) * self.stride + self.window + self.horizon  # rows up to the last support target
        scale = self.encoder.scale(values[:known])
        inputs, targets = self.encoder.inputs(values, scale), self.encoder.targets(values, scale)

        def examples(first: int, count: int) -> Examples:
            starts = first + self.stride * np.arange(count)
            ahead = starts[:, None] + self.window + np.arange(self.horizon)
            windows = inputs[starts[:, None] + np.arange(self.window)]
            return Examples(torch.from_numpy(windows), torch.from_numpy(targets[ahead].reshape(self._shape(count))))

        return Episode(examples(0, shot), examples(self._first_query(shot), query), torch.zeros(0))

    def _shape(self, count: int) -> tuple[int, ...]:
        return (count,) if self.store.manifest.classifies else (count, -1)

    def _first_query(self, shot: int) -> int:
        """The row where the first query begins: its window ends where the last support target does, or later."""
        return (shot - 1) * self.stride + max(self.stride, self.horizon)

    def _needed(self, split: Split) -> int:
        shot, query = self._shots(split)
        return self._first_query(shot) + (query - 1) * self.stride + self.window + self.horizon

    def _keys(self, split: Split) -> str:
        return f"task.window, task.horizon, task.stride, {super()._keys(split)}"

    def _check(self, store: TableStore) -> None:
        manifest = store.manifest
        if not manifest.time:
            raise DataError(
                f"task.family series expects a store whose rows are in the order of time, received '{self.root}', "
                "prepared without --time; prepare the data again with it, or set task.family to table"
            )
        if manifest.classifies and self.horizon != 1:
            raise DataError(
                f"expected task.horizon 1 where a label is predicted, received {self.horizon}; the label is that of "
                "the row after the window"
            )
