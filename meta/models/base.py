"""The interface of a model."""

from typing import Any, Protocol

import torch
from torch import Tensor

from meta.params import Params


class Model(Protocol):
    """A network without state: its parameters are an argument of every call."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns fresh parameters, drawn from ``generator`` alone.

        Args:
            generator: CPU generator; no other source of randomness may be used.
            dtype: floating-point type of the parameters.
        """
        ...

    def apply(self, params: Params, inputs: Any) -> Tensor:
        """Returns outputs [B, ...]; has no side effects.

        Args:
            params: parameters with the names and shapes that ``init`` returns.
            inputs: [B, ...], real numbers of the parameters' dtype or int64; a dictionary of several such tensors
                where the family's spec names its inputs.
        """
        ...
