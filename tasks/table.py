"""Few-shot regression and classification on tables: a task is a group of rows out of an Arrow store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meta.episode import Episode, Examples
from tasks.data.cache import open_table
from tasks.data.errors import DataError
from tasks.data.left_out import NAMED
from tasks.data.tables.convert import Numbers
from tasks.data.tables.encode import Encoder, Scale, Standardise
from tasks.data.tables.store import TableStore
from tasks.family import SPLITS, FamilySpec, Split, TaskKey


@dataclass(frozen=True, kw_only=True)
class TableTasks:
    """Base of the families that draw from a store of tables.

    Attributes:
        root: folder or URI of a store made by ``metaray data prepare table``.
        shot: support examples per task.
        query: query examples per task in training.
        eval_shot: support examples in validation and test; ``None``: as in training.
        eval_query: query examples in validation and test; ``None``: as in training.
        standardise: ``train``: inputs and targets are standardised by mean and deviation of the training groups' rows;
            ``support``: by those of the task's own support rows, where these vary; ``none``: not at all. Scores are in
            the standardised units.
    """

    root: str
    shot: int = 10
    query: int = 10
    eval_shot: int | None = None
    eval_query: int | None = None
    standardise: Standardise = "train"

    def __post_init__(self) -> None:
        """Checks the numbers; the store is opened when it is first needed."""
        for name in ("shot", "query", "eval_shot", "eval_query"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"expected {name} of at least 1, received {value}")

    @cached_property
    def store(self) -> TableStore:
        """The store, opened at first use.

        Raises:
            DataError: if there is none, it does not suit the family, or a split has no group with enough rows.
        """
        store = open_table(self.root)
        self._check(store)
        for split in SPLITS:
            if not len(self._enough(store, split)):
                raise DataError(
                    f"expected groups of {self._needed(split):,} rows or more in the {split} split of '{self.root}', "
                    f"the largest of its {len(store.names(split)):,} has {int(store.rows(split).max()):,}; lower "
                    f"{self._keys(split)}"
                )
        return store

    @cached_property
    def encoder(self) -> Encoder:
        """Encodes rows as inputs and targets."""
        return Encoder(self.store.manifest, self.standardise)

    @cached_property
    def groups(self) -> dict[Split, NDArray[np.int64]]:
        """Numbers of the groups of each split that have enough rows for a task, int64 [≤ G]."""
        return {split: self._enough(self.store, split) for split in SPLITS}

    @property
    def warnings(self) -> list[str]:
        """Sentences about groups that are left out because they have too few rows, one for each split."""
        lines = []
        for split in SPLITS:
            names, kept = self.store.names(split), self.groups[split]
            if len(kept) < len(names):
                small = np.setdiff1d(np.arange(len(names)), kept)
                named = ", ".join(names[number] for number in small[:NAMED].tolist())
                more = " …" if len(small) > NAMED else ""
                lines.append(
                    f"{len(small):,} of {len(names):,} {split} groups of '{self.root}' have fewer than "
                    f"{self._needed(split):,} rows and are left out: {named}{more}; lower {self._keys(split)} to keep "
                    "them"
                )
        return lines

    def _check(self, store: TableStore) -> None:
        """Checks that the store suits the family.

        Raises:
            DataError: if not.
        """
        raise NotImplementedError

    def _needed(self, split: Split) -> int:
        """Rows that a task takes."""
        raise NotImplementedError

    def _keys(self, split: Split) -> str:
        """The keys that decide how many rows a task takes."""
        return "task.shot or task.query" + ("" if split == "train" else " (task.eval_shot, task.eval_query)")

    def _enough(self, store: TableStore, split: Split) -> NDArray[np.int64]:
        return np.flatnonzero(store.rows(split) >= self._needed(split))

    def _shots(self, split: Split) -> tuple[int, int]:
        """Support and query examples."""
        if split == "train":
            return self.shot, self.query
        return self.eval_shot or self.shot, self.eval_query or self.query

    def _group(self, key: TaskKey) -> int:
        """Number of the task's group: all that have enough rows are equally likely."""
        groups = self.groups[key.split]
        return int(groups[key.rng("group").integers(len(groups))])

    def _spec(self, input_shape: tuple[int, ...], steps: int) -> FamilySpec:
        """The spec for inputs of a shape and targets of a number of rows."""
        manifest = self.store.manifest
        outputs = len(manifest.targets[0].categories) if manifest.classifies else steps * len(manifest.targets)
        return FamilySpec(
            input_shape=input_shape,
            outputs=outputs,
            objective="cross_entropy" if manifest.classifies else "mse",
            data=manifest.fingerprint,
            by_class=False,
        )


@dataclass(frozen=True, kw_only=True)
class Table(TableTasks):
    """Tasks of predicting the targets of a group's rows from a few others of them.

    A task draws a group of the split, and from it ``shot`` support rows and ``query`` query rows without replacement.
    Tests with other numbers of support rows have the same groups and the same query rows, as long as the same groups
    have enough rows.
    """

    @property
    def spec(self) -> FamilySpec:
        """Input shape [width of an encoded row], one output per target or per label."""
        return self._spec((self.encoder.width,), 1)

    def draw(self, key: TaskKey) -> Episode:
        """Returns one task: support [S, width] and query, float64; targets [S, outputs], or int64 labels [S]."""
        shot, query = self._shots(key.split)
        group = self._group(key)
        rows = int(self.store.rows(key.split)[group])
        queries = key.rng("query").choice(rows, query, replace=False)
        others = key.rng("support").choice(rows - query, shot, replace=False)
        support = self.store.values(key.split, group, _skipping(np.sort(queries), others))
        scale = self.encoder.scale(support)
        return Episode(
            self._examples(support, scale),
            self._examples(self.store.values(key.split, group, queries), scale),
            torch.zeros(0),
        )

    def arrays(
        self, support: Mapping[str, Sequence[Any]], query: Mapping[str, Sequence[Any]]
    ) -> dict[str, NDArray[Any]]:
        """Returns a task of the user's own rows as registered models and servers take it, T = 1.

        Args:
            support: values by column, targets too, S of each.
            query: values by column, Q of each.

        Returns:
            ``support_inputs`` [1, S, width], ``support_targets`` [1, S, outputs] or [1, S], ``query_inputs``
            [1, Q, width].

        Raises:
            DataError: if a column is left out, a value cannot be used, or a support row has no target.
        """
        return self.encoder.task(support, query)[0]

    def in_units(self, predictions: Numbers, support: Mapping[str, Sequence[Any]]) -> Numbers:
        """Returns predictions in the units of the table, float64 [..., outputs].

        Args:
            predictions: a model's outputs, [..., outputs].
            support: the task's support rows, values by column.
        """
        return self.encoder.in_units(predictions, self.encoder.scale(self.encoder.rows(support)))

    def _examples(self, values: Numbers, scale: Scale) -> Examples:
        inputs, targets = self.encoder.inputs(values, scale), self.encoder.targets(values, scale)
        return Examples(torch.from_numpy(inputs), torch.from_numpy(targets))

    def _needed(self, split: Split) -> int:
        return sum(self._shots(split))

    def _check(self, store: TableStore) -> None:
        manifest = store.manifest
        both = {column.name for column in manifest.inputs} & {column.name for column in manifest.targets}
        if both:
            raise DataError(
                f"task.family table expects targets that are no inputs, received '{sorted(both)[0]}' as both in "
                f"'{self.root}': a row would hold its own answer; set task.family to series, or prepare the data anew"
            )


def _skipping(skipped: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows at some positions among those that are not skipped.

    Args:
        skipped: rows, sorted.
        positions: counted without the skipped rows.

    >>> _skipping(np.array([0, 2]), np.array([1, 0])).tolist()
    [3, 1]
    """
    return positions + np.searchsorted(skipped - np.arange(len(skipped)), positions, side="right")
