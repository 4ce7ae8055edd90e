"""Adapting a registered model to tasks by labelled examples of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.registry.adapting import (
    Adaptable,
    InnerLoop,
    Run,
    lost_as_nan,
    require_shapes,
    require_step,
    vectorised,
    with_step_size,
)
from cluster.registry.fields import Arrays, Field, ImageFiles, checked
from cluster.registry.package import Package
from cluster.setups.base import DTYPES
from cluster.setups.episodes import build_algorithm
from meta.algorithms import MAML, Algorithm
from meta.episode import Episode, Examples
from meta.params import Params


class AdaptableModel(Adaptable):
    """A model of examples: values for regression, probabilities of the classes for classification."""

    def __init__(self, package: Package) -> None:
        """Build model and algorithm."""
        config, spec = package.config, package.spec
        self._package, self._classes = package, spec.outputs if spec.objective == "cross_entropy" else None
        self.inner_steps, self.inner_lr = config.select_steps, config.inner.lr
        self._model = build_algorithm(config, spec).model  # built once: only α differs between calls
        require_shapes(package, self._algorithm(self.inner_lr).init(torch.Generator(), DTYPES[config.dtype]))
        shape, reals = spec.input_shape, "float64"
        if package.pixels:
            channels, height, width = shape
            shape, reals = (height, width, channels), "uint8"
            self.images = ImageFiles(("support_inputs", "query_inputs"), (height, width, channels), package.inverted)
        labels = Field("support_targets", "int64", ("T", "S"))
        values = Field("support_targets", "float64", ("T", "S", spec.outputs))
        self.inputs = (
            Field("support_inputs", reals, ("T", "S", *shape)),
            values if self._classes is None else labels,
            Field("query_inputs", reals, ("T", "Q", *shape)),
        )
        self.output = Field("predictions", config.dtype, ("T", "Q", spec.outputs))

    def check(self, given: Arrays, inner_steps: int, inner_lr: float) -> dict[str, NDArray[Any]]:
        """The checked arrays of a call.

        Args:
            given: arrays by the names of ``inputs``.
            inner_steps: inner steps of the call.
            inner_lr: α of the call.
        """
        require_step(inner_steps, inner_lr)
        arrays = checked(self.inputs, given)
        targets = arrays["support_targets"]
        if self._classes is not None and not ((targets >= 0) & (targets < self._classes)).all():
            raise ValueError(f"support_targets: expected classes from 0 to {self._classes - 1}, received {targets}")
        return arrays

    def adapted(self, arrays: Arrays, inner_steps: int, inner_lr: float, run: Run | None = None) -> NDArray[Any]:
        """Values or probabilities [T, Q, …] for the queries after ``inner_steps`` inner steps on the support.

        Args:
            arrays: as :meth:`check` gives them, of T tasks.
            inner_steps: inner steps.
            inner_lr: α.
            run: computes a function for every task; vectorised by default.
        """
        support_inputs, targets, query_inputs = (arrays[field.name] for field in self.inputs)
        dtype, params = DTYPES[self._package.config.dtype], self._package.params
        algorithm = self._algorithm(inner_lr)

        def predicted(params: Params, task: tuple[Examples, Tensor], steps: int = 0) -> Tensor:
            # The queries' targets are what is asked for; adapting reads the support alone.
            support, queries = task
            blank = queries.new_zeros(len(queries))
            episode = Episode(support, Examples(queries, blank), queries.new_zeros(0))
            return algorithm.predict(params, episode, queries, steps)

        support = Examples(
            self._as_tensor(support_inputs, dtype),
            torch.tensor(targets) if self._classes is not None else torch.tensor(targets, dtype=dtype),
        )
        run = run or vectorised(self._package.config.shard_size)
        with torch.no_grad():
            tasks = (support, self._as_tensor(query_inputs, dtype))
            if step := _inner_step(algorithm):
                outputs = run.adapt(inner_lr, InnerLoop(step, predicted), params, tasks, inner_steps)
            else:
                whole = partial(predicted, steps=inner_steps)
                outputs = run((inner_steps, inner_lr), whole, params, tasks)
            return lost_as_nan(outputs if self._classes is None else torch.softmax(outputs, dim=-1), outputs)

    def _algorithm(self, lr: float) -> Algorithm:
        return build_algorithm(with_step_size(self._package.config, lr), self._package.spec, self._model)

    def _as_tensor(self, array: NDArray[Any], dtype: torch.dtype) -> Tensor:
        """Inputs as the family gives them: pixels [T, B, H, W, C] become [T, B, C, H, W] in [0, 1]."""
        if not self._package.pixels:
            return torch.tensor(array, dtype=dtype)
        pixels = torch.tensor(np.moveaxis(array, -1, -3).copy(), dtype=torch.float32)
        return pixels.div_(255).to(dtype)


def _inner_step(algorithm: Algorithm) -> Callable[[Params, Examples], Params] | None:
    """One inner step of an algorithm, if its predictions are those of MAML; any other predicts in one go."""
    if isinstance(algorithm, MAML) and vars(MAML)["predict"] is getattr(type(algorithm), "predict", None):
        return algorithm.step
    return None
