"""Objectives of regression: targets are numbers [B, O]. All are elementary operations, twice differentiable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from meta.objectives.base import Objective, require_same_shape


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean of (outputs - targets)² over all elements, a scalar (Finn et al. 2017, eq. 2 as a mean).

    Args:
        outputs: [B, ...].
        targets: [B, ...], of the same shape.

    Raises:
        ValueError: if the shapes differ; they are never broadcast.
    """
    require_same_shape("mse", outputs, targets)
    return ((outputs - targets) ** 2).mean()


@dataclass(frozen=True, kw_only=True)
class MeanSquaredError(Objective):
    """The mean squared error; the score is the same."""

    name: ClassVar[str] = "mse"
    metric: ClassVar[str] = "mse"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean of (outputs - targets)², a scalar.

        Args:
            outputs: [B, ...].
            targets: [B, ...], of the same shape.
        """
        return mean_squared_error(outputs, targets)


@dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError(Objective):
    """The mean absolute error; the score is the same. Its second derivative is zero wherever it has one."""

    name: ClassVar[str] = "mae"
    metric: ClassVar[str] = "mae"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean of |outputs - targets|, a scalar.

        Args:
            outputs: [B, ...].
            targets: [B, ...], of the same shape.
        """
        require_same_shape(self.name, outputs, targets)
        return _magnitude(outputs - targets).mean()


@dataclass(frozen=True, kw_only=True)
class Huber(Objective):
    """The Huber loss (Huber 1964, eq. 2.4): d² / 2 for |d| ≤ δ, else δ (|d| - δ / 2); the score is the same.

    Attributes:
        delta: δ > 0, the error from which on the loss grows linearly.
    """

    name: ClassVar[str] = "huber"
    metric: ClassVar[str] = "huber"

    delta: float = 1.0

    def __post_init__(self) -> None:
        """Checks δ."""
        if not 0 < self.delta < math.inf:
            raise ValueError(f"delta: expected a finite number above 0, received {self.delta}")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over all elements, a scalar.

        Args:
            outputs: [B, ...].
            targets: [B, ...], of the same shape.
        """
        require_same_shape(self.name, outputs, targets)
        size = _magnitude(outputs - targets)
        inside = size.clamp(max=self.delta)
        return (0.5 * inside * inside + self.delta * (size - inside)).mean()


@dataclass(frozen=True, kw_only=True)
class GaussianNLL(Objective):
    """The negative log-likelihood of a normal distribution with a mean and a deviation of each target's own.

    log σ + ((y - μ) / σ)² / 2 + log(2 π) / 2, with μ and log σ the model's outputs: means first. Registered models
    answer means, then deviations.
    """

    name: ClassVar[str] = "gaussian_nll"
    metric: ClassVar[str] = "gaussian_nll"
    signed: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over all targets, a scalar.

        Args:
            outputs: means, then logarithms of deviations, [B, 2 O].
            targets: [B, O].
        """
        if targets.dim() != 2 or outputs.shape != (len(targets), self.width(targets.shape[1])):
            raise ValueError(
                f"gaussian_nll: expected outputs [B, 2 O], a mean and the logarithm of a deviation for each of the "
                f"targets [B, O], received outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}; let the "
                "model return twice as many numbers as there are targets"
            )
        mean, log_deviation = outputs[:, : targets.shape[1]], outputs[:, targets.shape[1] :]
        error = (targets - mean) * torch.exp(-log_deviation)
        return (log_deviation + 0.5 * error * error).mean() + 0.5 * math.log(2 * math.pi)

    def width(self, targets: int) -> int:
        """Returns 2 O, for O targets.

        Args:
            targets: O.
        """
        return 2 * targets

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns means, then deviations, [..., 2 O].

        Args:
            outputs: means, then logarithms of deviations, [..., 2 O].
        """
        mean, log_deviation = outputs.chunk(2, dim=-1)
        return torch.cat([mean, torch.exp(log_deviation)], dim=-1)

    def point(self, predictions: Tensor) -> Tensor:
        """Returns the means, [..., O].

        Args:
            predictions: means, then deviations, [..., 2 O].
        """
        return predictions.chunk(2, dim=-1)[0]

    def names(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Returns the targets' names, then those of their deviations.

        Args:
            targets: names of the targets.
        """
        return (*targets, *(f"{name} deviation" for name in targets))

    def in_units(self, predictions: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Returns means and deviations in the targets' units, [..., 2 O].

        Args:
            predictions: means, then deviations, [..., 2 O].
            mean: of each target, [O].
            deviation: of each target, [O].
        """
        means, deviations = predictions.chunk(2, dim=-1)
        return torch.cat([means * deviation + mean, deviations * deviation], dim=-1)


@dataclass(frozen=True, kw_only=True)
class PoissonNLL(Objective):
    """The negative log-likelihood of counts y under a Poisson distribution, exp(z) - y z, without its part log y!.

    The outputs z are the logarithms of rates. Registered models answer the rates.
    """

    name: ClassVar[str] = "poisson"
    metric: ClassVar[str] = "poisson_nll"
    signed: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over all elements, a scalar.

        Args:
            outputs: logarithms of rates, [B, ...].
            targets: counts, [B, ...], of the same shape.
        """
        require_same_shape(self.name, outputs, targets)
        return (torch.exp(outputs) - targets * outputs).mean()

    def predictions(self, outputs: Tensor) -> Tensor:
        """Returns the rates, [..., O].

        Args:
            outputs: logarithms of rates, [..., O].
        """
        return torch.exp(outputs)

    def check(self, targets: Tensor) -> None:
        """Checks that no target is negative.

        Args:
            targets: counts.
        """
        if targets.numel() and float(targets.min()) < 0:
            raise ValueError(
                f"poisson: expected counts as targets, 0 or more, received {float(targets.min()):g}; leave the targets "
                "as they are (task.standardise: none for tables), or choose another objective"
            )


@dataclass(frozen=True, kw_only=True)
class Quantile(Objective):
    """The quantile loss (Koenker and Bassett 1978): max(τ d, (τ - 1) d) with d = y - q, for each level τ.

    The model returns L quantiles of each target, those of the first target first; the score is the same.

    Attributes:
        levels: L increasing levels τ between 0 and 1.
    """

    name: ClassVar[str] = "quantile"
    metric: ClassVar[str] = "quantile_loss"

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        """Checks the levels."""
        levels = list(self.levels)
        if not levels or levels != sorted(set(levels)) or not (levels[0] > 0 and levels[-1] < 1):
            raise ValueError(
                f"levels: expected increasing numbers between 0 and 1, such as [0.1, 0.5, 0.9], received {levels}"
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the mean over targets and levels, a scalar.

        Args:
            outputs: [B, O · L].
            targets: [B, O].
        """
        if targets.dim() != 2 or outputs.shape != (len(targets), self.width(targets.shape[1])):
            raise ValueError(
                f"quantile: expected outputs [B, O · {len(self.levels)}], {len(self.levels)} quantiles of each of the "
                f"targets [B, O], received outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)}; let the "
                "model return as many numbers"
            )
        columns = outputs.reshape(*targets.shape, len(self.levels)).unbind(dim=-1)
        above = [targets - column for column in columns]
        losses = [(level * d + torch.relu(-d)).mean() for level, d in zip(self.levels, above, strict=True)]
        return torch.stack(losses).mean()

    def width(self, targets: int) -> int:
        """Returns O · L.

        Args:
            targets: O.
        """
        return targets * len(self.levels)

    def point(self, predictions: Tensor) -> Tensor:
        """Returns the quantiles of the level nearest to one half, [..., O].

        Args:
            predictions: [..., O · L].
        """
        middle = min(range(len(self.levels)), key=lambda number: abs(self.levels[number] - 0.5))
        return predictions[..., middle :: len(self.levels)]

    def names(self, targets: Sequence[str]) -> tuple[str, ...]:
        """Returns the name of each quantile, ``TARGET 0.1`` for one.

        Args:
            targets: names of the targets.
        """
        return tuple(f"{name} {level:g}" for name in targets for level in self.levels)

    def in_units(self, predictions: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """Returns quantiles in the targets' units, [..., O · L].

        Args:
            predictions: quantiles, [..., O · L].
            mean: of each target, [O].
            deviation: of each target, [O].
        """
        count = len(self.levels)
        return predictions * deviation.repeat_interleave(count) + mean.repeat_interleave(count)


def _magnitude(values: Tensor) -> Tensor:
    """Returns |values|, with a derivative of zero at zero, in operations that every engine differentiates twice."""
    return torch.relu(values) + torch.relu(-values)
