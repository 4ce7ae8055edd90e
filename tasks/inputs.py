"""Description of a family's inputs, and checks of what they hold, with words for what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch

from meta.inputs import Inputs, names_of

KINDS = {"float": "real numbers", "int64": "whole numbers", "bool": "truth values"}


@dataclass(frozen=True)
class InputSpec:
    """Description of one of the tensors that a network takes.

    Attributes:
        shape: of one example, without the example dimension.
        dtype: ``float`` (of the run's ``dtype``), ``int64`` or ``bool``.
        vocabulary: number V of symbols where int64 numbers are symbols from 0 to V - 1, such as tokens or a mask of 0
            and 1; 0: they may be any whole numbers.
    """

    shape: tuple[int, ...]
    dtype: Literal["float", "int64", "bool"] = "float"
    vocabulary: int = 0

    def __post_init__(self) -> None:
        """Check the members.

        Raises:
            ValueError: naming the one that is out of range.
        """
        if self.dtype not in KINDS:
            raise ValueError(f"InputSpec.dtype: expected one of {', '.join(KINDS)}, received {self.dtype!r}")
        if any(size < 1 for size in self.shape) or self.vocabulary < 0:
            raise ValueError(f"InputSpec: expected sizes above zero, received {self}")
        if self.vocabulary and self.dtype != "int64":
            raise ValueError(f"InputSpec.vocabulary: expected none beside dtype {self.dtype}; symbols are int64")


@cache
def single(shape: tuple[int, ...], vocabulary: int) -> InputSpec:
    """Returns the description of inputs in one tensor; kept, since families give a spec at every draw."""
    return InputSpec(shape, "int64" if vocabulary else "float", vocabulary)


def require_names(specs: Mapping[str, InputSpec]) -> None:
    """Checks the names of a family's inputs.

    Args:
        specs: by name.

    Raises:
        ValueError: if one cannot be an argument of a module's ``forward``, or is taken.
    """
    for name, spec in specs.items():
        if not isinstance(name, str) or not name.isidentifier() or name == "targets":
            raise ValueError(
                f"spec.inputs: expected names of arguments of forward, other than 'targets', received {name!r}"
            )
        if not isinstance(spec, InputSpec):
            raise ValueError(f"spec.inputs: expected an InputSpec for '{name}', received {type(spec).__name__}")


def require_inputs(inputs: Inputs, specs: Mapping[str, InputSpec], leading: int, where: str) -> None:
    """Checks names, shapes, types and symbols of inputs.

    Args:
        inputs: one tensor, or several by name.
        specs: what is expected, by name; that of a single tensor under the empty name.
        leading: dimensions before those of one example: 1 for [B, ...], 2 for [T, B, ...].
        where: which inputs they are; the message begins with it.

    Raises:
        ValueError: naming the first tensor that is missing or another than is expected.
    """
    names = () if "" in specs else tuple(sorted(specs))
    if names_of(inputs) != names:
        received = ", ".join(names_of(inputs)) or "one tensor"
        raise ValueError(
            f"{where}: expected {', '.join(names) or 'one tensor'} as in the family's spec, received {received}"
        )
    counted: tuple[str, torch.Size] | None = None
    for name, spec in specs.items():
        tensor = inputs[name] if isinstance(inputs, dict) else inputs
        shape = tensor.shape
        if shape[leading:] != spec.shape or len(shape) < leading:
            raise ValueError(
                f"{_of(where, name)}: expected shape [{', '.join(map(str, ('B', *spec.shape)))}] as in the family's "
                f"spec, received {list(shape[leading - 1 :])}"
            )
        counted = counted or (name, shape[:leading])
        if shape[:leading] != counted[1]:
            raise ValueError(
                f"{_of(where, name)}: expected {counted[1][-1]} examples as in {counted[0]}, received "
                f"{shape[leading - 1]}"
            )
        if spec.dtype != "float" or not tensor.is_floating_point():
            _require_numbers(tensor, spec, _of(where, name), named=bool(name))


def _of(where: str, name: str) -> str:
    """Words for an input; they are made for messages alone, since inputs are checked at every draw."""
    return f"{where} {name}".rstrip()


def _require_numbers(tensor: torch.Tensor, spec: InputSpec, where: str, *, named: bool) -> None:
    """Checks type and range of one tensor that is none of real numbers, or ought to be one."""
    expected, vocabulary = KINDS[spec.dtype], spec.vocabulary
    declared = "spec.inputs" if named else "spec.vocabulary"
    if spec.dtype == "float":
        change = "dtype" if named else "their number, vocabulary"
        raise ValueError(
            f"{where}: expected {expected}, received {tensor.dtype}; for symbols such as tokens give the family's "
            f"spec {change}=…"
        )
    if tensor.dtype != getattr(torch, spec.dtype):
        kind = "symbols" if vocabulary else expected
        raise ValueError(f"{where}: expected {kind} of type torch.{spec.dtype} ({declared}), received {tensor.dtype}")
    if vocabulary and tensor.numel() and not (int(tensor.min()) >= 0 and int(tensor.max()) < vocabulary):
        raise ValueError(
            f"{where}: expected symbols from 0 to {vocabulary - 1} ({declared} is {vocabulary}), received some from "
            f"{int(tensor.min())} to {int(tensor.max())}"
        )
