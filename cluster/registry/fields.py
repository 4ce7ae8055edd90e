"""The arrays that a registered model takes: names, types, shapes, and a check that says what is wrong with them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

MEANING = {
    "T": "tasks",
    "S": "support examples",
    "Q": "queries",
    "J": "batches of trajectories",
    "N": "trajectories",
    "H": "steps",
    "H+1": "steps and one",
}


class Field(NamedTuple):
    """One array: its name, its type as numpy calls it, and its shape, free sizes by a letter of :data:`MEANING`."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The shape with -1 for free sizes."""
        return tuple(size if isinstance(size, int) else -1 for size in self.shape)

    def __str__(self) -> str:
        """As in messages: ``support_inputs [T, S, 1] float64``."""
        return f"{self.name} [{', '.join(map(str, self.shape))}] {self.dtype}"


def smallest(fields: Sequence[Field], inner_steps: int) -> dict[str, NDArray[Any]]:
    """The smallest arrays that some fields take: one task of ones, for a number of inner steps.

    Args:
        fields: the arrays that a model takes.
        inner_steps: number of inner steps, the length of a free size that counts them.
    """
    free = {"J": max(inner_steps, 1), "H+1": 2}
    shapes = {field: [size if isinstance(size, int) else free.get(size, 1) for size in field.shape] for field in fields}
    return {field.name: np.ones(shape, dtype=field.dtype) for field, shape in shapes.items()}


class ImageFiles(NamedTuple):
    """Inputs that may be given as image files.

    Attributes:
        names: of the fields, [T, B, H, W, C] in uint8.
        shape: (height, width, channels) that a file is brought to, as ``metaray data prepare`` does.
        inverted: whether 255 - value was stored (ink on paper), and is taken of a file's pixels too.
    """

    names: tuple[str, ...]
    shape: tuple[int, int, int]
    inverted: bool


def checked(fields: Sequence[Field], given: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The arrays of some fields, converted to their types.

    Args:
        fields: the arrays that a model takes.
        given: by name arrays of any real type, lists of numbers, tensors, or pandas' frames and series: those are of
            one task, their rows are examples.

    Raises:
        ValueError: naming the first that is missing, of another shape, empty, or not finite.

    >>> points = [Field("x", "float64", ("T", "S", 1)), Field("y", "float64", ("T", "S", 1))]
    >>> checked(points, {"x": np.zeros((2, 5, 1)), "y": np.zeros((2, 4, 1))})
    Traceback (most recent call last):
    ...
    ValueError: y [T, S, 1] float64: expected 5 support examples as in x, received 4
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"expected {', '.join(map(str, fields))} by name, received {type(given).__name__}")
    missing = [str(field) for field in fields if field.name not in given]
    if missing:
        raise ValueError(f"expected {', '.join(map(str, fields))}; received no {missing[0]}")
    arrays: dict[str, NDArray[Any]] = {}
    seen: dict[str, tuple[int, str]] = {}
    for field in fields:
        array = _as_array(field, given[field.name])
        require_sizes(field, array.shape, seen)
        array = _in_range(field, array)
        if not np.can_cast(array.dtype, field.dtype, "same_kind"):
            raise ValueError(f"{field}: received {array.dtype}")
        array = array.astype(field.dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{field}: expected finite numbers, received NaN or infinity")
        arrays[field.name] = array
    return arrays


def _as_array(field: Field, value: Any) -> NDArray[Any]:
    """An array of what a caller gave for a field."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return np.asarray(value.float() if value.dtype == torch.bfloat16 else value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{field}: expected lists of equal lengths, received others among them") from error
    if array.dtype == object:
        raise ValueError(f"{field}: received {type(value).__name__} of other things than numbers")
    return _of_one_task(field, array) if hasattr(value, "to_numpy") else array


def _of_one_task(field: Field, rows: NDArray[Any]) -> NDArray[Any]:
    """A frame's or a series' rows as the examples of one task; one column is a number or a label for each."""
    inner = len(field.shape) - 2  # dimensions of one example
    if rows.ndim == 1 and inner == 1:
        rows = rows[:, None]
    elif rows.ndim == 2 and inner == 0 and rows.shape[1] == 1:
        rows = rows[:, 0]
    return rows[None]


def _in_range(field: Field, array: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers of a field that holds all of them in its type; a cast would count on from the other end."""
    if array.dtype.kind in "iu" and np.dtype(field.dtype).kind in "iu":
        bounds = np.iinfo(field.dtype)
        if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
            raise ValueError(
                f"{field}: expected whole numbers that {field.dtype} holds, received {array.min()} to {array.max()}"
            )
        return array.astype(field.dtype)
    return array


def require_sizes(field: Field, shape: tuple[int, ...], seen: dict[str, tuple[int, str]]) -> None:
    """Check one array's shape, against the free sizes of those before it too, and note its own.

    Args:
        field: what is expected.
        shape: what is there.
        seen: free sizes by letter, each with the field that it was first met in; this one's are added.

    Raises:
        ValueError: naming the size that differs.
    """
    if len(shape) != len(field.shape):
        raise ValueError(f"{field}: received shape {list(shape)}")
    for declared, size in zip(field.shape, shape, strict=True):
        if isinstance(declared, int):
            if size != declared:
                raise ValueError(f"{field}: received shape {list(shape)}")
            continue
        letter, more, _ = declared.partition("+")
        size -= 1 if more else 0
        if size < 1:
            raise ValueError(f"{field}: expected at least one of the {MEANING[letter]}, received none")
        expected, where = seen.setdefault(letter, (size, field.name))
        if size != expected:
            raise ValueError(f"{field}: expected {expected} {MEANING[letter]} as in {where}, received {size}")
