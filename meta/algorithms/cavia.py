"""CAVIA: adapt a few context parameters, not the network."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from meta.algorithms.maml import MAML
from meta.episode import Examples
from meta.inner import EVERY, EXCEPT
from meta.inputs import Inputs, Shape, one_shape, one_tensor
from meta.params import Params

CONTEXT = "context"


@dataclass(frozen=True, kw_only=True)
class CAVIA(MAML):
    """Fast context adaptation (Zintgraf et al. 2019, eq. 3 and 4): θ is shared, φ adapted from 0 for each task.

    φ is appended to every input. It takes the inner steps; θ moves in the outer loop alone.

    Attributes:
        size: numbers of context parameters.
    """

    size: int = 5

    def __post_init__(self) -> None:
        """Let the inner loop move the context alone.

        Raises:
            ValueError: if there is no context parameter, or the inner loop names parameters to adapt.
        """
        if self.size < 1:
            raise ValueError(f"size: expected 1 or more context parameters, received {self.size}")
        chosen = [pattern for pattern in self.inner.adapt if not pattern.startswith(EXCEPT)]
        if chosen not in ([*EVERY], [CONTEXT]):
            raise ValueError(
                f"inner.adapt: expected none beside algorithm cavia, whose context alone is adapted, received {chosen}"
            )
        object.__setattr__(self, "inner", replace(self.inner, adapt=(CONTEXT,)))

    @classmethod
    def sizes(cls, inputs: Shape, outputs: int, description: int, **keys: Any) -> tuple[Shape, int]:
        """Returns the shape of vector inputs with the context appended, [I + C], and the outputs as they are.

        Raises:
            ValueError: if inputs are not vectors.
        """
        del description
        shape = one_shape(inputs, "algorithm cavia")
        if len(shape) != 1:
            raise ValueError(f"algorithm cavia: expected a family of vector inputs, received inputs of shape {shape}")
        return (shape[0] + int(keys.get("size", cls.size)),), outputs

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the model's initial parameters; the context is no part of θ."""
        params = self.inner.init({**self.model.init(generator, dtype), CONTEXT: torch.zeros(self.size, dtype=dtype)})
        return {name: value for name, value in params.items() if name != CONTEXT}

    def start(self, params: Params, support: Examples) -> Params:
        """Returns θ with a context of zeros."""
        del support
        return {**params, CONTEXT: next(iter(params.values())).new_zeros(self.size)}

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """Returns the objective's loss on ``examples`` under the context, a scalar."""
        return self.objective.loss(self.outputs(params, examples.inputs, examples), examples.targets)

    def outputs(self, params: Params, inputs: Inputs, support: Examples) -> Tensor:
        """Returns the model's outputs [B, ...] for inputs [B, I] with the context appended."""
        shared = {name: value for name, value in params.items() if name != CONTEXT}
        vectors = one_tensor(inputs, "algorithm cavia")
        context = params[CONTEXT].expand(len(vectors), -1)
        return super().outputs(shared, torch.cat([vectors, context], dim=1), support)
