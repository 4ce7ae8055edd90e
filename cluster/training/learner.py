"""The learner: holds θ and the optimizer's state, applies summed meta-gradients."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cluster.config.outer import schedule_of
from cluster.config.outer_sections import OuterConfig
from cluster.errors import ConfigError
from cluster.training.optimizer import OuterOptimizer
from cluster.workers.messages import Flat
from meta.params import Layout, Params, fingerprint


class Learner:
    """θ as one flat vector under an optimizer of torch's kind, and with ``outer.ema`` a moving average of it.

    The outer gradient is the mean over the meta-batch, Σ_i ∇L_i / T, as in the authors' code; the paper's
    Algorithm 1 writes the sum, which differs by a factor that Adam does not see.
    """

    def __init__(self, config: OuterConfig, layout: Layout, params: Params, frozen: Sequence[str] = ()) -> None:
        """Start from ``params`` at step 0; those named in ``frozen`` stay as they are.

        Raises:
            ConfigError: if the optimizer does not take these parameters.
        """
        self.step = 0
        self.skipped = 0
        self.moved = True  # whether the last outer step moved θ by more than rounding
        self._moves: list[bool] = []  # of the steps of the optimizer in this outer step
        self.layout = layout
        self._config = config
        self._theta = layout.flatten(params)
        self._ema = self._theta.clone() if config.ema is not None else None
        self._frozen = _places(layout, frozen)
        self._before = torch.empty_like(self._theta)
        self._schedule = schedule_of(config.schedule)
        self._optimizer = OuterOptimizer(config, layout, self._theta, frozen)

    @property
    def theta(self) -> Flat:
        """A copy of θ, flat [P], that later steps leave alone."""
        copy: Flat = self._theta.numpy().copy()
        return copy

    @property
    def sets(self) -> dict[str, Flat]:
        """Copies, flat [P], of θ under ``theta`` and of its moving average, if there is one, under ``ema``."""
        return {"theta": self.theta} | ({} if self._ema is None else {"ema": self._ema.numpy().copy()})

    @property
    def params(self) -> Params:
        """A copy of θ by name."""
        return self.layout.unflatten(self._theta.clone())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of θ."""
        return fingerprint(self._theta)

    @property
    def lr(self) -> float:
        """The outer step size of the coming step, a function of the step alone."""
        return self._config.lr * self.lr_share(self.step)

    def lr_share(self, step: int) -> float:
        """The share of the step sizes that the outer step after ``step`` others takes.

        Raises:
            ConfigError: if a schedule of the user's own gives none.
        """
        share = self._schedule.share(step, self._config.steps)
        if not (math.isfinite(share) and share >= 0):
            raise ConfigError(f"outer.schedule: expected a finite share, 0 or more, received {share} at step {step}")
        return share

    def finish_step(self) -> None:
        """End an outer step, in which θ was changed once or more."""
        self.moved, self._moves = any(self._moves), []
        self.step += 1
        if self._ema is not None and self._config.ema is not None:
            # A mean over few steps at first, so that the initial θ soon weighs little.
            decay = min(self._config.ema, (1 + self.step) / (10 + self.step))
            self._ema.lerp_(self._theta, 1 - decay)

    def descend(self, gradient: Flat, tasks: int) -> float:
        """One step of the optimizer, which may be one of several in an outer step; see :meth:`finish_step`.

        Args:
            gradient: sum of meta-gradients, [P].
            tasks: how many; their mean is descended.

        Returns:
            The norm of the mean meta-gradient before clipping.
        """
        mean = self._optimizer.gradient
        mean.numpy()[:] = gradient
        mean.div_(tasks)
        self.without_frozen(mean)
        norm = float(mean.norm())
        self._clip(mean)
        theta = self._theta
        self._before.copy_(theta)
        self._optimizer.step(self.lr_share(self.step))
        if self._frozen is not None:  # an optimizer may move what has no gradient, by decay for one
            theta[self._frozen] = self._before[self._frozen]
        self._moves.append(_moved(self._before, theta))
        return norm

    def _clip(self, mean: Tensor) -> None:
        """Clip the mean meta-gradient [P] in place, each element and then the norm of the whole."""
        if self._config.clip_value is not None:
            mean.clamp_(-self._config.clip_value, self._config.clip_value)
        if self._config.clip_norm is not None:
            norm = float(torch.linalg.vector_norm(mean, dtype=torch.float64))
            if norm > self._config.clip_norm:
                mean.mul_(self._config.clip_norm / norm)

    def without_frozen(self, vector: Tensor) -> Tensor:
        """``vector`` [P] with zeros in the places of frozen parameters, changed in place."""
        if self._frozen is not None:
            vector[self._frozen] = 0.0
        return vector

    def move(self, theta: Flat) -> None:
        """Set θ to parameters [P] that were computed without the optimizer; see :meth:`finish_step`."""
        new = torch.from_numpy(theta)
        self._moves.append(_moved(self._theta, new))
        self._theta.copy_(new)

    def skip(self) -> None:
        """Count a step that leaves θ as it is."""
        self.step += 1
        self.skipped += 1
        self.moved = False

    def state(self) -> dict[str, Tensor]:
        """Copies by name of θ (``theta.…``), its moving average (``ema.…``) and the optimizer's state."""
        state = {f"theta.{name}": value for name, value in self.params.items()}
        if self._ema is not None:
            state |= {f"ema.{name}": value.clone() for name, value in self.layout.unflatten(self._ema).items()}
        return state | {f"optimizer.{name}": value for name, value in self._optimizer.state().items()}

    def load(self, state: Mapping[str, Tensor], step: int, skipped: int) -> None:
        """Continue from a state that :meth:`state` gave.

        Args:
            state: θ, its moving average and the optimizer's state by name.
            step: outer steps done.
            skipped: those of them that left θ as it was.
        """
        self._theta.copy_(self.layout.flatten(_under("theta.", state)))
        if self._ema is not None:
            self._ema.copy_(self.layout.flatten(_under("ema.", state)))
        self._optimizer.load(_under("optimizer.", state))
        self._moves = []
        self.step, self.skipped = step, skipped


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _places(layout: Layout, names: Sequence[str]) -> Tensor | None:
    """Mask [P] of the elements of named parameters; None: there are none."""
    if not names:
        return None
    return layout.flatten(
        {name: torch.full(shape, name in names) for name, shape in zip(layout.names, layout.shapes, strict=True)}
    )


def _moved(before: Tensor, after: Tensor) -> bool:
    """Whether θ [P] has changed by more than a rounding error, ‖Δθ‖ > ε ‖θ‖."""
    step = after - before
    return float(step @ step) > torch.finfo(before.dtype).eps ** 2 * float(before @ before)
