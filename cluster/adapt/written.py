"""Predictions as rows with names, and as CSV or JSON."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.adapt.task import Task
from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable
from cluster.registry.models import AdaptableModel
from cluster.runs.storage import write_file

FORMS = (".csv", ".json")


def require_form(out: Path | None) -> None:
    """Check the ending of the file of predictions, before anything is computed.

    Raises:
        ConfigError: if it is another than those of :data:`FORMS`.
    """
    if out is not None and out.suffix.lower() not in FORMS:
        raise ConfigError(f"--out: expected a file that ends in {' or '.join(FORMS)}, received '{out}'")


def rows_of(model: Adaptable, task: Task, predictions: NDArray[Any]) -> list[dict[str, Any]]:
    """A row for each query: its task where there are several, its name or number, and what is predicted by name.

    Of classes that is the likeliest one, and the probability of each; of the targets of a table the values in the
    table's units.

    Args:
        model: that predicted.
        task: names queries and targets.
        predictions: [T, Q, …].
    """
    values = _in_units(model, task, predictions)
    names = _names(model, task, values[0, 0].size)
    rows = []
    for number, of_task in enumerate(values):
        for position, prediction in enumerate(of_task.reshape(len(of_task), -1)):
            query = task.queries[position] if task.queries else position + 1
            row: dict[str, Any] = {"task": number + 1} if len(values) > 1 else {}
            row["query"] = query
            if isinstance(model, AdaptableModel) and model.classes is not None:
                row["predicted"] = names[int(prediction.argmax())]
                row |= {f"probability {name}": float(p) for name, p in zip(names, prediction, strict=True)}
            else:
                row |= {name: float(value) for name, value in zip(names, prediction, strict=True)}
            rows.append(row)
    return rows


def _in_units(model: Adaptable, task: Task, predictions: NDArray[Any]) -> NDArray[Any]:
    if task.scale is None or not isinstance(model, AdaptableModel):
        return predictions
    count = len(task.targets)
    mean, deviation = (torch.from_numpy(part[-count:]) for part in (task.scale.mean, task.scale.deviation))
    return np.asarray(model.objective.in_units(torch.from_numpy(predictions).double(), mean, deviation))


def _names(model: Adaptable, task: Task, width: int) -> Sequence[str]:
    targets = list(task.targets)
    if isinstance(model, AdaptableModel):
        count = model.classes or int(next(one for one in model.inputs if one.name == "support_targets").shape[-1])
        targets = targets or [str(number) if model.classes else f"target {number}" for number in range(count)]
        names = model.objective.names(targets)
        if len(names) == width:
            return names
    return [f"output {number}" for number in range(width)]


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV with a header.

    Args:
        rows: at least one, all with the same names.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(out: Path, rows: Sequence[dict[str, Any]], predictions: NDArray[Any]) -> None:
    """Write the predictions whole or not at all: rows as CSV; or JSON, the rows beside the server's own answer.

    Args:
        out: the file.
        rows: of :func:`rows_of`.
        predictions: [T, Q, …].
    """
    if out.suffix.lower() == ".csv":
        write_file(out, as_csv(rows).encode())
        return
    content = {"predictions": predictions.tolist(), "rows": list(rows)}
    write_file(out, (json.dumps(content, allow_nan=False) + "\n").encode())
