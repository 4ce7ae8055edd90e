"""Inner rules: how one inner step turns a gradient into new parameters.

A rule is a pair of pure functions, as in optax: ``init`` makes the state before the first step, ``update`` takes one.
Both work on dictionaries of tensors, in operations that can be differentiated twice. Numbers that a rule learns are
part of θ, under names that begin with ``inner/``; each step is given those of the parameters that move.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from meta.params import Params

State = Any  # nested dictionaries of tensors
RuleParams = Mapping[str, Tensor]


class InnerRule(Protocol):
    """The interface of an inner rule."""

    @property
    def per_step(self) -> bool:
        """Whether the numbers that the rule learns have a row for each inner step, [J, …].

        A step is given its row; steps beyond those of training are given the last.
        """
        ...

    def rule_params(self, params: Params, lr: float, steps: int) -> Params:
        """Returns initial values of the numbers that the rule learns, by name; empty if it learns none.

        Args:
            params: initial values of the parameters that move.
            lr: α of the configuration.
            steps: inner steps J in training.
        """
        ...

    def init(self, params: Params) -> State:
        """Returns the state before the first step.

        Args:
            params: the parameters that move.
        """
        ...

    def update(self, gradient: Params, state: State, params: Params, rule_params: RuleParams) -> tuple[Params, State]:
        """Returns the parameters and the state after one step.

        Args:
            gradient: of the support loss, by the names of ``params``.
            state: before the step.
            params: the parameters that move.
            rule_params: ``lr``, the step size α, a scalar, and what :meth:`rule_params` named.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Gradient descent: θ' = θ - α g (Finn et al. 2017, eq. 1)."""

    @property
    def per_step(self) -> bool:
        """False: nothing is learned."""
        return False

    def rule_params(self, params: Params, lr: float, steps: int) -> Params:
        """Returns nothing: α is a constant."""
        del params, lr, steps
        return {}

    def init(self, params: Params) -> State:
        """Returns an empty state."""
        del params
        return {}

    def update(self, gradient: Params, state: State, params: Params, rule_params: RuleParams) -> tuple[Params, State]:
        """Returns θ - α g, and the state as it is; see :meth:`InnerRule.update`."""
        lr = rule_params["lr"]
        return {name: value - lr * gradient[name] for name, value in params.items()}, state


@dataclass(frozen=True, kw_only=True)
class Momentum(SGD):
    """Gradient descent with momentum: m' = μ m + g, θ' = θ - α m' (Polyak 1964, in the form of ``torch.optim.SGD``).

    Attributes:
        momentum: μ.
        nesterov: step along g + μ m' instead (Nesterov 1983; Sutskever et al. 2013).
    """

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Check μ.

        Raises:
            ValueError: if μ is not in [0, 1).
        """
        _require_share("momentum", self.momentum)

    def init(self, params: Params) -> State:
        """Returns m = 0."""
        return {name: torch.zeros_like(value) for name, value in params.items()}

    def update(self, gradient: Params, state: State, params: Params, rule_params: RuleParams) -> tuple[Params, State]:
        """Returns parameters and m after one step; see :meth:`InnerRule.update`."""
        velocity = {name: self.momentum * state[name] + gradient[name] for name in params}
        along = velocity
        if self.nesterov:
            along = {name: gradient[name] + self.momentum * velocity[name] for name in params}
        return super().update(along, {}, params, rule_params)[0], velocity


@dataclass(frozen=True, kw_only=True)
class Adam(SGD):
    """Adam (Kingma, Ba 2015, Algorithm 1), with ε under the root.

    θ' = θ - α m̂ / sqrt(v̂ + ε²). The paper's sqrt(v̂) + ε has an infinite second derivative where a gradient is exactly
    zero, as that of a dead ReLU is: the meta-gradient would be NaN. Both agree where sqrt(v̂) is large beside ε.

    Attributes:
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of squared gradients.
        epsilon: ε.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        """Check the decays and ε.

        Raises:
            ValueError: if a decay is not in [0, 1), or ε is not above 0.
        """
        _require_share("beta1", self.beta1)
        _require_share("beta2", self.beta2)
        if self.epsilon <= 0:
            raise ValueError(f"epsilon: expected a number above 0, received {self.epsilon}")

    def init(self, params: Params) -> State:
        """Returns zero means, and one for the powers of the decays."""
        example = next(iter(params.values()))
        return {
            "mean": {name: torch.zeros_like(value) for name, value in params.items()},
            "square": {name: torch.zeros_like(value) for name, value in params.items()},
            "power1": example.new_ones(()),
            "power2": example.new_ones(()),
        }

    def update(self, gradient: Params, state: State, params: Params, rule_params: RuleParams) -> tuple[Params, State]:
        """Returns parameters and state after one step; see :meth:`InnerRule.update`."""
        power1, power2 = self.beta1 * state["power1"], self.beta2 * state["power2"]
        mean = {name: self.beta1 * state["mean"][name] + (1 - self.beta1) * gradient[name] for name in params}
        square = {
            name: self.beta2 * state["square"][name] + (1 - self.beta2) * (gradient[name] * gradient[name])
            for name in params
        }
        along = {
            name: (mean[name] / (1 - power1)) * torch.rsqrt(square[name] / (1 - power2) + self.epsilon**2)
            for name in params
        }
        state = {"mean": mean, "square": square, "power1": power1, "power2": power2}
        return super().update(along, {}, params, rule_params)[0], state


@dataclass(frozen=True, kw_only=True)
class LearnedSGD(SGD):
    """Gradient descent with step sizes that the outer loop learns, from ``inner.lr`` on.

    Attributes:
        per: ``tensor``: one for each parameter tensor. ``element``: one for each number of θ, α ∘ g (Meta-SGD, Li et
            al. 2017, eq. 3). ``step``: one for each tensor and inner step (LSLR, MAML++, Antoniou et al. 2019).
    """

    per: Literal["tensor", "element", "step"] = "tensor"

    @property
    def per_step(self) -> bool:
        """Whether there is a row for each inner step."""
        return self.per == "step"

    def rule_params(self, params: Params, lr: float, steps: int) -> Params:
        """Returns ``lr/NAME`` for each parameter: α, in a tensor of the shape that ``per`` says."""
        shapes: dict[str, Any] = {"tensor": lambda _: (), "element": lambda value: value.shape}
        shape = shapes.get(self.per, lambda _: (max(steps, 1),))
        return {f"lr/{name}": value.new_full(shape(value), lr) for name, value in params.items()}

    def update(self, gradient: Params, state: State, params: Params, rule_params: RuleParams) -> tuple[Params, State]:
        """Returns θ - α ∘ g, and the state as it is; see :meth:`InnerRule.update`."""
        return {name: value - rule_params[f"lr/{name}"] * gradient[name] for name, value in params.items()}, state


def _require_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}: expected a number from 0 to below 1, received {value}")
