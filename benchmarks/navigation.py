"""A load like that of meta reinforcement learning: policy gradients of a Gaussian policy on rollouts drawn beforehand.

The rollouts are no part of the gradient, so they are data here. Targets hold, column by column, the actions taken, the
advantage, and the log-probability of the actions under the policy that took them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from meta.algorithms import MAML, Metrics
from meta.episode import Episode, Examples
from meta.models import MLP
from meta.objectives import Objective
from meta.params import Params


@dataclass(frozen=True, kw_only=True)
class GaussianPolicy:
    """A normal distribution over actions: mean from a fully connected network, one learned log-deviation an action.

    Attributes:
        inputs: shape of one observation.
        outputs: size A of an action.
        hidden: units of each hidden layer, with ReLU.

    >>> policy = GaussianPolicy(inputs=(2,), outputs=2)
    >>> params = policy.init(torch.Generator().manual_seed(0), torch.float32)
    >>> tuple(policy.apply(params, torch.zeros(7, 2)).shape)
    (7, 4)
    """

    inputs: tuple[int, ...]
    outputs: int
    hidden: tuple[int, ...] = (100, 100)

    @property
    def mean(self) -> MLP:
        """The network that gives the mean."""
        return MLP(inputs=self.inputs, outputs=self.outputs, hidden=self.hidden, init_std=None)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """The network's parameters and ``log_std`` [A], which starts at zero."""
        return {**self.mean.init(generator, dtype), "log_std": torch.zeros(self.outputs, dtype=dtype)}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Mean and log-deviation side by side, [B, 2 A]."""
        mean = self.mean.apply(params, inputs)
        return torch.cat([mean, params["log_std"].expand_as(mean)], dim=-1)


def log_probability(outputs: Tensor, actions: Tensor) -> Tensor:
    """The log-probability log π(a) of actions [B, A] under outputs [B, 2 A] of a policy, [B]."""
    mean, log_std = outputs.tensor_split(2, dim=-1)
    scaled = (actions - mean) * torch.exp(-log_std)
    return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


def likelihood_ratio(outputs: Tensor, targets: Tensor) -> Tensor:
    """The inner objective, -mean(log π(a) · advantage), a scalar (Finn et al. 2017, eq. 4)."""
    return -(log_probability(outputs, targets[:, :-2]) * targets[:, -2]).mean()


def importance_ratio(outputs: Tensor, targets: Tensor) -> Tensor:
    """The outer objective, -mean(π(a) / π_old(a) · advantage), a scalar (Schulman et al. 2015, eq. 14)."""
    ratio = torch.exp(log_probability(outputs, targets[:, :-2]) - targets[:, -1])
    return -(ratio * targets[:, -2]).mean()


SURROGATE = Objective(
    name="surrogate", loss=importance_ratio, metric="surrogate", score=importance_ratio, higher_is_better=False
)


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(MAML):
    """MAML with the likelihood ratio inside and the importance ratio outside; takes no notice of ``objective``."""

    def loss(self, params: Params, examples: Examples) -> Tensor:
        """The likelihood ratio on ``examples``."""
        return likelihood_ratio(self.model.apply(params, examples.inputs), examples.targets)

    def meta_loss(self, params: Params, episode: Episode) -> tuple[Tensor, Metrics]:
        """The importance ratio on the query rollouts under the adapted policy."""
        *_, (adapted, support_loss) = self._path(params, episode.support, self.inner_steps)
        loss = importance_ratio(self.model.apply(adapted, episode.query.inputs), episode.query.targets)
        return loss, {"loss": loss} if support_loss is None else {"loss": loss, "support_loss": support_loss}

    def scores(self, params: Params, episode: Episode, steps: tuple[int, ...]) -> Tensor:
        """The outer objective after each number of inner steps, [K]."""
        walk = list(self._path(params, episode.support, max(steps)))
        query = episode.query
        return torch.stack([importance_ratio(self.model.apply(walk[k][0], query.inputs), query.targets) for k in steps])
