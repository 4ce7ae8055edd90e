"""Random layers as functions of a task's own noise, so that the same task gives the same numbers everywhere.

torch's random functions draw from one global generator: their numbers would depend on how many tasks a process has seen
and in which order, and a recorded program could not repeat them. While a meta-loss is computed under :class:`Keyed`,
dropout and the other functions below take uniform numbers from a vector that belongs to the task, one part after the
other in the order of the calls. The vector is an input of recorded programs like the task's examples.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from meta.models.replace import Replacing

SELU_SCALE_ALPHA = 1.7580993408473766  # alpha dropout sets dropped units to minus this (Klambauer et al. 2017)


class Keyed(Replacing):
    """Computes torch's random functions from ``noise`` while the block runs; the block is part of training.

    Args:
        noise: uniform numbers in (0, 1), [M]; None: the block counts how many it takes, and computes with constants.
        position: index of the first number to take.

    Attributes:
        noise: see above.
        position: index of the next number to take.

    >>> with Keyed(torch.tensor([0.9, 0.2])):
    ...     F.dropout(torch.ones(2), 0.5)
    tensor([2., 0.])
    """

    def __init__(self, noise: Tensor | None = None, position: int = 0) -> None:
        super().__init__()
        self.noise, self.position = noise, position

    def replacement(self, function: Any) -> Callable[..., Any] | None:
        """Returns the keyed form of a random function; None for other functions."""
        keyed = KEYED.get(function)
        return None if keyed is None else functools.partial(keyed, self)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls a torch function or its keyed form; a call with a generator of its own stays torch's."""
        if kwargs and kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        return super().__torch_function__(func, types, args, kwargs)

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """Takes the next uniform numbers and returns them in a tensor of a shape.

        Raises:
            ValueError: if the task's noise has too few numbers left.
        """
        first, self.position = self.position, self.position + math.prod(shape)
        if self.noise is None:
            return torch.full(shape, 0.75)
        if self.position > self.noise.shape[0]:
            raise ValueError(
                f"expected a meta-loss that draws {self.noise.shape[0]} random numbers per task, received one that "
                f"draws {self.position} or more; their number may depend on the shapes of a task's examples alone"
            )
        return self.noise[first : self.position].reshape(shape)


def current() -> Keyed | None:
    """Returns the innermost running block of :class:`Keyed`; None outside of training."""
    modes = _get_current_function_mode_stack()
    return next((mode for mode in reversed(modes) if isinstance(mode, Keyed)), None)


def _scaled(keyed: Keyed, tensor: Tensor, p: float, training: bool, inplace: bool, shape: tuple[int, ...]) -> Tensor:
    """``tensor`` times 0 with probability ``p``, else times 1 / (1 - p)."""
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: expected a probability from 0 to 1, received {p}")
    if not training or p == 0:
        return tensor
    factor = (keyed.take(shape) >= p).to(tensor.dtype) / (1 - p) if p < 1 else tensor.new_zeros(shape)
    return tensor.mul_(factor) if inplace else tensor * factor


def _dropout(keyed: Keyed, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return _scaled(keyed, input, p, training, inplace, tuple(input.shape))


def _whole_channels(unbatched: int) -> Callable[..., Tensor]:
    """``F.dropout1d`` and its kin, which drop whole channels; inputs of ``unbatched`` dimensions are one example."""

    def dropout(keyed: Keyed, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        leading = 1 if input.dim() == unbatched else 2
        shape = (*input.shape[:leading], *[1] * (input.dim() - leading))
        return _scaled(keyed, input, p, training, inplace, shape)

    return dropout


def _alpha(keyed: Keyed, tensor: Tensor, p: float, training: bool, shape: tuple[int, ...]) -> Tensor:
    """Dropout that keeps mean and variance of units normalised by SELU (Klambauer et al. 2017)."""
    if not training or p == 0:
        return tensor
    scale = 1 / math.sqrt((SELU_SCALE_ALPHA**2 * p + 1) * (1 - p)) if p < 1 else 0.0
    keep = (keyed.take(shape) >= p).to(tensor.dtype)
    return tensor * (keep * scale) + (keep - 1 + p) * (SELU_SCALE_ALPHA * scale)


def _alpha_dropout(keyed: Keyed, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    result = _alpha(keyed, input, p, training, tuple(input.shape))
    return input.copy_(result) if inplace else result


def _feature_alpha(keyed: Keyed, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    result = _alpha(keyed, input, p, training, (*input.shape[:2], *[1] * (input.dim() - 2)))
    return input.copy_(result) if inplace else result


def _rrelu(
    keyed: Keyed,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    slope: Any = (lower + upper) / 2
    if training:
        slope = lower + (upper - lower) * keyed.take(tuple(input.shape)).to(input.dtype)
    result = torch.where(input >= 0, input, input * slope)
    return input.copy_(result) if inplace else result


def _normal_from(uniform: Tensor) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _exponential_from(uniform: Tensor) -> Tensor:
    return -torch.log1p(-uniform)


def _same(uniform: Tensor) -> Tensor:
    return uniform


def _of_size(law: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """``torch.rand`` or ``torch.randn``."""

    def draw(keyed: Keyed, *size: Any, **options: Any) -> Tensor:
        shape = options.pop("size", size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        dtype, device = options.get("dtype") or torch.get_default_dtype(), options.get("device")
        return law(keyed.take(tuple(shape))).to(dtype=dtype, device=device)

    return draw


def _alike(law: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """``torch.rand_like`` or ``torch.randn_like``."""

    def draw(keyed: Keyed, input: Tensor, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return law(keyed.take(tuple(input.shape))).to(dtype or input.dtype)

    return draw


def _bernoulli(keyed: Keyed, input: Tensor, p: float | None = None) -> Tensor:
    chance: Any = input if p is None else p
    drawn: Tensor = keyed.take(tuple(input.shape)) < chance
    return drawn.to(input.dtype)


def _bernoulli_(keyed: Keyed, input: Tensor, p: Any = 0.5) -> Tensor:
    return input.copy_((keyed.take(tuple(input.shape)) < p).to(input.dtype))


def _in_place(law: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A method such as ``Tensor.normal_`` that fills a tensor."""

    def fill(keyed: Keyed, input: Tensor, *args: float, **named: float) -> Tensor:
        return input.copy_(law(keyed.take(tuple(input.shape)), *args, **named))

    return fill


def _uniform_law(uniform: Tensor, low: float = 0.0, high: float = 1.0, **named: float) -> Tensor:
    low, high = named.get("from", low), named.get("to", high)
    return low + (high - low) * uniform


def _normal_law(uniform: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * _normal_from(uniform)


def _exponential_law(uniform: Tensor, lambd: float = 1.0) -> Tensor:
    return _exponential_from(uniform) / lambd


def _normal(keyed: Keyed, mean: Any, std: Any = 1.0, size: Any = None, **_: Any) -> Tensor:
    shape = tuple(size) if size is not None else tuple((torch.as_tensor(mean) + torch.as_tensor(std)).shape)
    drawn: Tensor = mean + std * _normal_from(keyed.take(shape))
    return drawn


KEYED: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout,
    torch.dropout: _dropout,
    F.dropout1d: _whole_channels(2),
    F.dropout2d: _whole_channels(-1),  # torch takes three dimensions for a batch of sequences
    F.dropout3d: _whole_channels(4),
    F.alpha_dropout: _alpha_dropout,
    F.feature_alpha_dropout: _feature_alpha,
    F.rrelu: _rrelu,
    torch.rand: _of_size(_same),
    torch.randn: _of_size(_normal_from),
    torch.rand_like: _alike(_same),
    torch.randn_like: _alike(_normal_from),
    torch.bernoulli: _bernoulli,
    torch.Tensor.bernoulli: _bernoulli,
    torch.Tensor.bernoulli_: _bernoulli_,
    torch.Tensor.uniform_: _in_place(_uniform_law),
    torch.Tensor.normal_: _in_place(_normal_law),
    torch.Tensor.exponential_: _in_place(_exponential_law),
    torch.normal: _normal,
}
