"""Methods that solve a task in one go, without inner steps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from meta.algorithms.base import Metrics
from meta.algorithms.maml import MAML
from meta.context import FIXED, Context
from meta.episode import Episode
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class WithoutSteps(MAML):
    """A base for methods whose predictions come from the support directly; they define ``predict``.

    Scores and predictions are the same at every number of inner steps.
    """

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the model's initial parameters: there is no inner rule to learn numbers.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        return self.model.init(generator, dtype)

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """Returns the query loss of the predictions, a scalar, and loss and score as metrics."""
        outputs = self.predict(params, episode.support, episode.query.inputs, 0, context)
        loss = self.objective.loss(outputs, episode.query.targets)
        return loss, {"loss": loss, self.objective.metric: self.objective.score(outputs, episode.query.targets)}

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """Returns the query score, repeated for every entry of ``steps``, [K]."""
        outputs = self.predict(params, episode.support, episode.query.inputs, 0, context)
        return self.objective.score(outputs, episode.query.targets).expand(len(steps))
