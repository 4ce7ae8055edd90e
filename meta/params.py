"""Parameters as a dictionary, and the one flat vector that travels and is optimised."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Params = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """The place of each named parameter in a flat vector of P elements, in sorted order of names.

    Attributes:
        names: the parameters' names, sorted.
        shapes: their shapes, in the same order.

    >>> layout = Layout.of({"b": torch.zeros(2), "a": torch.ones(2, 3)})
    >>> layout.names, layout.size
    (('a', 'b'), 8)
    >>> layout.unflatten(torch.arange(8.0))["b"]
    tensor([6., 7.])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, params: Mapping[str, Tensor]) -> "Layout":
        """Returns the layout of a parameter dictionary."""
        names = tuple(sorted(params))
        return cls(names, tuple(tuple(params[name].shape) for name in names))

    @property
    def size(self) -> int:
        """Number P of elements."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """Returns all parameters in one new vector [P]."""
        return torch.cat([params[name].reshape(-1) for name in self.names])

    def unflatten(self, flat: Tensor) -> Params:
        """Returns a dictionary of parameters that are views into ``flat`` [P].

        Raises:
            ValueError: if the vector's length is not P.
        """
        if tuple(flat.shape) != (self.size,):
            raise ValueError(f"expected a vector of {self.size} parameters, received shape {tuple(flat.shape)}")
        parts = flat.split([math.prod(shape) for shape in self.shapes])
        return {name: part.view(shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}


def fingerprint(flat: Tensor) -> str:
    """Returns the SHA-256 of the bytes of a flat parameter vector [P] (sorted order of names), in hexadecimal."""
    return hashlib.sha256(flat.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
