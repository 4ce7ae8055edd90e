"""Numbers that vary between outer steps without being learned: the step size α, weights that are annealed.

They are inputs of recorded and compiled programs, so that another α, or the next weight of a schedule, costs no new
program.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """The scheduled numbers under which a meta-loss, scores or predictions are computed.

    Attributes:
        numbers: scalars, or vectors, of θ's dtype by name. A name that is missing has the value that the algorithm was
            constructed with.
        stage: what else may change with the outer step and makes another program, such as the order of the derivative.
    """

    numbers: Mapping[str, Tensor] = field(default_factory=dict)
    stage: str = ""

    @property
    def key(self) -> Hashable:
        """Part of a program's key: programs of one function differ where it differs."""
        return self.stage, tuple((name, tuple(value.shape)) for name, value in self.numbers.items())

    def replaced(self, tensors: Any) -> "Context":
        """Returns the same context over other tensors, in the order of ``numbers``.

        Args:
            tensors: one for each of ``numbers``.
        """
        return Context(dict(zip(self.numbers, tensors, strict=True)), self.stage)


FIXED = Context()


def context(numbers: Mapping[str, Any], dtype: torch.dtype, device: torch.device | str, stage: str = "") -> Context:
    """Returns a context of plain numbers.

    Args:
        numbers: numbers or lists of them by name.
        dtype: of θ.
        device: of θ.
        stage: see :class:`Context`.

    >>> context({"lr": 0.5}, torch.float64, "cpu").numbers["lr"]
    tensor(0.5000, dtype=torch.float64)
    """
    tensors = {name: torch.tensor(numbers[name], dtype=dtype, device=device) for name in sorted(numbers)}
    return Context(tensors, stage)
