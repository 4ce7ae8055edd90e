"""Rows of a store of tables as inputs and targets: gaps filled in, numbers standardised, categories one-hot."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.data.errors import DataError
from tasks.data.tables.convert import Numbers, numbers, texts
from tasks.data.tables.manifest import Column, Columns
from tasks.data.tables.read import Batch

Standardise = Literal["train", "support", "none"]
SMALL = 0.01  # a deviation below this share of the training groups' one says nothing about the scale


@dataclass(frozen=True)
class Scale:
    """Mean and deviation by which numbers are standardised: (value - mean) / deviation, float64 [C] each."""

    mean: Numbers
    deviation: Numbers

    def of(self, values: Numbers) -> Numbers:
        """Returns standardised values, float64 [n, C]."""
        return (values - self.mean) / self.deviation

    def back(self, values: Numbers) -> Numbers:
        """Returns values in their own units; the inverse of :meth:`of`, for any leading dimensions."""
        return values * self.deviation + self.mean


class Encoder:
    """Encodes the rows of a store; everything that it knows of the data is from the training groups or the support."""

    def __init__(self, manifest: Columns, standardise: Standardise) -> None:
        """Reads the columns.

        Args:
            manifest: of the store, or its columns alone.
            standardise: ``train``: by mean and deviation of the training groups' rows; ``support``: by those of the
                task's own support rows; ``none``: not at all.
        """
        self.manifest = manifest
        self.standardise = standardise
        columns = (*manifest.inputs, *manifest.targets)
        self._is_number = np.array([column.kind == "number" for column in columns])
        self._training = Scale(
            np.array([column.mean for column in columns]), np.array([column.deviation for column in columns])
        )

    @property
    def width(self) -> int:
        """Numbers of an encoded input row."""
        return sum(map(_width, self.manifest.inputs))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each number of an encoded input row: of a column, ``COLUMN missing``, or ``COLUMN=CATEGORY``."""
        names: list[str] = []
        for column in self.manifest.inputs:
            if column.kind == "number":
                names += [column.name, *([f"{column.name} missing"] if column.missing else [])]
            else:
                names += [f"{column.name}={category}" for category in column.categories]
        return tuple(names)

    def rows(self, columns: Mapping[str, Sequence[Any]]) -> Numbers:
        """Returns rows of the user's own as a store holds them, float64 [n, C].

        Args:
            columns: values by column, n of each: numbers, or categories as text or integers; ``None`` where there is no
                value. Targets that are left out are missing.

        Raises:
            DataError: if an input is left out, columns differ in length, or a value is no number.
        """
        described = (*self.manifest.inputs, *self.manifest.targets)
        for column in self.manifest.inputs:
            if column.name not in columns:
                raise DataError(f"expected a column '{column.name}', received {', '.join(columns)}; add it")
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) > 1:
            raise DataError(f"expected columns of one length, received {sizes}")
        batch = Batch(Path("rows"), 1, {name: pa.array(values) for name, values in columns.items()})
        absent = np.full(next(iter(sizes.values())), np.nan)
        return np.column_stack([_stored(batch, one) if one.name in columns else absent for one in described])

    def scale(self, support: Numbers) -> Scale:
        """Returns what a task is standardised by.

        Args:
            support: its support rows as they are stored, float64 [S, C].
        """
        if self.standardise == "train":
            return self._training
        neutral = Scale(np.zeros(len(self._is_number)), np.ones(len(self._is_number)))
        if self.standardise == "none":
            return neutral
        filled = self._filled(support)
        deviation = filled.std(axis=0)
        informative = deviation >= SMALL * self._training.deviation
        return Scale(
            np.where(self._is_number, filled.mean(axis=0), 0.0),
            np.where(self._is_number, np.where(informative, deviation, self._training.deviation), 1.0),
        )

    def inputs(self, values: Numbers, scale: Scale) -> Numbers:
        """Returns encoded inputs, float64 [n, width].

        Args:
            values: rows as they are stored, float64 [n, C]; targets may be missing.
            scale: of the task.
        """
        standardised = scale.of(self._filled(values))
        blocks = [
            _encoded(column, values[:, position], standardised[:, position])
            for position, column in enumerate(self.manifest.inputs)
        ]
        return np.concatenate(blocks, axis=1)

    def targets(self, values: Numbers, scale: Scale) -> Numbers | NDArray[np.int64]:
        """Returns targets, float64 [n, outputs], or class numbers, int64 [n].

        Args:
            values: rows as they are stored, float64 [n, C].
            scale: of the task.
        """
        first = len(self.manifest.inputs)
        if self.manifest.classifies:
            return values[:, first].astype(np.int64)
        return scale.of(values)[:, first:]

    def in_units(self, outputs: Numbers, scale: Scale) -> Numbers:
        """Returns predicted targets in the units of the table, float64 [..., outputs].

        Args:
            outputs: a model's outputs.
            scale: of the task.
        """
        first = len(self.manifest.inputs)
        return Scale(scale.mean[first:], scale.deviation[first:]).back(outputs)

    def task(
        self, support: Mapping[str, Sequence[Any]], query: Mapping[str, Sequence[Any]]
    ) -> tuple[dict[str, NDArray[Any]], Scale]:
        """Returns a task of the user's own rows as registered models and servers take it, T = 1, and its scale.

        Args:
            support: values by column, targets too, S of each.
            query: values by column, Q of each.

        Returns:
            ``support_inputs`` [1, S, width], ``support_targets`` [1, S, outputs] or [1, S], ``query_inputs``
            [1, Q, width]; and what numbers were standardised by.

        Raises:
            DataError: if a column is left out, a value cannot be used, or a support row has no target.
        """
        rows = self.rows(support)
        scale = self.scale(rows)
        targets = rows[:, len(self.manifest.inputs) :]
        unusable = np.isnan(targets) | (targets < 0) & self.manifest.classifies
        if unusable.any():
            row = int(unusable.any(axis=1).argmax()) + 1
            raise DataError(
                f"expected a target that training has in every support row, row {row} has none; add it, or leave the "
                "row out"
            )
        arrays = {
            "support_inputs": self.inputs(rows, scale),
            "support_targets": self.targets(rows, scale),
            "query_inputs": self.inputs(self.rows(query), scale),
        }
        return {name: array[None] for name, array in arrays.items()}, scale

    def _filled(self, values: Numbers) -> Numbers:
        """Values with the training groups' mean where a number is missing."""
        return np.where(np.isnan(values) & self._is_number, self._training.mean, values)


def _stored(batch: Batch, column: Column) -> Numbers:
    """One column of rows as a store holds it, float64 [n]."""
    if column.kind == "number":
        return numbers(batch, column.name)
    positions, distinct = texts(batch, column.name)
    order = {category: float(number) for number, category in enumerate(column.categories)}
    codes = [math.nan if category is None else order.get(category, -1.0) for category in distinct]
    return np.array(codes, dtype=np.float64)[positions]


def _width(column: Column) -> int:
    return len(column.categories) if column.kind == "category" else 1 + bool(column.missing)


def _encoded(column: Column, stored: Numbers, standardised: Numbers) -> Numbers:
    """One column as numbers, [n, its width]."""
    if column.kind == "category":
        return np.equal(stored[:, None], np.arange(len(column.categories))).astype(np.float64)
    if column.missing:
        return np.stack([standardised, np.isnan(stored).astype(np.float64)], axis=1)
    return standardised[:, None]
