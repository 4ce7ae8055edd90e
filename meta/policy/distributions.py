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

    Constructed as ``cls(inputs=…, outputs=…)``.

    Attributes:
        discrete: whether actions are numbers 0 … A-1 instead of real vectors.
        outputs: size A of an action, or the number of actions where they are discrete.
    """

    discrete: ClassVar[bool]
    outputs: int

    @property
    def width(self) -> int:
        """Number M of outputs that describe one distribution."""
        ...

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns fresh parameters, drawn from ``generator`` alone.

        Args:
            generator: CPU generator; no other source of randomness may be used.
            dtype: floating-point type of the parameters.
        """
        ...

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns distributions [B, M] for observations ``inputs`` [B, O]."""
        ...

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns log π(a), [B].

        Args:
            outputs: distributions [B, M].
            actions: [B, A], or numbers [B, 1] if discrete.
        """
        ...

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns KL(old ‖ new), [B], of distributions [B, M]."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions [B, A], or numbers [B, 1] if discrete, a pure function of the arguments.

        Args:
            outputs: distributions [B, M].
            noise: standard normal numbers [B, A], or uniform ones in [0, 1), [B, 1], if discrete.
        """
        ...


def action_columns(policy: Policy) -> int:
    """Returns the size of one action: A, or 1 where actions are discrete."""
    return 1 if policy.discrete else policy.outputs


def log_normal(outputs: Tensor, values: Tensor) -> Tensor:
    """Returns Σ_a log N(a; μ, σ), [B].

    Args:
        outputs: means and log-deviations side by side, [B, 2 A].
        values: [B, A].
    """
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
        """Checks the deviation; the network checks the other sizes."""
        if not 0 < self.std < math.inf:
            raise ValueError(f"expected std above zero, received {self.std}")
        _ = self.mean

    @property
    def width(self) -> int:
        """2 A: means, then log-deviations."""
        return 2 * self.outputs

    @property
    def mean(self) -> MLP:
        """The network whose output is the mean."""
        return _network(self)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the network's parameters, and ``log_std`` [A].

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        log_std = torch.full((self.outputs,), math.log(self.std), dtype=dtype)
        return {**self.mean.init(generator, dtype), "log_std": log_std}

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns mean and log-deviation side by side, [B, 2 A], for observations [B, O]."""
        mean = self.mean.apply(params, inputs)
        return torch.cat([mean, params["log_std"].expand_as(mean)], dim=-1)

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns Σ_a log N(a; mean, deviation), [B], of actions [B, A] under distributions [B, 2 A]."""
        return log_normal(outputs, actions)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns Σ_a [log σ'/σ + (σ² + (μ - μ')²) / 2σ'² - 1/2], [B], of distributions [B, 2 A]."""
        old_mean, old_log_std = old.tensor_split(2, dim=-1)
        new_mean, new_log_std = new.tensor_split(2, dim=-1)
        spread = torch.exp(2 * (old_log_std - new_log_std))
        distance = ((old_mean - new_mean) * torch.exp(-new_log_std)).square()
        return (new_log_std - old_log_std + 0.5 * (spread + distance - 1)).sum(dim=-1)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Returns mean + deviation · noise, [B, A], for standard normal noise [B, A]."""
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
        """Number of outputs, one for each action."""
        return self.outputs

    @property
    def logits(self) -> MLP:
        """The network whose outputs are the unnormalised log-probabilities."""
        return _network(self)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the network's parameters.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        return self.logits.init(generator, dtype)

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns unnormalised log-probabilities [B, A] for observations [B, O]."""
        return self.logits.apply(params, inputs)

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns the log-probability [B] of actions given by their numbers [B, 1], under distributions [B, A]."""
        chosen = actions == torch.arange(self.outputs, dtype=actions.dtype, device=actions.device)
        return (torch.log_softmax(outputs, dim=-1) * chosen).sum(dim=-1)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns Σ_a p (log p - log p'), [B], of distributions [B, A]."""
        before, after = torch.log_softmax(old, dim=-1), torch.log_softmax(new, dim=-1)
        return (torch.exp(before) * (before - after)).sum(dim=-1)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Returns the numbers [B, 1] of the actions at which the cumulated probability passes uniform noise [B, 1]."""
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
