"""The inner loop: gradient descent on the support loss, unrolled so that it can be differentiated."""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.func import grad_and_value

from meta.episode import Examples
from meta.params import Params

Loss = Callable[[Params, Examples], Tensor]


def path(
    loss: Loss, params: Params, support: Examples, *, steps: int, lr: float, first_order: bool = False
) -> Iterator[tuple[Params, Tensor | None]]:
    """Parameters after 0, 1, …, ``steps`` inner steps, each with the support loss that was descended.

    θ'_0 = θ,  θ'_{j+1} = θ'_j - α ∇L(θ'_j; support)   (Finn et al. 2017, eq. 1, repeated)

    Every value is an ordinary function of ``params``; differentiating it gives the exact derivative through
    the whole path, second order included.

    Args:
        loss: (params, examples) -> scalar.
        params: θ of one task.
        support: the task's support examples, [S, ...].
        steps: number of inner steps, 0 or more.
        lr: α.
        first_order: treat each inner gradient as a constant (first-order MAML, Finn et al. 2017, 5.2).

    Yields:
        ``steps + 1`` pairs (parameters, support loss before the step that made them); the first has no loss.
    """
    yield params, None
    for _ in range(steps):
        gradient, value = grad_and_value(loss)(params, support)
        if first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}
        params = {name: params[name] - lr * gradient[name] for name in params}
        yield params, value


def adapt(loss: Loss, params: Params, support: Examples, *, steps: int, lr: float, first_order: bool = False) -> Params:
    """Parameters after ``steps`` inner steps; see :func:`path`."""
    for adapted, _ in path(loss, params, support, steps=steps, lr=lr, first_order=first_order):
        params = adapted
    return params
