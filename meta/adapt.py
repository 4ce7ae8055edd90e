"""The inner loop: gradient descent on the support loss, unrolled so that it can be differentiated."""

from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor
from torch.func import grad_and_value

from meta.episode import Examples
from meta.params import Params

Loss = Callable[[Params, Examples], Tensor]
EVERY = ("*",)


def path(
    loss: Loss,
    params: Params,
    support: Examples,
    *,
    steps: int,
    lr: float,
    first_order: bool = False,
    names: Sequence[str] = EVERY,
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
        names: patterns of the names of the parameters that move (``head.*``); the others stay as they are.

    Yields:
        ``steps + 1`` pairs (parameters, support loss before the step that made them); the first has no loss.
    """
    yield params, None
    fixed = {name: value for name, value in params.items() if not matches(name, names)}

    def moving_loss(moving: Params, examples: Examples) -> Tensor:
        return loss({**fixed, **moving}, examples)

    for _ in range(steps):
        moving = {name: value for name, value in params.items() if name not in fixed}
        gradient, value = grad_and_value(moving_loss)(moving, support)
        if first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}
        params = {name: params[name] - lr * gradient[name] if name in moving else fixed[name] for name in params}
        yield params, value


def adapt(
    loss: Loss, params: Params, support: Examples, *, steps: int, lr: float, names: Sequence[str] = EVERY
) -> Params:
    """Parameters after ``steps`` inner steps; see :func:`path`."""
    *_, (adapted, _) = path(loss, params, support, steps=steps, lr=lr, names=names)
    return adapted


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a parameter's name fits one of some shell-style patterns.

    >>> matches("head.weight", ["head.*"]), matches("conv0.offset", ["*.weight", "*.bias"])
    (True, False)
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)
