"""Reptile: move θ towards the adapted parameters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from meta.algorithms.base import Metrics
from meta.algorithms.maml import MAML
from meta.context import FIXED, Context
from meta.episode import Episode, pooled
from meta.inner import LEARNED
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class Reptile(MAML):
    """Reptile (Nichol, Achiam, Schulman 2018, Algorithm 2), with outer steps along the mean of θ - φ.

    φ are the parameters after ``inner.steps`` steps on all of a task's examples, support and query. The objective is
    ½ ‖θ - φ‖² with φ a constant, whose gradient is θ - φ. With plain gradient descent as outer optimizer, ``outer.lr``
    is the paper's ε.
    """

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the model's initial parameters.

        Raises:
            ValueError: if the inner rule learns numbers of its own: nothing depends on them.
        """
        params = super().init(generator, dtype)
        if any(name.startswith(LEARNED) for name in params):
            raise ValueError(
                "inner.rule: expected one that learns nothing with algorithm reptile, received learned_sgd"
            )
        return params

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns ½ ‖θ - φ‖², a scalar, and the metrics: query loss and query score of φ."""
        still = {name: value.detach() for name, value in params.items()}
        adapted = self.inner.adapted(self.loss, still, pooled(episode), None, context)
        apart = [(params[name] - adapted[name].detach()).square().sum() for name in params]
        return 0.5 * torch.stack(apart).sum(), self.query_loss(adapted, episode)[1]
