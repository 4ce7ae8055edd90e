"""The inner loop: gradient descent on the support loss, unrolled so that it can be differentiated."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vjp
from torch.overrides import _get_current_function_mode_stack

from meta.episode import Examples
from meta.models.keyed import Keyed, current
from meta.params import Params

Loss = Callable[[Params, Examples], Tensor]
EVERY = ("*",)
EXCEPT = "!"  # begins a pattern of names that are left out


def path(
    loss: Loss,
    params: Params,
    support: Examples,
    *,
    steps: int,
    lr: float,
    first_order: bool = False,
    names: Sequence[str] = EVERY,
    recompute: bool = False,
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
        recompute: keep of each step its parameters alone, and compute the rest again when it is differentiated. Memory
            then grows by the parameters with each step, not by a pass through the model, for a third more work.

    Yields:
        ``steps + 1`` pairs (parameters, support loss before the step that made them); the first has no loss.
    """
    yield params, None

    def step(params: Params, support: Examples) -> tuple[Params, Tensor]:
        """Returns the parameters that move after one inner step, and the support loss before it."""
        moving = {name: value for name, value in params.items() if matches(name, names)}

        def moving_loss(moving: Params, examples: Examples) -> Tensor:
            return loss({**params, **moving}, examples)

        gradient, value = grad_and_value(moving_loss)(moving, support)
        if first_order:
            gradient = {name: g.detach() for name, g in gradient.items()}
        return {name: value - lr * gradient[name] for name, value in moving.items()}, value

    for _ in range(steps):
        moved, value = (_recomputed if recompute else _at_once)(step, params, support)
        params = {name: moved.get(name, before) for name, before in params.items()}
        yield params, value


Step = Callable[[Params, Examples], tuple[Params, Tensor]]


def _at_once(step: Step, params: Params, support: Examples) -> tuple[Params, Tensor]:
    return step(params, support)


def _recomputed(step: Step, params: Params, support: Examples) -> tuple[Params, Tensor]:
    """Returns ``step(params, support)``, keeping only its arguments for the backward pass."""
    names = tuple(params)
    moving: list[str] = []
    modes = _get_current_function_mode_stack()
    keyed = current()
    before = keyed.position if keyed else 0
    noise = (keyed.noise,) if keyed and keyed.noise is not None and keyed.noise.shape[0] else ()

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        step_params = dict(zip(names, tensors, strict=False))
        inputs, targets, *own = tensors[len(names) :]
        drawing = Keyed(own[0], before) if own else keyed  # a step that is computed again draws the same numbers
        with ExitStack() as stack:
            for mode in modes:  # what stands in for torch's functions here; autograd leaves it behind
                stack.enter_context(drawing if drawing and mode is keyed else mode)
            moved, value = step(step_params, Examples(inputs, targets))
        if keyed and drawing:
            keyed.position = drawing.position
        moving[:] = moved
        return (*moved.values(), value)

    function: Any = _Recomputed
    *moved, value = function.apply(flat, len(names), *params.values(), *support, *noise)
    return dict(zip(moving, moved, strict=True)), value


class _Recomputed(torch.autograd.Function):
    """A function whose backward pass computes the forward pass again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., tuple[Tensor, ...]], count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        del count  # of the parameters, which come first
        return function(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        del output
        ctx.function, ctx.count = inputs[:2]
        ctx.save_for_backward(*inputs[2:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        params, data = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]

        def of_params(*again: Tensor) -> tuple[Tensor, ...]:
            result: tuple[Tensor, ...] = ctx.function(*again, *data)
            return result

        # Clones, so that whoever records the program does not take the second pass for a repetition of the first.
        pull = vjp(of_params, *(param.clone() for param in params))[1]
        return (None, None, *pull(gradients), *[None] * len(data))


def adapt(
    loss: Loss, params: Params, support: Examples, *, steps: int, lr: float, names: Sequence[str] = EVERY
) -> Params:
    """Returns the parameters after ``steps`` inner steps on one task; see :func:`path`.

    Args:
        loss: (params, examples) -> scalar.
        params: θ of one task.
        support: the task's support examples, [S, ...].
        steps: number of inner steps, 0 or more.
        lr: α.
        names: patterns of the names of the parameters that move; the others stay as they are.

    Returns:
        A new dictionary with the names and shapes of ``params``.
    """
    *_, (adapted, _) = path(loss, params, support, steps=steps, lr=lr, names=names)
    return adapted


def require_matches(params: Params, patterns: Sequence[str]) -> None:
    """Checks that every pattern of ``inner.adapt`` fits some parameter.

    Args:
        params: the parameters that may be adapted.
        patterns: shell-style patterns of their names; those that begin with ``!`` exclude names.

    Raises:
        ValueError: naming the first pattern that fits no parameter, or if no parameter is left to adapt.
    """
    for pattern in patterns:
        if not pattern.startswith(EXCEPT) and not any(matches(name, [pattern]) for name in params):
            raise ValueError(
                f"inner.adapt expects patterns of parameter names, '{pattern}' fits none of {', '.join(params)}"
            )
    if not any(matches(name, patterns) for name in params):
        raise ValueError(
            f"inner.adapt expects patterns that leave parameters to adapt, received {list(patterns)}, which fit none "
            f"of {', '.join(params)} that is not frozen"
        )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Returns whether a parameter's name fits one of the patterns and none of those that begin with ``!``.

    Args:
        name: the parameter's name (``head.weight``).
        patterns: shell-style patterns, as for :func:`fnmatch.fnmatchcase`.

    >>> matches("head.weight", ["head.*"]), matches("conv0.offset", ["*.weight", "*.bias"])
    (True, False)
    >>> matches("conv0.weight", ["*.weight", "!conv0.*"])
    False
    """
    if any(fnmatchcase(name, pattern[1:]) for pattern in patterns if pattern.startswith(EXCEPT)):
        return False
    return any(fnmatchcase(name, pattern) for pattern in patterns)
