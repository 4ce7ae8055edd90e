"""The learner: holds θ and the optimizer's state, applies summed meta-gradients."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cluster.config.sections import OuterConfig
from cluster.workers.messages import Flat
from meta.params import Layout, Params, fingerprint

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}
FUSED = {"adam", "adamw", "sgd"}


class Learner:
    """θ as one flat vector under an optimizer of torch.

    The outer gradient is the mean over the meta-batch, Σ_i ∇L_i / T, as in the authors' code; the paper's
    Algorithm 1 writes the sum, which differs by a factor that Adam does not see.
    """

    def __init__(self, config: OuterConfig, layout: Layout, params: Params, frozen: Sequence[str] = ()) -> None:
        """Start from ``params`` at step 0; those named in ``frozen`` stay as they are."""
        self.step = 0
        self.skipped = 0
        self.moved = True  # whether the last outer step moved θ by more than rounding
        self._moves: list[bool] = []  # of the steps of the optimizer in this outer step
        self.layout = layout
        self._config = config
        self._theta = layout.flatten(params)
        self._theta.grad = torch.zeros_like(self._theta)
        self._frozen = _places(layout, frozen)
        self._before = torch.empty_like(self._theta)
        options: dict[str, Any] = {"lr": config.lr} | ({"fused": True} if config.optimizer in FUSED else {})
        self._optimizer = OPTIMIZERS[config.optimizer]([self._theta.requires_grad_()], **options)

    @property
    def theta(self) -> Flat:
        """A copy of θ, flat [P], that later steps leave alone."""
        copy: Flat = self._theta.detach().numpy().copy()
        return copy

    @property
    def params(self) -> Params:
        """A copy of θ by name."""
        return self.layout.unflatten(self._theta.detach().clone())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of θ."""
        return fingerprint(self._theta)

    @property
    def lr(self) -> float:
        """The outer step size of the coming step, a function of the step alone."""
        return self._config.lr * self.lr_share(self.step)

    def lr_share(self, step: int) -> float:
        """The step size of the outer step after ``step`` others as a share of ``outer.lr``."""
        if self._config.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / self._config.steps))
        return 1.0

    def finish_step(self) -> None:
        """End an outer step, in which θ was changed once or more."""
        self.moved, self._moves = any(self._moves), []
        self.step += 1

    def descend(self, gradient: Flat, tasks: int) -> float:
        """One step of the optimizer, which may be one of several in an outer step; see :meth:`finish_step`.

        Args:
            gradient: sum of meta-gradients, [P].
            tasks: how many; their mean is descended.

        Returns:
            The norm of the mean meta-gradient before clipping.
        """
        mean = self._theta.grad
        assert mean is not None
        mean.numpy()[:] = gradient
        mean.div_(tasks)
        self.without_frozen(mean)
        norm = float(mean.norm())
        if self._config.clip_value is not None:
            mean.clamp_(-self._config.clip_value, self._config.clip_value)
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr
        theta = self._theta.detach()
        self._before.copy_(theta)
        self._optimizer.step()
        if self._frozen is not None:  # an optimizer may move what has no gradient, by decay for one
            theta[self._frozen] = self._before[self._frozen]
        self._moves.append(_moved(self._before, theta))
        return norm

    def without_frozen(self, vector: Tensor) -> Tensor:
        """``vector`` [P] with zeros in the places of frozen parameters, changed in place."""
        if self._frozen is not None:
            vector[self._frozen] = 0.0
        return vector

    def move(self, theta: Flat) -> None:
        """Set θ to parameters [P] that were computed without the optimizer; see :meth:`finish_step`."""
        new = torch.from_numpy(theta)
        self._moves.append(_moved(self._theta.detach(), new))
        with torch.no_grad():
            self._theta.copy_(new)

    def skip(self) -> None:
        """Count a step that leaves θ as it is."""
        self.step += 1
        self.skipped += 1
        self.moved = False

    def state(self) -> dict[str, Tensor]:
        """Copies of θ by name (``theta.…``) and the optimizer's state (``optimizer.…``)."""
        state = {f"theta.{name}": value.clone() for name, value in self.params.items()}
        for name, value in self._optimizer.state.get(self._theta, {}).items():
            state[f"optimizer.{name}"] = torch.as_tensor(value).detach().clone()
        return state

    def load(self, state: dict[str, Tensor], step: int, skipped: int) -> None:
        """Continue from a state that :meth:`state` gave.

        Args:
            state: θ and the optimizer's state by name.
            step: outer steps done.
            skipped: those of them that left θ as it was.
        """
        theta = {name.removeprefix("theta."): v for name, v in state.items() if name.startswith("theta.")}
        with torch.no_grad():
            self._theta.copy_(self.layout.flatten(theta))
        optimizer = {n.removeprefix("optimizer."): v for n, v in state.items() if n.startswith("optimizer.")}
        if optimizer:
            self._optimizer.state[self._theta] = {name: value.clone() for name, value in optimizer.items()}
        self.step, self.skipped = step, skipped


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
