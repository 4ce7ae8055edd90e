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
    """The result of a line search.

    Attributes:
        params: θ after the search, [P].
        accepted: whether a step was accepted; otherwise θ is unchanged.
        surrogate: surrogate at ``params``, a mean over tasks.
        kl: mean KL divergence from the policies before the step.
        share: fraction of the full step that was taken.
    """

    params: Tensor
    accepted: bool
    surrogate: float
    kl: float
    share: float


def conjugate_gradient(product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """Returns x [P] with A x ≈ ``target``, A symmetric positive definite (Hestenes, Stiefel 1952).

    In exact arithmetic the solution is reached after as many iterations as A has different eigenvalues.

    Args:
        product: v [P] -> A v [P].
        target: [P].
        iterations: most iterations.
        tolerance: stops where |residual|² falls to this fraction of |target|².

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
    """Returns the step s [P] down a gradient g whose quadratic model of KL is δ: s = -√(2δ / xᵀAx) x, A x = g.

    A gradient of zero gives a step of zero.

    Args:
        product: v [P] -> H v [P], H the Hessian of the mean KL divergence; A is H plus the damping.
        gradient: g, [P].
        settings: δ, damping and iterations.
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
    """Returns the search for the longest step of 1, 0.8, 0.8², … that lowers the surrogate with KL within its bound.

    Args:
        judge: θ [P] -> (surrogate, mean KL), as means over tasks.
        params: θ before the step, [P].
        step: the full step, [P].
        surrogate: its value at θ.
        settings: bound, ratio and number of tries.

    Returns:
        The search; ``params`` is unchanged if no step is accepted.
    """
    for number in range(settings.backtracks):
        share = settings.shrink**number
        candidate = params + share * step
        value, kl = judge(candidate)
        if value < surrogate and kl <= settings.kl:
            return Search(candidate, True, value, kl, share)
    return Search(params, False, surrogate, 0.0, 0.0)
