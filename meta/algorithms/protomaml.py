"""ProtoMAML: MAML whose head starts from the class means of the task."""

from dataclasses import dataclass, field

import torch

from meta.algorithms.heads import class_means, features, head_width, without_head
from meta.algorithms.maml import MAML
from meta.episode import Examples
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class ProtoMAML(MAML):
    """ProtoMAML (Triantafillou et al. 2020, section 3): the head begins as w_k = 2 c_k, b_k = -‖c_k‖².

    Before the first inner step the model is then a prototypical network. The derivative goes through the means too.

    Attributes:
        classes: N, given by the family.
        head: name of the linear layer that the model ends in.
        width: number of features F that the head is given.
    """

    classes: int
    head: str = "head"
    width: int = field(init=False)

    def __post_init__(self) -> None:
        """Find the number of features."""
        object.__setattr__(self, "width", head_width(self.model, self.head))

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the parameters below the head; the head is made anew for each task."""
        return without_head(self.inner.init(self.model.init(generator, dtype)), self.head)

    def start(self, params: Params, support: Examples) -> Params:
        """Returns θ with the head that the support's class means give."""
        embedded = features(self.model, params, support.inputs, self.head, self.width)
        means = class_means(embedded, support.targets, self.classes)
        return {**params, f"{self.head}.weight": 2 * means, f"{self.head}.bias": -means.square().sum(dim=1)}
