"""R2-D2: ridge regression on learned features in the place of inner steps."""

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from meta.algorithms.heads import features, head_width, one_hot, without_head
from meta.algorithms.maml import batch_norm_of
from meta.algorithms.without_steps import WithoutSteps
from meta.context import FIXED, Context
from meta.episode import Examples
from meta.inputs import Inputs
from meta.params import Params

LOGS = {"log_ridge": 0.0, "log_scale": 0.0}


@dataclass(frozen=True, kw_only=True)
class RidgeHead(WithoutSteps):
    """Ridge regression differentiable discriminator (R2-D2, Bertinetto et al. 2019, eq. 4 to 6).

    The head of a task is the solution W = Φᵀ (Φ Φᵀ + λ I)⁻¹ Y with features Φ [S, F] of the support and targets Y,
    one-hot for classes; its outputs are a · Φ W + b. λ, a and b are learned, λ and a by their logarithms.

    Attributes:
        classes: N, given by families whose tasks have classes; others need none.
        head: name of the linear layer that the model ends in; the features are what it is given.
        width: number of features F.
    """

    classes: int = 0
    head: str = "head"
    width: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the number of features."""
        object.__setattr__(self, "width", head_width(self.model, self.head))

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the parameters below the head, and ``ridge/…``: log λ = 0, log a = 0, b = 0."""
        params = self.model.init(generator, dtype)
        own = {f"ridge/{name}": torch.tensor(value, dtype=dtype) for name, value in LOGS.items()}
        return {**without_head(params, self.head), **own, "ridge/bias": torch.zeros((), dtype=dtype)}

    def predict(
        self, params: Params, support: Examples, inputs: Inputs, steps: int, context: Context = FIXED
    ) -> Tensor:
        """Returns a · Φ W + b for each input, [B, N]; ``steps`` is ignored."""
        del steps, context
        below = {name: value for name, value in params.items() if not name.startswith("ridge/")}
        targets, example = support.targets, params["ridge/bias"]
        if self.objective.targets == "classes":
            targets = one_hot(targets, self.classes, example.dtype)
        embedded = partial(features, self.model, below, head=self.head, size=self.width)
        normal = support.inputs if batch_norm_of(self.model) == "inductive" else None
        seen, asked = embedded(support.inputs), embedded(inputs, context=normal)
        eye = torch.eye(len(seen), dtype=example.dtype, device=example.device)
        weights = torch.linalg.solve(seen @ seen.t() + params["ridge/log_ridge"].exp() * eye, targets)
        outputs: Tensor = params["ridge/log_scale"].exp() * (asked @ seen.t() @ weights) + params["ridge/bias"]
        return outputs
