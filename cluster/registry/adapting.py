"""The interface of served models: they adapt to tasks and predict, numpy arrays in, an array out.

Unless the caller brings programs, nothing is compiled, recorded or kept between calls, so that tasks and examples may
be of any number. The predictions are those that ``metaray evaluate`` scores, up to rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from cluster.config.schema import Config
from cluster.errors import CheckpointError
from cluster.registry.fields import Arrays, Field, ImageFiles
from cluster.registry.package import Package
from meta.params import Layout, Params


class Run(Protocol):
    """A way to compute a function of one task for every task of a batch."""

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        """``function(params, one task)`` for each of ``tasks``, outputs stacked.

        Args:
            what: tells functions apart that a program could be kept for.
            function: of tensors, the same for every task.
            params: what all tasks share.
            tasks: tensors [T, …], or tuples and dictionaries of them.
        """
        ...

    def adapt(self, what: Any, path: "InnerLoop", params: Params, tasks: Any, steps: int) -> Any:
        """Outputs [T, …] of each task's own parameters after ``steps`` inner steps from ``params``.

        Some tasks take all their steps before others begin, and nothing of a step is kept but the parameters.

        Args:
            what: tells functions apart that a program could be kept for.
            path: one inner step, and the outputs.
            params: θ, where all tasks start.
            tasks: pairs (support, queries) of tensors [T, …], or of tuples of them.
            steps: inner steps.
        """
        ...


class InnerLoop(NamedTuple):
    """Adaptation of one task, step by step.

    Attributes:
        step: (parameters, support) -> parameters after one inner step.
        outputs: (parameters, (support, queries)) -> outputs [Q, …].
    """

    step: Callable[[Params, Any], Params]
    outputs: Callable[[Params, Any], Tensor]


class _Vectorised:
    def __init__(self, chunk: int) -> None:
        self._chunk = chunk

    def __call__(self, what: Any, function: Callable[[Params, Any], Any], params: Params, tasks: Any) -> Any:
        del what
        return vmap(function, in_dims=(None, 0), chunk_size=self._chunk)(params, tasks)

    def adapt(self, what: Any, path: InnerLoop, params: Params, tasks: Any, steps: int) -> Any:
        del what
        parts = []
        for first in range(0, len(tree_leaves(tasks)[0]), self._chunk):
            part = tree_map(lambda leaf, at=first: leaf[at : at + self._chunk], tasks)
            own, dims = params, None
            for _ in range(steps):
                own, dims = vmap(path.step, in_dims=(dims, 0))(own, part[0]), 0
            parts.append(vmap(path.outputs, in_dims=(dims, 0))(own, part))
        return torch.cat(parts)


def vectorised(chunk: int) -> Run:
    """Vectorise over ``chunk`` tasks at a time, anew at every call."""
    return _Vectorised(chunk)


class Adaptable(Protocol):
    """A model that can be served: it adapts to tasks and predicts.

    Attributes:
        inputs: the arrays that a call takes.
        output: the array that it gives.
        inner_steps: inner steps unless a call says otherwise: those at which θ was selected.
        inner_lr: α unless a call says otherwise.
        learned_steps: whether step sizes were learned, so that a call may not set α.
        images: which inputs may be given as image files; None: none of them are images.
    """

    images: ImageFiles | None = None
    learned_steps: bool = False
    inputs: tuple[Field, ...]
    output: Field
    inner_steps: int
    inner_lr: float

    def check(self, given: Arrays, inner_steps: int, inner_lr: float) -> dict[str, NDArray[Any]]:
        """The arrays of a call, of the right types.

        Args:
            given: arrays by the names of ``inputs``.
            inner_steps: inner steps of the call.
            inner_lr: α of the call.

        Raises:
            ValueError: if an argument is out of range.
        """
        ...

    def adapted(self, arrays: Arrays, inner_steps: int, inner_lr: float, run: Run | None = None) -> NDArray[Any]:
        """Predictions [T, Q, …] from checked arrays; NaN throughout for a task whose adaptation diverged.

        Args:
            arrays: what :meth:`check` gave, of one call or of several stacked.
            inner_steps: inner steps.
            inner_lr: α.
            run: how it is computed; vectorised by default.
        """
        ...

    def predict(self, given: Arrays, inner_steps: int, inner_lr: float) -> NDArray[Any]:
        """Predictions [T, Q, …] for the queries after adaptation.

        Args:
            given: arrays by the names of ``inputs``.
            inner_steps: inner steps of the call.
            inner_lr: α of the call.

        Raises:
            ValueError: if an argument is out of range, or adaptation diverges.
        """
        predictions = self.adapted(self.check(given, inner_steps, inner_lr), inner_steps, inner_lr)
        require_finite(predictions, inner_lr)
        return predictions


def without_recomputation(config: Config) -> Config:
    """A configuration that computes nothing again, as its inner steps are not differentiated.

    Args:
        config: the run's configuration.
    """
    return config.model_copy(update={"inner": config.inner.model_copy(update={"recompute": False})})


def require_step(inner_steps: int, inner_lr: float) -> None:
    """Check the inner steps and α of a call.

    Args:
        inner_steps: expected to be 0 or more.
        inner_lr: α, expected to be finite and at least 0.

    Raises:
        ValueError: if the number of steps is negative, or α is negative or not finite.
    """
    if inner_steps < 0:
        raise ValueError(f"inner_steps: expected 0 or more, received {inner_steps}")
    if not 0 <= inner_lr < float("inf"):
        raise ValueError(f"inner_lr: expected a finite number of at least 0, received {inner_lr}")


def lost_as_nan(predictions: Tensor, outputs: Tensor) -> NDArray[Any]:
    """Predictions [T, …], NaN throughout for a task whose outputs [T, …] of the model are not finite.

    A probability may be finite where the outputs that it is made of are not.

    Args:
        predictions: [T, …].
        outputs: of the model, from which the predictions are computed, [T, …].
    """
    lost = ~torch.isfinite(outputs).flatten(1).all(dim=1)
    return torch.where(lost.view(-1, *[1] * (predictions.dim() - 1)), torch.nan, predictions).numpy()


def require_finite(predictions: NDArray[Any], inner_lr: float) -> None:
    """Check that predictions are finite.

    Args:
        predictions: [T, …].
        inner_lr: α of the call, for advice.

    Raises:
        ValueError: naming the tasks whose predictions are not finite.
    """
    lost = np.flatnonzero(~np.isfinite(predictions).reshape(len(predictions), -1).all(axis=1)).tolist()
    if lost:
        raise ValueError(
            f"expected finite predictions, adaptation diverged for tasks {lost}; lower inner_lr ({inner_lr:g}), take "
            "fewer inner_steps, or scale the inputs as in training"
        )


def require_shapes(package: Package, fresh: Params) -> None:
    """Check that θ has the names and shapes of the model that was built.

    Args:
        package: holds θ.
        fresh: initial parameters of the model that was built.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    if Layout.of(fresh) != Layout.of(package.params):
        raise CheckpointError(
            f"expected parameters {Layout.of(fresh)}, received {Layout.of(package.params)}; use the version of metaray "
            "that registered the model, and of your own classes"
        )
