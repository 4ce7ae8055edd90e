"""Policies: networks whose outputs are the parameters of a distribution over actions."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from meta.models.mlp import MLP
from meta.params import Params


class Policy(Protocol):
    """A model whose outputs parametrise a distribution over actions, for B observations at a time.

    Constructed as ``cls(inputs=…, outputs=…)`` with the shape of an observation and the size A of an action, or the
    number of actions where they are discrete. ``width`` is the number M of outputs per observation.
    """

    discrete: ClassVar[bool]
    outputs: int

    @property
    def width(self) -> int:
        """M, the numbers that describe one distribution."""
        ...

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Fresh parameters, drawn from ``generator`` alone."""
        ...

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Distributions [B, M] for observations [B, O]."""
        ...

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """The log-probability log π(a), [B], of actions [B, A] ([B, 1] if discrete) under distributions [B, M]."""
        ...

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """KL(old ‖ new), [B], of distributions [B, M]."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Actions [B, A] ([B, 1]) of distributions [B, M], a function of standard normal (uniform) noise alike."""
        ...


def action_columns(policy: Policy) -> int:
    """Numbers that one action takes: A, or 1 where actions are discrete."""
    return 1 if policy.discrete else policy.outputs


def log_normal(outputs: Tensor, values: Tensor) -> Tensor:
    """Σ_a log N(a; μ, σ), [B], of values [B, A] under means and log-deviations side by side, [B, 2 A]."""
    mean, log_std = outputs.tensor_split(2, dim=-1)
    scaled = (values - mean) * torch.exp(-log_std)
    return (-0.5 * scaled.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class GaussianPolicy:
    """A normal distribution over real actions: mean from a fully connected network, a learned log-deviation each.

    The defaults are the paper's (Finn et al. 2017, 5.3): two hidden layers of 100 units with ReLU.

    Attributes:
        inputs: shape of one observation.
        outputs: size A of an action.
        hidden: units of each hidden layer.
        activation: ``relu`` or ``tanh``.
        init_std: deviation of the weights at the start, see :class:`meta.models.MLP`; Glorot's as in the authors' code.
            Larger weights in the first layer make a policy whose inner steps run away with distance.
        std: deviation of the actions at the start.

    >>> policy = GaussianPolicy(inputs=(2,), outputs=2)
    >>> params = policy.init(torch.Generator().manual_seed(0), torch.float32)
    >>> tuple(policy.apply(params, torch.zeros(7, 2)).shape)
    (7, 4)
    """

    discrete: ClassVar[bool] = False

    inputs: tuple[int, ...]
    outputs: int
    hidden: tuple[int, ...] = (100, 100)
    activation: Literal["relu", "tanh"] = "relu"
    init_std: float | Literal["glorot"] | None = "glorot"
    std: float = 1.0

    def __post_init__(self) -> None:
        """Check the deviation; the network checks the rest."""
        if not 0 < self.std < math.inf:
            raise ValueError(f"expected std above zero, received {self.std}")
        _ = self.mean

    @property
    def width(self) -> int:
        """2 A: means, then log-deviations."""
        return 2 * self.outputs

    @property
    def mean(self) -> MLP:
        """The network that gives the mean."""
        return _network(self)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """The network's parameters, and ``log_std`` [A]."""
        log_std = torch.full((self.outputs,), math.log(self.std), dtype=dtype)
        return {**self.mean.init(generator, dtype), "log_std": log_std}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Mean and log-deviation side by side, [B, 2 A]."""
        mean = self.mean.apply(params, inputs)
        return torch.cat([mean, params["log_std"].expand_as(mean)], dim=-1)

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Σ_a log N(a; mean, deviation), [B]."""
        return log_normal(outputs, actions)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Σ_a [log σ'/σ + (σ² + (μ - μ')²) / 2σ'² - 1/2], [B]."""
        old_mean, old_log_std = old.tensor_split(2, dim=-1)
        new_mean, new_log_std = new.tensor_split(2, dim=-1)
        spread = torch.exp(2 * (old_log_std - new_log_std))
        distance = ((old_mean - new_mean) * torch.exp(-new_log_std)).square()
        return (new_log_std - old_log_std + 0.5 * (spread + distance - 1)).sum(dim=-1)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Mean + deviation · noise, [B, A], for standard normal noise [B, A]."""
        mean, log_std = outputs.tensor_split(2, dim=-1)
        return mean + torch.exp(log_std) * noise


@dataclass(frozen=True, kw_only=True)
class CategoricalPolicy:
    """A distribution over a finite number of actions, by their unnormalised log-probabilities.

    Attributes:
        inputs: shape of one observation.
        outputs: number of actions.
        hidden: units of each hidden layer; none gives a linear policy, a table for one-hot observations.
        activation: ``relu`` or ``tanh``.
        init_std: deviation of the weights at the start, see :class:`meta.models.MLP`; Glorot's as in the authors' code.
            Larger weights in the first layer make a policy whose inner steps run away with distance.
    """

    discrete: ClassVar[bool] = True

    inputs: tuple[int, ...]
    outputs: int
    hidden: tuple[int, ...] = (100, 100)
    activation: Literal["relu", "tanh"] = "relu"
    init_std: float | Literal["glorot"] | None = "glorot"

    def __post_init__(self) -> None:
        """The network checks the sizes."""
        _ = self.logits

    @property
    def width(self) -> int:
        """One number an action."""
        return self.outputs

    @property
    def logits(self) -> MLP:
        """The network that gives the unnormalised log-probabilities."""
        return _network(self)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """The network's parameters."""
        return self.logits.init(generator, dtype)

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Unnormalised log-probabilities, [B, A]."""
        return self.logits.apply(params, inputs)

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Log-probability of the actions with numbers [B, 1], [B]."""
        chosen = actions == torch.arange(self.outputs, dtype=actions.dtype, device=actions.device)
        return (torch.log_softmax(outputs, dim=-1) * chosen).sum(dim=-1)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Σ_a p (log p - log p'), [B]."""
        before, after = torch.log_softmax(old, dim=-1), torch.log_softmax(new, dim=-1)
        return (torch.exp(before) * (before - after)).sum(dim=-1)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """The actions at which the cumulated probability passes uniform noise [B, 1], as numbers [B, 1]."""
        passed = torch.softmax(outputs, dim=-1).cumsum(dim=-1)[..., :-1] <= noise
        return passed.to(outputs.dtype).sum(dim=-1, keepdim=True)


def _network(policy: GaussianPolicy | CategoricalPolicy) -> MLP:
    return MLP(
        inputs=policy.inputs,
        outputs=policy.outputs,
        hidden=policy.hidden,
        activation=policy.activation,
        init_std=policy.init_std,
    )
