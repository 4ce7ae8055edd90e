"""UNICORN-MAML: one vector for the heads of all classes."""

from dataclasses import dataclass

import torch

from meta.algorithms.heads import head_width, without_head
from meta.algorithms.maml import MAML
from meta.episode import Examples
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class UnicornMAML(MAML):
    """UNICORN-MAML (Ye, Chao 2022, section 5): θ has one vector w, from which the head of every class starts.

    The order in which a task's classes are numbered then makes no difference.

    Attributes:
        classes: N, given by the family.
        head: name of the linear layer that the model ends in.
    """

    classes: int
    head: str = "head"

    def __post_init__(self) -> None:
        """Check that the model ends in such a layer."""
        head_width(self.model, self.head)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the model's parameters, of whose head the first row alone is kept."""
        params = self.model.init(generator, dtype)
        theta = without_head(self.inner.init(params), self.head)
        return {**theta, **{name: params[name][:1].clone() for name in self._parts}}

    def start(self, params: Params, support: Examples) -> Params:
        """Returns θ with the vector repeated for each class."""
        del support
        heads = {name: params[name].expand(self.classes, *params[name].shape[1:]) for name in self._parts}
        return {**params, **heads}

    @property
    def _parts(self) -> tuple[str, str]:
        return f"{self.head}.weight", f"{self.head}.bias"
