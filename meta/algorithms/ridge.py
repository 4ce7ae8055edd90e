"""Ridge regression of each task on its own support: the baseline that any few-shot regression has to beat."""

from dataclasses import dataclass

import torch
from torch import Tensor

from meta.algorithms.without_steps import WithoutSteps
from meta.context import FIXED, Context
from meta.episode import Examples
from meta.inputs import Inputs, length, one_tensor
from meta.objectives import MeanSquaredError
from meta.params import Params

STRENGTH = "log10_ridge"


def ridge(support: Examples, inputs: Inputs, strength: Tensor) -> Tensor:
    """Returns the predictions of a ridge regression with an intercept (Hoerl and Kennard 1970), [B, O].

    With x̄, ȳ the support's means, X, Y its S rows less these means and λ the strength:
    ŷ = ȳ + (x - x̄) Xᵀ (X Xᵀ + λ S 1)⁻¹ Y, the minimum of |Y - X W|² / S + λ |W|².

    Args:
        support: inputs [S, …] and targets [S, O].
        inputs: [B, …].
        strength: λ, a scalar above 0.

    Raises:
        ValueError: if inputs are several tensors by name.
    """
    rows, queries = (one_tensor(one, "algorithm ridge").flatten(1) for one in (support.inputs, inputs))
    centre, level = rows.mean(dim=0), support.targets.mean(dim=0)
    rows, targets = rows - centre, support.targets - level
    kernel = rows @ rows.T + strength * len(rows) * torch.eye(len(rows), dtype=rows.dtype, device=rows.device)
    weights: Tensor = rows.T @ torch.linalg.solve(kernel, targets)
    return level + (queries - centre) @ weights


@dataclass(frozen=True)
class _Strength:
    """The model of :class:`Ridge`: its one parameter; what it predicts depends on the support."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the logarithm of λ, [1], zero."""
        del generator
        return {STRENGTH: torch.zeros(1, dtype=dtype)}

    def apply(self, params: Params, inputs: Inputs) -> Tensor:
        """Returns the prediction without a support, the training mean of standardised targets: zeros [B, 1]."""
        return params[STRENGTH].new_zeros(length(inputs), 1)


@dataclass(frozen=True, kw_only=True)
class Ridge(WithoutSteps):
    """Linear regression of each task on its own support, with the strength λ of its penalty learned on training tasks.

    θ is log₁₀ λ alone, in the place of the configuration's network. It takes no inner steps: its score is the same at
    every number of them.
    """

    def __post_init__(self) -> None:
        """Leave the network out.

        Raises:
            ValueError: if the objective is another than the mean squared error.
        """
        if not isinstance(self.objective, MeanSquaredError):
            raise ValueError(
                f"algorithm ridge expects tasks of regression (objective mse), received "
                f"{type(self.objective).__name__}; leave it out of eval.baselines"
            )
        object.__setattr__(self, "model", _Strength())

    def predict(
        self, params: Params, support: Examples, inputs: Inputs, steps: int, context: Context = FIXED
    ) -> Tensor:
        """Returns predictions [B, O]; ``steps`` is not used."""
        del steps, context
        return ridge(support, inputs, 10 ** params[STRENGTH][0])
