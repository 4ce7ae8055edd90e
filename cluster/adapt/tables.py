"""Tasks as tables: rows to adapt on in one file, rows to predict for in another, both CSV or Parquet."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.adapt.task import Sources, Task
from cluster.errors import ConfigError
from cluster.registry.models import AdaptableModel
from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.tables.convert import Numbers, numbers, texts
from tasks.data.tables.encode import Encoder
from tasks.data.tables.read import CSV, PARQUET, Batch, TableFile

Columns = Mapping[str, Any]  # Arrow arrays by name


def table_task(model: AdaptableModel, sources: Sources, query: Path) -> Task:
    """The task in two tables.

    A model that was trained on a table knows its columns, what they are standardised by, and its labels. For any other
    ``sources`` names them: as many input columns as an input has numbers, taken as they are.

    Args:
        model: what is adapted to it.
        sources: the support table, and the columns' names.
        query: the query table.

    Raises:
        ConfigError: if the model takes no tables, or knows its columns while some are named, or the other way round.
        DataError: if a column is missing, or a value is none that the model takes.
    """
    if model.images:
        raise ConfigError(
            "--support: expected a folder of class folders, the model's inputs are images; received "
            f"'{sources.support}'"
        )
    if model.table is None:
        return _as_named(model, sources, query)
    if sources.inputs or sources.targets:
        raise ConfigError(
            "--inputs, --targets: expected none for a model that was trained on a table, whose columns it knows; leave "
            "them out"
        )
    return _as_trained(model.table, sources.support, query)


def _as_trained(encoder: Encoder, support: Path, query: Path) -> Task:
    inputs = [column.name for column in encoder.manifest.inputs]
    targets = [column.name for column in encoder.manifest.targets]
    rows, to_adapt_on = _columns(support, (*inputs, *targets))
    more, asked = _columns(query, inputs)
    for path, columns in ((support, to_adapt_on), (query, asked)):
        try:
            encoder.rows(columns)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    arrays, scale = encoder.task(to_adapt_on, asked)
    classes = encoder.manifest.targets[0].categories
    return Task(arrays=arrays, targets=classes or targets, scale=None if classes else scale, notes=[*rows, *more])


def _as_named(model: AdaptableModel, sources: Sources, query: Path) -> Task:
    if model.names:
        raise ConfigError(
            f"--support: expected arrays (.json, .npz) for a model of several inputs ({', '.join(model.names)}), "
            f"received the table '{sources.support}'"
        )
    field, goal, _ = model.inputs
    shape = [size for size in field.shape[2:] if isinstance(size, int)]
    if not sources.inputs or not sources.targets:
        raise ConfigError(
            "--inputs, --targets: expected the names of columns, as the model was not trained on a table and knows "
            "none; add --inputs A,B --targets Y"
        )
    if len(sources.inputs) != math.prod(shape):
        raise ConfigError(
            f"--inputs: expected {math.prod(shape)} columns, the numbers of one input {shape}, received "
            f"{len(sources.inputs)}: {', '.join(sources.inputs)}"
        )
    wanted = 1 if model.classes is not None else int(goal.shape[2])
    if len(sources.targets) != wanted:
        raise ConfigError(f"--targets: expected {wanted} columns, received {len(sources.targets)}")
    notes, support = _columns(sources.support, (*sources.inputs, *sources.targets))
    more, asked = _columns(query, sources.inputs)
    arrays: dict[str, NDArray[Any]] = {
        "support_inputs": _stacked(sources.support, support, sources.inputs).reshape(1, -1, *shape),
        "query_inputs": _stacked(query, asked, sources.inputs).reshape(1, -1, *shape),
    }
    names: Sequence[str] = sources.targets
    if model.classes is None:
        arrays["support_targets"] = _stacked(sources.support, support, sources.targets)[None]
    else:
        labels, names = _labels(sources.support, support, sources.targets[0], model.classes)
        arrays["support_targets"] = labels[None]
    return Task(arrays=arrays, targets=names, notes=[*notes, *more])


def _columns(path: Path, names: Sequence[str]) -> tuple[list[str], Columns]:
    """The columns of a table by name, each one Arrow array; and a sentence about those that are not used."""
    if not path.is_file() or not path.name.lower().endswith((*CSV, *PARQUET)):
        raise ConfigError(f"expected a table ({', '.join((*CSV, *PARQUET))}), received '{path}'")
    file = TableFile(path, Limits())
    if missing := [name for name in names if name not in file.names]:
        raise DataError(
            f"{path}: expected columns {', '.join(names)}, received {', '.join(file.names)}; add {', '.join(missing)}"
        )
    batches = list(file.batches(list(names)))
    if not any(len(batch.columns[names[0]]) for batch in batches):
        raise DataError(f"{path}: expected at least one row, received none")
    columns = {name: pa.chunked_array([batch.columns[name] for batch in batches]).combine_chunks() for name in names}
    unused = [name for name in file.names if name not in names]
    return [f"{path}: columns that the model does not take: {', '.join(unused)}"] if unused else [], columns


def _stacked(path: Path, columns: Columns, names: Sequence[str]) -> Numbers:
    """Columns of numbers side by side, float64 [n, names]."""
    batch = Batch(path, 1, dict(columns))
    values = np.column_stack([numbers(batch, name) for name in names])
    if np.isnan(values).any():
        row, column = np.argwhere(np.isnan(values))[0]
        raise DataError(
            f"{batch.row(int(row))}, column '{names[int(column)]}': expected a number, received none; fill it in, or "
            "leave the row out"
        )
    return values


def _labels(path: Path, columns: Columns, name: str, classes: int) -> tuple[NDArray[np.int64], list[str]]:
    """Class numbers of a column of labels, int64 [n], and the labels in the order of their numbers."""
    batch = Batch(path, 1, dict(columns))
    positions, distinct = texts(batch, name)
    present = sorted({distinct[position] or "" for position in positions.tolist()}, key=_by_number)
    if "" in present:
        row = next(at for at, position in enumerate(positions.tolist()) if not distinct[position])
        raise DataError(f"{batch.row(row)}, column '{name}': expected a label in every row, received none; add it")
    if len(present) != classes:
        raise DataError(
            f"{path}, column '{name}': expected {classes} different labels, as many as the model has classes, received "
            f"{len(present)}: {', '.join(present[:10])}"
        )
    order = {label: number for number, label in enumerate(present)}
    return np.array([order[distinct[position] or ""] for position in positions.tolist()], dtype=np.int64), present


def _by_number(label: str) -> tuple[float, str]:
    """Sorts labels that are whole numbers by their values, before all others."""
    return (float(label), "") if label.lstrip("-").isdecimal() else (math.inf, label)
