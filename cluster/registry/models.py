"""Adapting a registered model to tasks by labelled examples of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._pytree import tree_map

from cluster.registry.adapting import (
    Adaptable,
    InnerLoop,
    Run,
    lost_as_nan,
    require_shapes,
    require_step,
    vectorised,
    without_recomputation,
)
from cluster.registry.fields import Arrays, Field, ImageFiles, checked
from cluster.registry.package import Package
from cluster.setups.base import DTYPES
from cluster.setups.episodes import build_algorithm
from meta.algorithms import MAML, Algorithm, WithoutSteps, context_of
from meta.context import Context
from meta.episode import Examples
from meta.inner import LEARNED, SGD, LearnedSGD
from meta.inputs import Inputs, each, of_parts
from meta.params import Params
from tasks.inputs import InputSpec

NUMBER = "number/"  # marks the numbers of the context beside θ


class AdaptableModel(Adaptable):
    """A model of examples: values for regression, probabilities of the classes for classification.

    Attributes:
        objective: of the run; it says what predictions are.
        table: encodes rows of the user's own, if the run drew from a table.
        classes: N, or None where targets are numbers.
        network: the model alone, without the method.
        names: of the network's inputs in sorted order; empty where they are one tensor. Each is a field of its own,
            ``support_NAME`` and ``query_NAME``.
    """

    def __init__(self, package: Package) -> None:
        """Build model and algorithm."""
        config, spec = package.config, package.spec
        self._package = package
        self.inner_steps, self.inner_lr = config.select_steps, config.inner.lr
        self._algorithm = build_algorithm(without_recomputation(config), spec)
        self.objective = self._algorithm.objective
        self.table, self.network = package.table, self._algorithm.model
        self.classes = spec.outputs if self.objective.targets == "classes" else None
        self.learned_steps = any(name.startswith(f"{LEARNED}lr/") for name in package.params)
        require_shapes(package, self._algorithm.init(torch.Generator(), DTYPES[config.dtype]))
        self.names = tuple(sorted(spec.inputs))
        kinds = [_taken(spec.tensors[name]) for name in self.names or ("",)]
        if package.pixels:
            channels, height, width = spec.input_shape
            kinds = [("uint8", (height, width, channels))]
            self.images = ImageFiles(("support_inputs", "query_inputs"), (height, width, channels), package.inverted)
        self._support, self._query = (
            [
                Field(f"{half}_{name}", dtype, ("T", letter, *shape))
                for name, (dtype, shape) in zip(self.names or ("inputs",), kinds, strict=True)
            ]
            for half, letter in (("support", "S"), ("query", "Q"))
        )
        labels = Field("support_targets", "int64", ("T", "S"))
        values = Field("support_targets", "float64", ("T", "S", spec.outputs))
        self.inputs = (*self._support, values if self.classes is None else labels, *self._query)
        self.output = Field("predictions", config.dtype, ("T", "Q", self.objective.width(spec.outputs)))

    def check(self, given: Arrays, inner_steps: int, inner_lr: float) -> dict[str, NDArray[Any]]:
        """The checked arrays of a call.

        Args:
            given: arrays by the names of ``inputs``.
            inner_steps: inner steps of the call.
            inner_lr: α of the call.
        """
        require_step(inner_steps, inner_lr)
        if self.learned_steps and inner_lr != self.inner_lr:
            raise ValueError(
                f"inner_lr: expected none, or the {self.inner_lr:g} of the configuration, for a model that has learned "
                f"its step sizes, received {inner_lr:g}"
            )
        arrays = checked(self.inputs, given)
        targets = arrays["support_targets"]
        if self.classes is None:
            self.objective.check(torch.from_numpy(targets))
        elif not ((targets >= 0) & (targets < self.classes)).all():
            raise ValueError(f"support_targets: expected classes from 0 to {self.classes - 1}, received {targets}")
        for half in (self._support, self._query):
            for field, name in zip(half, self.names or ("",), strict=True):
                _require_symbols(field.name, arrays[field.name], self._package.spec.tensors[name].vocabulary)
        return arrays

    def adapted(self, arrays: Arrays, inner_steps: int, inner_lr: float, run: Run | None = None) -> NDArray[Any]:
        """Values or probabilities [T, Q, …] for the queries after ``inner_steps`` inner steps on the support.

        Args:
            arrays: as :meth:`check` gives them, of T tasks.
            inner_steps: inner steps.
            inner_lr: α.
            run: computes a function for every task; vectorised by default.
        """
        dtype, algorithm = DTYPES[self._package.config.dtype], self._algorithm
        numbers = self._numbers(inner_lr, dtype)
        params = {**self._package.params, **numbers}

        def predicted(params: Params, task: tuple[Examples, Inputs], steps: int = 0) -> Tensor:
            support, queries = task
            theta, context = _apart(params)
            return algorithm.predict(theta, support, queries, steps, context)

        tasks = self._task(arrays)
        run = run or vectorised(self._package.config.shard_size)
        with torch.no_grad():
            if step := _inner_step(algorithm):
                outputs = run.adapt("adapt", InnerLoop(step, predicted), params, tasks, inner_steps)
            else:
                whole = partial(predicted, steps=inner_steps)
                outputs = run(inner_steps, whole, params, tasks)
            return lost_as_nan(self.objective.predictions(outputs), outputs)

    def parameters(self, arrays: Arrays, inner_steps: int, inner_lr: float) -> Params:
        """The network's parameters adapted to one task, by name.

        Args:
            arrays: as :meth:`check` gives them, of one task.
            inner_steps: inner steps.
            inner_lr: α.

        Raises:
            ValueError: if the method's predictions are not those of the network with parameters of the task's own.
        """
        dtype = DTYPES[self._package.config.dtype]
        support, queries = (tree_map(lambda leaf: leaf[0], part) for part in self._task(arrays))
        with torch.no_grad():
            predicted = self._algorithm.predict(
                self._package.params, support, queries, inner_steps, self._context(inner_lr, dtype)
            )
            own = self._path_end(support, inner_steps, self._context(inner_lr, dtype))
            fits = own is not None and bool(torch.isclose(self.network.apply(own, queries), predicted).all())
        if own is None or not fits:
            raise ValueError(
                f"expected a method whose predictions are the network's with parameters adapted to the task, "
                f"{self._package.config.algorithm.name} needs the support examples or more than the network's "
                "parameters to predict; leave --save out"
            )
        return own

    def queries(self, arrays: Arrays) -> Inputs:
        """Query inputs of the first task as the network takes them, [Q, …], or several by name.

        Args:
            arrays: as :meth:`check` gives them.
        """
        return each(lambda leaf: leaf[0], self._task(arrays)[1])

    def _path_end(self, support: Examples, inner_steps: int, context: Context) -> Params | None:
        """The network's own parameters after the inner steps; None if the method has no such path."""
        if not isinstance(self._algorithm, MAML) or isinstance(self._algorithm, WithoutSteps):
            return None
        *_, (adapted, _) = self._algorithm.path(self._package.params, support, inner_steps, context)
        names = self.network.init(torch.Generator(), torch.float32)
        return {name: adapted[name] for name in names} if names.keys() <= adapted.keys() else None

    def _context(self, lr: float, dtype: torch.dtype) -> Context:
        return _apart(self._numbers(lr, dtype))[1]

    def _task(self, arrays: Arrays) -> tuple[Examples, Inputs]:
        """Support examples and query inputs of T tasks as the algorithm takes them."""
        dtype, targets = DTYPES[self._package.config.dtype], arrays["support_targets"]
        support, query = (
            of_parts([self._as_tensor(arrays[field.name], dtype) for field in half], self.names)
            for half in (self._support, self._query)
        )
        labels = torch.tensor(targets) if self.classes is not None else torch.tensor(targets, dtype=dtype)
        return Examples(support, labels), query

    def _numbers(self, lr: float, dtype: torch.dtype) -> Params:
        """The numbers of the context by name, marked, with α as the call has it."""
        numbers = dict(context_of(self._algorithm, None, dtype).numbers)
        if "lr" in numbers:
            numbers["lr"] = torch.tensor(lr, dtype=dtype)
        return {NUMBER + name: value for name, value in numbers.items()}

    def _as_tensor(self, array: NDArray[Any], dtype: torch.dtype) -> Tensor:
        """Inputs as the family gives them: pixels [T, B, H, W, C] become [T, B, C, H, W] in [0, 1], symbols stay."""
        if not self._package.pixels:
            return torch.tensor(array, dtype=dtype) if array.dtype.kind == "f" else torch.tensor(array)
        pixels = torch.tensor(np.moveaxis(array, -1, -3).copy(), dtype=torch.float32)
        return pixels.div_(255).to(dtype)


def _taken(spec: InputSpec) -> tuple[str, tuple[int, ...]]:
    """Type, as numpy calls it, and shape of one example of an input; real numbers are taken in double precision."""
    return "float64" if spec.dtype == "float" else spec.dtype, spec.shape


def _require_symbols(name: str, array: NDArray[Any], vocabulary: int) -> None:
    if vocabulary and not ((array >= 0) & (array < vocabulary)).all():
        raise ValueError(
            f"{name}: expected symbols from 0 to {vocabulary - 1}, received some from {array.min()} to {array.max()}"
        )


def _apart(params: Params) -> tuple[Params, Context]:
    """θ, and the context that travels with it."""
    numbers = {name.removeprefix(NUMBER): value for name, value in params.items() if name.startswith(NUMBER)}
    return {name: value for name, value in params.items() if not name.startswith(NUMBER)}, Context(numbers)


def _inner_step(algorithm: Algorithm) -> Callable[[Params, Examples], Params] | None:
    """One inner step of an algorithm, if its steps are all alike; any other predicts in one go.

    They are where the algorithm predicts as MAML does, and its rule needs parameters and gradient alone.
    """
    if not isinstance(algorithm, MAML):
        return None
    own = any(getattr(type(algorithm), name) is not getattr(MAML, name) for name in ("predict", "path", "start"))
    inner = algorithm.inner
    if own or type(inner.rule) not in (SGD, LearnedSGD) or inner.rule.per_step or inner.derivative.strength:
        return None

    def step(params: Params, support: Examples) -> Params:
        theta, context = _apart(params)
        *_, (moved, _) = algorithm.path(theta, support, 1, context)
        return {**params, **moved}

    return step
