"""A load like that of meta reinforcement learning: policy gradients of a Gaussian policy on rollouts drawn beforehand.

The rollouts are no part of the gradient, so they are data here. Targets hold, column by column, the actions taken, the
advantage, and the log-probability of the actions under the policy that took them.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meta.algorithms import MAML, Metrics
from meta.context import FIXED, Context
from meta.episode import Episode, Examples
from meta.objectives import Objective
from meta.params import Params
from meta.policy.distributions import log_normal


def likelihood_ratio(outputs: Tensor, targets: Tensor) -> Tensor:
    """The inner objective, -mean(log π(a) · advantage), a scalar (Finn et al. 2017, eq. 4)."""
    return -(log_normal(outputs, targets[:, :-2]) * targets[:, -2]).mean()


def importance_ratio(outputs: Tensor, targets: Tensor) -> Tensor:
    """The outer objective, -mean(π(a) / π_old(a) · advantage), a scalar (Schulman et al. 2015, eq. 14)."""
    ratio = torch.exp(log_normal(outputs, targets[:, :-2]) - targets[:, -1])
    return -(ratio * targets[:, -2]).mean()


class Surrogate(Objective):
    """The importance ratio, as loss and score."""

    name: ClassVar[str] = "surrogate"
    metric: ClassVar[str] = "surrogate"
    signed: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The importance ratio, a scalar."""
        return importance_ratio(outputs, targets)


SURROGATE = Surrogate()


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(MAML):
    """MAML with the likelihood ratio inside and the importance ratio outside; takes no notice of ``objective``."""

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """The likelihood ratio on ``examples``."""
        return likelihood_ratio(self.model.apply(params, examples.inputs), examples.targets)

    def meta_loss(self, params: Params, episode: Episode, context: Context = FIXED) -> tuple[Tensor, Metrics]:
        """The importance ratio on the query rollouts under the adapted policy."""
        *_, (adapted, support_loss) = self.path(params, episode.support, None, context)
        loss = importance_ratio(self.model.apply(adapted, episode.query.inputs), episode.query.targets)
        return loss, {"loss": loss} if support_loss is None else {"loss": loss, "support_loss": support_loss}

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...], context: Context = FIXED) -> Tensor:
        """The outer objective after each number of inner steps, [K]."""
        walk = list(self.path(params, episode.support, max(steps), context))
        query = episode.query
        return torch.stack([importance_ratio(self.model.apply(walk[k][0], query.inputs), query.targets) for k in steps])
