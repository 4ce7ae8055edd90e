"""From the name of a model and the files of a task to predictions, and to weights that are the task's own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cluster.adapt import saved, written
from cluster.adapt.read import read_task
from cluster.adapt.task import Sources
from cluster.errors import ConfigError, MetarayError
from cluster.registry.adapting import Adaptable, require_finite
from cluster.registry.models import AdaptableModel
from meta.engine.arithmetic import fix_arithmetic


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Predictions for a task.

    Attributes:
        predictions: as a registered model and the server answer them, [T, Q, …].
        rows: the same by name, in the units of the task's table.
        inner_steps: inner steps that were taken.
        inner_lr: α that they were taken with.
        notes: sentences about what was passed over.
    """

    predictions: NDArray[Any]
    rows: list[dict[str, Any]]
    inner_steps: int
    inner_lr: float
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray adapt --json`` prints, besides the files that it wrote."""
        return {
            "predictions": self.predictions.tolist(),
            "rows": self.rows,
            "inner_steps": self.inner_steps,
            "inner_lr": self.inner_lr,
        }

    def as_csv(self) -> str:
        """The rows as CSV."""
        return written.as_csv(self.rows)


def adapt(
    model: Adaptable,
    sources: Sources,
    *,
    inner_steps: int | None = None,
    inner_lr: float | None = None,
    out: Path | None = None,
    save: Path | None = None,
) -> Adaptation:
    """Adapt a model to the task in some files and predict for its queries.

    Args:
        model: as :func:`cluster.registry.opening.open_model` gives it.
        sources: the files.
        inner_steps: inner steps; by default those that the files ask for, else the model's own.
        inner_lr: α, likewise.
        out: file for the predictions, CSV or JSON.
        save: file for the adapted weights.

    Raises:
        ConfigError: if a file cannot be used, or the model cannot save weights of a task's own.
        MetarayError: if adaptation diverges. In each case nothing is written.
    """
    written.require_form(out)
    saved.require_form(save)
    fix_arithmetic(threads=1)  # as a server computes
    try:
        task = read_task(model, sources)
        steps = _first(inner_steps, task.inner_steps, model.inner_steps)
        lr = _first(inner_lr, task.inner_lr, model.inner_lr)
        arrays = model.check(task.arrays, steps, lr)
        weights = None if save is None else _weights(model, arrays, steps, lr)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    predictions = model.adapted(arrays, steps, lr)
    try:
        require_finite(predictions, lr)
    except ValueError as error:
        raise MetarayError(str(error)) from error
    rows = written.rows_of(model, task, predictions)
    if out is not None:
        written.write(out, rows, predictions)
    if save is not None and weights is not None and isinstance(model, AdaptableModel):
        saved.save(save, model, weights, model.queries(arrays))
    return Adaptation(predictions=predictions, rows=rows, inner_steps=steps, inner_lr=lr, notes=list(task.notes))


def _weights(model: Adaptable, arrays: dict[str, NDArray[Any]], steps: int, lr: float) -> Any:
    """The network's parameters adapted to the one task."""
    if not isinstance(model, AdaptableModel):
        raise ValueError("--save: expected a model of examples, received a policy; leave --save out")
    if (tasks := len(arrays["support_targets"])) != 1:
        raise ValueError(f"--save: expected one task, received {tasks}; save the weights of one task at a time")
    return model.parameters(arrays, steps, lr)


def _first(*values: Any) -> Any:
    """The first of some values that is given; the last always is."""
    return next(value for value in values if value is not None)
