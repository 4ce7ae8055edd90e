"""What is served: adapting a model to tasks and predicting with what it became, numpy arrays in, an array out.

Nothing is compiled, recorded or kept between calls, so that tasks and examples may be of any number. The predictions
are those that ``metaray evaluate`` scores, up to rounding.
"""

from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor

from cluster.config import Config
from cluster.errors import CheckpointError
from cluster.registry.fields import Arrays, Field
from cluster.registry.package import Package
from meta.params import Layout, Params


class Adaptable(Protocol):
    """What is served.

    Attributes:
        inputs: the arrays that a call takes.
        output: the array that it gives.
        inner_steps: inner steps unless a call says otherwise: those at which θ was selected.
        inner_lr: α unless a call says otherwise.
    """

    inputs: tuple[Field, ...]
    output: Field
    inner_steps: int
    inner_lr: float

    def predict(self, given: Arrays, inner_steps: int, inner_lr: float) -> NDArray[Any]:
        """Outputs for the queries after adaptation.

        Raises:
            ValueError: if an argument is out of range, or adaptation diverges.
        """
        ...


def with_step_size(config: Config, lr: float) -> Config:
    """A configuration with another α, whose inner steps are not differentiated and hence kept as they come."""
    return config.model_copy(update={"inner": config.inner.model_copy(update={"lr": lr, "recompute": False})})


def require_step(inner_steps: int, inner_lr: float) -> None:
    """Check how far a call asks to go.

    Raises:
        ValueError: if it is no step at all.
    """
    if inner_steps < 0:
        raise ValueError(f"inner_steps: expected 0 or more, received {inner_steps}")
    if not 0 <= inner_lr < float("inf"):
        raise ValueError(f"inner_lr: expected a finite number of at least 0, received {inner_lr}")


def require_finite(outputs: Tensor, inner_lr: float) -> None:
    """Check the outputs [T, …].

    Raises:
        ValueError: naming the tasks whose outputs are not finite.
    """
    lost = (~torch.isfinite(outputs).flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if lost:
        raise ValueError(
            f"expected finite predictions, adaptation diverged for tasks {lost}; lower inner_lr ({inner_lr:g}), take "
            "fewer inner_steps, or scale the inputs as in training"
        )


def require_shapes(package: Package, fresh: Params) -> None:
    """Check that θ is of the model that was built.

    Raises:
        CheckpointError: if names or shapes differ.
    """
    if Layout.of(fresh) != Layout.of(package.params):
        raise CheckpointError(
            f"expected parameters {Layout.of(fresh)}, received {Layout.of(package.params)}; use the version of metaray "
            "that registered the model, and of your own classes"
        )
