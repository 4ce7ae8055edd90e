"""Inputs of a network: one tensor, or several by name such as tokens and their mask.

Everything that executes a model takes the tensors in sorted order of their names (:func:`parts`), and the model takes
them by name; one tensor goes through the same functions as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Inputs = Tensor | dict[str, Tensor]
Shape = tuple[int, ...] | Mapping[str, tuple[int, ...]]  # of one example's inputs


def names_of(inputs: Inputs) -> tuple[str, ...]:
    """Returns the names of inputs in sorted order; none for one tensor."""
    return tuple(sorted(inputs)) if isinstance(inputs, dict) else ()


def parts(inputs: Inputs) -> tuple[Tensor, ...]:
    """Returns the tensors of inputs in sorted order of their names; one tensor alone as it is."""
    return tuple(inputs[name] for name in sorted(inputs)) if isinstance(inputs, dict) else (inputs,)


def of_parts(tensors: Sequence[Tensor], names: tuple[str, ...]) -> Inputs:
    """Returns the inputs of some tensors; the inverse of :func:`parts`.

    Args:
        tensors: in the order of ``names``, or a single one.
        names: sorted; empty: the single tensor is the inputs.

    >>> of_parts([Tensor([1.0]), Tensor([2.0])], ("ids", "mask"))
    {'ids': tensor([1.]), 'mask': tensor([2.])}
    """
    return dict(zip(names, tensors, strict=True)) if names else tensors[0]


def each(function: Callable[..., Tensor], *inputs: Inputs) -> Inputs:
    """Returns ``function`` of the tensors of the same name of one or several inputs, under that name.

    Args:
        function: of as many tensors as there are inputs.
        *inputs: all with the same names.
    """
    return of_parts([function(*same) for same in zip(*map(parts, inputs), strict=True)], names_of(inputs[0]))


def length(inputs: Inputs) -> int:
    """Returns the number B of examples of inputs [B, ...]."""
    return len(parts(inputs)[0])


def one_tensor(inputs: Any, where: str) -> Tensor:
    """Returns inputs that are one tensor.

    Args:
        inputs: one tensor or several by name.
        where: what needs a single one, the message's beginning.

    Raises:
        ValueError: if they are several.
    """
    if isinstance(inputs, dict):
        raise ValueError(
            f"{where}: expected inputs in one tensor, received several by name: {', '.join(sorted(inputs))}"
        )
    tensor: Tensor = inputs
    return tensor


def one_shape(shape: Shape, where: str) -> tuple[int, ...]:
    """Returns the shape of inputs that are one tensor.

    Args:
        shape: of one example, or one for each name.
        where: what needs a single tensor, the message's beginning.

    Raises:
        ValueError: if there are several.
    """
    if isinstance(shape, Mapping):
        raise ValueError(f"{where}: expected a family of inputs in one tensor, received several: {', '.join(shape)}")
    return shape
