"""Functions that bring their own rule for the backward pass, in every strategy of the engine."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._pytree import tree_flatten, tree_unflatten

from meta.models.keyed import Keyed, current

# (arguments, results, cotangents of the results) -> cotangents of the arguments; trees of the same structures.
Pull = Callable[[Any, Any, Any], Any]


def with_pull(function: Callable[..., Any], pull: Pull, *arguments: Any) -> Any:
    """Returns ``function(*arguments)``, of which the backward pass keeps arguments and results and calls ``pull``.

    Both run under the function modes of the call (keyed random numbers, replaced layers), which autograd leaves
    behind; a second run draws the same random numbers as the first.

    Args:
        function: a pure function of trees of tensors.
        pull: its vector-Jacobian product. It is given copies, so that whoever records the program does not take what is
            computed again for a repetition of the first pass.
        arguments: trees of tensors; what the function needs besides is a constant.
    """
    modes = _Modes()
    leaves, structure = tree_flatten(arguments)
    outputs: Any = None

    def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
        nonlocal outputs
        noise, own = tensors[: modes.count], tensors[modes.count :]
        with modes.entered(noise):
            results, outputs = tree_flatten(function(*tree_unflatten(own, structure)))
        return tuple(results)

    def backward(tensors: tuple[Tensor, ...], results: tuple[Tensor, ...], cotangents: Any) -> tuple[Any, ...]:
        noise, own = tensors[: modes.count], tensors[modes.count :]
        with modes.entered(noise):
            pulled = pull(
                tree_unflatten(own, structure), tree_unflatten(results, outputs), tree_unflatten(cotangents, outputs)
            )
        return (*[None] * modes.count, *tree_flatten(pulled, is_leaf=lambda leaf: leaf is None)[0])

    apply: Any = _Pulled.apply
    results = apply(forward, backward, len(leaves) + modes.count, *modes.noise, *leaves)
    return tree_unflatten(results, outputs)


class _Modes:
    """The function modes that are active, and what random numbers have been drawn so far."""

    def __init__(self) -> None:
        self._modes = _get_current_function_mode_stack()
        self._keyed = current()
        self._before = self._keyed.position if self._keyed else 0
        noise = self._keyed.noise if self._keyed else None
        self.noise = (noise,) if noise is not None and noise.shape[0] else ()

    @property
    def count(self) -> int:
        """Number of tensors that random numbers are drawn from, 0 or 1."""
        return len(self.noise)

    @contextmanager
    def entered(self, noise: tuple[Tensor, ...]) -> Iterator[None]:
        """Activates the modes; random layers draw from ``noise``, from the same position on."""
        keyed = self._keyed
        drawing = Keyed(noise[0], self._before) if noise else keyed
        with ExitStack() as stack:
            for mode in self._modes:
                stack.enter_context(drawing if drawing and mode is keyed else mode)
            yield
        if keyed and drawing:
            keyed.position = drawing.position


class _Pulled(torch.autograd.Function):
    """A function with a vector-Jacobian product of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(function: Callable[..., Any], pull: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        del pull, count
        results: tuple[Tensor, ...] = function(*tensors)
        return results

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, ctx.pull, ctx.count, *tensors = inputs
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        saved = [value.clone() for value in ctx.saved_tensors]
        return (None, None, None, *ctx.pull(tuple(saved[: ctx.count]), tuple(saved[ctx.count :]), cotangents))
