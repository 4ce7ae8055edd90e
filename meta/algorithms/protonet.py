"""Prototypical networks: the nearest class mean in a learned space."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from meta.algorithms.heads import class_means
from meta.algorithms.without_steps import WithoutSteps
from meta.context import FIXED, Context
from meta.episode import Examples
from meta.inputs import Inputs, Shape
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class ProtoNet(WithoutSteps):
    """Prototypical networks (Snell, Swersky, Zemel 2017, eq. 1 and 2): logits are -‖f(x) - c_k‖², c_k a class's mean.

    Attributes:
        classes: N, given by the family.
        embedding: numbers of f(x), the outputs that the model is built with.
    """

    classes: int
    embedding: int = 64

    @classmethod
    def sizes(cls, inputs: Shape, outputs: int, description: int, **keys: Any) -> tuple[Shape, int]:
        """Returns the inputs as they are, and ``embedding`` outputs."""
        del outputs, description
        return inputs, int(keys.get("embedding", cls.embedding))

    def predict(
        self, params: Params, support: Examples, inputs: Inputs, steps: int, context: Context = FIXED
    ) -> Tensor:
        """Returns -‖f(x) - c_k‖² for each input and class, [B, N]; ``steps`` is ignored."""
        del steps, context
        means = class_means(self.model.apply(params, support.inputs), support.targets, self.classes)
        embedded = self.outputs(params, inputs, support)
        apart: Tensor = embedded[:, None, :] - means[None]
        return -apart.square().sum(dim=2)
