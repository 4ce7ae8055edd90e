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
    """Where each named parameter lies in a flat vector of P elements, in sorted order of names.

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
        """The layout of a parameter dictionary."""
        names = tuple(sorted(params))
        return cls(names, tuple(tuple(params[name].shape) for name in names))

    @property
    def size(self) -> int:
        """P, the number of elements."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, params: Mapping[str, Tensor]) -> Tensor:
        """All parameters in one new vector [P]."""
        return torch.cat([params[name].reshape(-1) for name in self.names])

    def unflatten(self, flat: Tensor) -> Params:
        """Views into ``flat`` [P], one a parameter.

        Raises:
            ValueError: if the vector has another length than P.
        """
        if tuple(flat.shape) != (self.size,):
            raise ValueError(f"expected a vector of {self.size} parameters, received shape {tuple(flat.shape)}")
        parts = flat.split([math.prod(shape) for shape in self.shapes])
        return {name: part.view(shape) for name, shape, part in zip(self.names, self.shapes, parts, strict=True)}


def fingerprint(flat: Tensor) -> str:
    """SHA-256 over the bytes of a flat parameter vector (sorted order of names), in hexadecimal."""
    return hashlib.sha256(flat.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
