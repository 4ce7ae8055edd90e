"""The part that methods with an inner loop have in common, for episodes and for RL tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from meta.inner import Inner
from meta.models.base import Model
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """A method whose θ is a model's parameters and the numbers that the inner rule learns.

    Attributes:
        model: the network.
        inner: how a task's parameters are adapted.
        informed: whether inputs come with the task's description.
    """

    model: Model
    inner: Inner
    informed: ClassVar[bool] = False

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the model's initial parameters, with those that the inner rule learns.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.

        Raises:
            ValueError: if a pattern of ``inner.adapt`` fits none of them.
        """
        return self.inner.init(self.model.init(generator, dtype))

    def numbers(self, step: int | None) -> Mapping[str, float | tuple[float, ...]]:
        """Returns α under ``lr``; see :meth:`meta.algorithms.Algorithm.numbers`."""
        del step
        return self.inner.numbers

    def stage(self, step: int | None) -> str:
        """Returns an empty text: every outer step runs one program."""
        del step
        return ""
