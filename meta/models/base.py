"""What every model offers to the algorithms."""

from typing import Protocol

import torch
from torch import Tensor

from meta.params import Params


class Model(Protocol):
    """A network without state: parameters come in from outside at every call."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Fresh parameters, drawn from ``generator`` alone.

        Args:
            generator: CPU generator; no other source of randomness may be used.
            dtype: floating-point type of the parameters.
        """
        ...

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Outputs [B, ...] for inputs [B, ...] under ``params``; no side effects."""
        ...
