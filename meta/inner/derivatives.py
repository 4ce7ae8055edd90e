"""Derivatives: how the outer gradient goes through the inner loop, apart from the rule of its steps.

``exact``, ``first_order`` and ``truncated`` differentiate the steps. The others do not: they take the last parameters φ
for the minimum of a regularised support loss,

    φ = argmin L(φ; support) + λ/2 ‖φ - θ‖²,

whose derivative follows from φ alone, so that the inner loop may be of any length and needs no memory (Rajeswaran et
al. 2019, iMAML). With H the Hessian of L at φ and v the gradient of the query loss there, the meta-gradient is

    (I + H/λ)⁻¹ v.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from meta.params import Params

Product = Callable[[Params], Params]


class Derivative(Protocol):
    """The interface of a derivative."""

    @property
    def strength(self) -> float:
        """λ, weight of the squared distance from θ that inner steps descend beside the support loss; 0: none."""
        ...

    @property
    def implicit(self) -> bool:
        """Whether it is an :class:`ImplicitDerivative`."""
        ...

    def is_constant(self, step: int, steps: int) -> bool:
        """Returns whether the gradient of inner step number ``step`` of ``steps`` is treated as a constant."""
        ...


class ImplicitDerivative(Derivative, Protocol):
    """A derivative that takes the place of one through the steps."""

    def solve(self, product: Product, vector: Params, lr: Tensor) -> Params:
        """Returns x, about λ (λ I + H)⁻¹ v.

        Args:
            product: u -> H u.
            vector: v.
            lr: α, a scalar.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Exact:
    """The derivative through every step, second order included."""

    strength: ClassVar[float] = 0.0
    implicit: ClassVar[bool] = False

    def is_constant(self, step: int, steps: int) -> bool:
        """Returns False."""
        del step, steps
        return False


@dataclass(frozen=True, kw_only=True)
class FirstOrder(Exact):
    """Inner gradients are constants (Finn et al. 2017, 5.2): the meta-gradient is the query gradient at θ'."""

    def is_constant(self, step: int, steps: int) -> bool:
        """Returns True."""
        del step, steps
        return True


@dataclass(frozen=True, kw_only=True)
class Truncated(Exact):
    """The derivative through the last steps alone (Shaban et al. 2019); gradients of earlier ones are constants.

    Attributes:
        last: number k of steps that are differentiated. 0 is first order, J or more is exact.
    """

    last: int

    def __post_init__(self) -> None:
        """Check k.

        Raises:
            ValueError: if it is negative.
        """
        if self.last < 0:
            raise ValueError(f"last: expected a number of inner steps, 0 or more, received {self.last}")

    def is_constant(self, step: int, steps: int) -> bool:
        """Returns whether the step is not one of the last k."""
        return step < steps - self.last


@dataclass(frozen=True, kw_only=True)
class Implicit:
    """(I + H/λ)⁻¹ v by the conjugate gradient method (iMAML, Rajeswaran et al. 2019, eq. 6).

    Attributes:
        strength: λ; it should exceed the size of the most negative curvature.
        iterations: of the solver; each takes one product with H.
    """

    strength: float = 1.0
    iterations: int = 5
    implicit: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check λ and the number of iterations.

        Raises:
            ValueError: if λ is not above 0, or the number is below 1.
        """
        if self.strength <= 0:
            raise ValueError(f"strength: expected a number above 0, received {self.strength}")
        if self.iterations < 1:
            raise ValueError(f"iterations: expected 1 or more, received {self.iterations}")

    def is_constant(self, step: int, steps: int) -> bool:
        """Returns True: steps are not differentiated."""
        del step, steps
        return True

    def solve(self, product: Product, vector: Params, lr: Tensor) -> Params:
        """Returns x after so many iterations from 0 on; see :meth:`ImplicitDerivative.solve`."""
        del lr
        x = {name: torch.zeros_like(value) for name, value in vector.items()}
        residual, along = vector, vector
        squared = _dot(residual, residual)
        for _ in range(self.iterations):
            curved = _sum(along, product(along), 1 / self.strength)
            share = _ratio(squared, _dot(along, curved))
            x = _sum(x, along, share)
            residual = _sum(residual, curved, -share)
            before, squared = squared, _dot(residual, residual)
            along = _sum(residual, along, _ratio(squared, before))
        return x


@dataclass(frozen=True, kw_only=True)
class Neumann(Implicit):
    """(I + H/λ)⁻¹ v by the truncated series λα Σ_k (I - α (λ I + H))^k v (Lorraine et al. 2020, eq. 3).

    The series converges where α is below 2 over the largest curvature of the regularised loss, as the inner loop does.
    """

    def solve(self, product: Product, vector: Params, lr: Tensor) -> Params:
        """Returns the sum of ``iterations`` + 1 terms; see :meth:`ImplicitDerivative.solve`."""
        term, total = vector, vector
        for _ in range(self.iterations):
            term = _sum(_sum(term, term, -lr * self.strength), product(term), -lr)
            total = _sum(total, term, 1)
        return {name: self.strength * lr * value for name, value in total.items()}


@dataclass(frozen=True, kw_only=True)
class Sama(Implicit):
    """The identity in the place of (I + H/λ)⁻¹ (Choe et al. 2023, SAMA): one query gradient, no product with H.

    Attributes:
        strength: λ; with 0 the inner loop descends the support loss alone.
    """

    strength: float = 0.0

    def __post_init__(self) -> None:
        """Check λ.

        Raises:
            ValueError: if it is negative.
        """
        if self.strength < 0:
            raise ValueError(f"strength: expected 0 or more, received {self.strength}")

    def solve(self, product: Product, vector: Params, lr: Tensor) -> Params:
        """Returns v."""
        del product, lr
        return vector


def _dot(one: Params, other: Params) -> Tensor:
    return torch.stack([(one[name] * other[name]).sum() for name in one]).sum()


def _sum(one: Params, other: Params, factor: Tensor | float) -> Params:
    return {name: value + factor * other[name] for name, value in one.items()}


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Returns the ratio, and 0 where the denominator is 0: the solver has arrived."""
    there = denominator == 0
    return torch.where(there, torch.zeros_like(numerator), numerator / torch.where(there, 1, denominator))
