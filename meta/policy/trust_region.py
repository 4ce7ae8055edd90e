"""A trust-region step: natural gradient by conjugate gradient, then a line search (Schulman et al. 2015, app. C)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


class TrustRegion(NamedTuple):
    """The paper's settings (Finn et al. 2017, A.2 and the authors' code).

    Attributes:
        kl: largest mean KL divergence δ of a step.
        iterations: of conjugate gradient.
        damping: added to the Hessian's diagonal.
        backtracks: step sizes tried at most.
        shrink: ratio of one step size to the one before.
    """

    kl: float = 0.01
    iterations: int = 10
    damping: float = 1e-5
    backtracks: int = 15
    shrink: float = 0.8


class Search(NamedTuple):
    """What a line search came to: θ, whether it has moved, surrogate, KL, and the share of the full step taken."""

    params: Tensor
    accepted: bool
    surrogate: float
    kl: float
    share: float


def conjugate_gradient(product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """Find x with A x ≈ ``target`` [P], A symmetric positive definite, given by ``product`` (Hestenes, Stiefel 1952).

    In exact arithmetic it is solved after as many iterations as A has different eigenvalues.

    >>> conjugate_gradient(lambda v: torch.tensor([2.0, 4.0]) * v, torch.tensor([2.0, 2.0]), 2)
    tensor([1.0000, 0.5000])
    """
    solution = torch.zeros_like(target)
    residual, direction = target.clone(), target.clone()
    size = residual @ residual
    for _ in range(iterations):
        if float(size) <= tolerance * float(target @ target):
            break
        curved = product(direction)
        length = size / (direction @ curved)
        solution += length * direction
        residual -= length * curved
        after = residual @ residual
        direction = residual + (after / size) * direction
        size = after
    return solution


def full_step(product: Product, gradient: Tensor, settings: TrustRegion) -> Tensor:
    """The step s [P] down a gradient g whose quadratic model of KL is δ: s = -√(2δ / xᵀAx) x, A x = g.

    ``product`` multiplies with the Hessian of the mean KL divergence; A is that and the damping. A gradient of zero
    gives a step of zero.
    """

    def damped(vector: Tensor) -> Tensor:
        return product(vector) + settings.damping * vector

    direction = conjugate_gradient(damped, gradient, settings.iterations)
    curvature = float(direction @ damped(direction))
    if curvature <= 0.0:
        return torch.zeros_like(gradient)
    length: float = (2 * settings.kl / curvature) ** 0.5
    return -length * direction


def line_search(
    judge: Callable[[Tensor], tuple[float, float]],
    params: Tensor,
    step: Tensor,
    surrogate: float,
    settings: TrustRegion,
) -> Search:
    """The longest of the steps 1, 0.8, 0.8², … that lowers the surrogate and keeps KL within its bound.

    Args:
        judge: θ [P] -> (surrogate, mean KL), as means over tasks.
        params: θ before the step.
        step: the full step.
        surrogate: its value at θ.
        settings: bound, ratio and number of tries.

    Returns:
        The search; θ is unmoved if no step will do.
    """
    for number in range(settings.backtracks):
        share = settings.shrink**number
        candidate = params + share * step
        value, kl = judge(candidate)
        if value < surrogate and kl <= settings.kl:
            return Search(candidate, True, value, kl, share)
    return Search(params, False, surrogate, 0.0, 0.0)
