"""Policies: networks whose outputs are the parameters of a distribution over actions."""

import math
from abc import ABC, abstractmethod
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
        discrete: whether actions are whole numbers from 0 on instead of real vectors.
    """

    discrete: ClassVar[bool]

    @property
    def outputs(self) -> int | tuple[int, ...]:
        """Size A of an action, or the number of actions where they are discrete.

        Where an action is several whole numbers, A of them, the numbers of values that each may take.
        """
        ...

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
            actions: [B, A], real or whole numbers; [B, 1] if an action is one of several.
        """
        ...

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns KL(old ‖ new), [B], of distributions [B, M]."""
        ...

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Returns actions [B, A], or [B, 1] if an action is one of several, a pure function of the arguments.

        Args:
            outputs: distributions [B, M].
            noise: standard normal numbers in the shape of the actions, or uniform ones in [0, 1) if discrete.
        """
        ...


def action_columns(policy: Policy) -> int:
    """Returns the size of one action: A, or 1 where an action is one of several."""
    if isinstance(policy.outputs, tuple):
        return len(policy.outputs)
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
        return _network(self, self.outputs)

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
class _LogitsPolicy(ABC):
    """A policy whose network gives unnormalised log-probabilities.

    Attributes:
        inputs: shape of one observation.
        hidden: units of each hidden layer; none gives a linear policy, a table for one-hot observations.
        activation: ``relu`` or ``tanh``.
        init_std: deviation of the weights at the start, see :class:`meta.models.MLP`; Glorot's as in the authors' code.
            Larger weights in the first layer make a policy whose inner steps run away with distance.
    """

    discrete: ClassVar[bool] = True

    inputs: tuple[int, ...]
    hidden: tuple[int, ...] = (100, 100)
    activation: Literal["relu", "tanh"] = "relu"
    init_std: float | Literal["glorot"] | None = "glorot"

    def __post_init__(self) -> None:
        """The network checks the sizes."""
        _ = self.logits

    @property
    @abstractmethod
    def width(self) -> int:
        """Number M of outputs."""

    @property
    def logits(self) -> MLP:
        """The network whose outputs are the unnormalised log-probabilities."""
        return _network(self, self.width)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns the network's parameters.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        return self.logits.init(generator, dtype)

    def apply(self, params: Params, inputs: Tensor) -> Tensor:
        """Returns unnormalised log-probabilities [B, M] for observations [B, O]."""
        return self.logits.apply(params, inputs)


@dataclass(frozen=True, kw_only=True)
class CategoricalPolicy(_LogitsPolicy):
    """A distribution over a finite number of actions, by their unnormalised log-probabilities.

    Attributes:
        outputs: number of actions A.
    """

    outputs: int

    @property
    def width(self) -> int:
        """Number of outputs, one for each action."""
        return self.outputs

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns the log-probability [B] of actions given by their numbers [B, 1], under distributions [B, A]."""
        return log_categorical(outputs, actions)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns Σ_a p (log p - log p'), [B], of distributions [B, A]."""
        return categorical_divergence(old, new)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Returns the numbers [B, 1] of the actions at which the cumulated probability passes uniform noise [B, 1]."""
        return categorical_sample(outputs, noise)


@dataclass(frozen=True, kw_only=True)
class MultiCategoricalPolicy(_LogitsPolicy):
    """A distribution over A whole numbers that are independent of each other at an observation.

    One network gives the unnormalised log-probabilities of every component, side by side.

    Attributes:
        outputs: number of values n_a of each component, A of them.

    >>> policy = MultiCategoricalPolicy(inputs=(4,), outputs=(3, 2))
    >>> params = policy.init(torch.Generator().manual_seed(0), torch.float32)
    >>> policy.sample(policy.apply(params, torch.zeros(7, 4)), torch.full((7, 2), 0.5)).shape
    torch.Size([7, 2])
    """

    outputs: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks the numbers of values; the network checks the other sizes."""
        if not isinstance(self.outputs, tuple) or not self.outputs or min(self.outputs) < 1:
            raise ValueError(f"outputs: expected a tuple of numbers of values above zero, received {self.outputs}")
        super().__post_init__()

    @property
    def width(self) -> int:
        """Number of outputs, Σ_a n_a."""
        return sum(self.outputs)

    def log_probability(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Returns Σ_a log π_a, [B], of whole numbers [B, A] under distributions [B, Σ n_a]."""
        parts = zip(self.components(outputs), actions.split(1, dim=-1), strict=True)
        return torch.stack([log_categorical(logits, column) for logits, column in parts]).sum(dim=0)

    def divergence(self, old: Tensor, new: Tensor) -> Tensor:
        """Returns the sum of the components' divergences, [B], of distributions [B, Σ n_a]."""
        parts = zip(self.components(old), self.components(new), strict=True)
        return torch.stack([categorical_divergence(before, after) for before, after in parts]).sum(dim=0)

    def sample(self, outputs: Tensor, noise: Tensor) -> Tensor:
        """Returns whole numbers [B, A], each component by its own uniform noise [B, A]."""
        parts = zip(self.components(outputs), noise.split(1, dim=-1), strict=True)
        return torch.cat([categorical_sample(logits, column) for logits, column in parts], dim=-1)

    def components(self, outputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the unnormalised log-probabilities [..., n_a] of each component, of outputs [..., Σ n_a]."""
        parts: tuple[Tensor, ...] = outputs.split(self.outputs, dim=-1)
        return parts


def log_categorical(logits: Tensor, numbers: Tensor) -> Tensor:
    """Returns log-probabilities [B] of actions by their numbers [B, 1] under unnormalised ones [B, n]."""
    chosen = numbers == torch.arange(logits.shape[-1], dtype=numbers.dtype, device=numbers.device)
    return (torch.log_softmax(logits, dim=-1) * chosen).sum(dim=-1)


def categorical_divergence(old: Tensor, new: Tensor) -> Tensor:
    """Returns KL(old ‖ new), [B], of unnormalised log-probabilities [B, n]."""
    before, after = torch.log_softmax(old, dim=-1), torch.log_softmax(new, dim=-1)
    return (torch.exp(before) * (before - after)).sum(dim=-1)


def categorical_sample(logits: Tensor, noise: Tensor) -> Tensor:
    """Returns the numbers [B, 1] at which the cumulated probability passes uniform noise [B, 1]."""
    passed = torch.softmax(logits, dim=-1).cumsum(dim=-1)[..., :-1] <= noise
    return passed.to(logits.dtype).sum(dim=-1, keepdim=True)


def _network(policy: GaussianPolicy | _LogitsPolicy, outputs: int) -> MLP:
    return MLP(
        inputs=policy.inputs,
        outputs=outputs,
        hidden=policy.hidden,
        activation=policy.activation,
        init_std=policy.init_std,
    )
