"""Bodies of requests and answers as types that pydantic knows: requests are checked by them, and both described."""

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
    with_config,
)
from pydantic import Field as Bounds
from pydantic.config import JsonDict

from cluster.registry.fields import MEANING, Field
from cluster.serving.archives import SOURCES, in_range
from cluster.serving.limits import Limits
from cluster.serving.lists import array_of, whole

CLOSED = ConfigDict(extra="forbid", strict=True)
KINDS: dict[str, Any] = {"f": float, "b": bool}  # others are whole numbers


class Params(BaseModel):
    """How far to adapt; :func:`asked_of` adds a model's own values."""

    model_config = CLOSED

    inner_steps: int
    inner_lr: float


class Asked(BaseModel):
    """A request in JSON; :func:`asked_of` adds the arrays that a model takes."""

    model_config = CLOSED

    inputs: Any
    params: Params | None = None


@with_config(CLOSED)
@dataclass(frozen=True, kw_only=True)
class Error:
    """Why a request is refused."""

    error_code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """Whether the threads that adapt live."""

    status: str


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Whether new requests are taken, how many are inside and on their way, and why no other version is served."""

    ready: bool
    requests: int
    arriving: int
    warning: str | None = None


@lru_cache(maxsize=16)
def asked_of(fields: tuple[Field, ...], inner_steps: int, inner_lr: float, limits: Limits) -> type[Asked]:
    """The model of a request for some arrays.

    Args:
        fields: the arrays.
        inner_steps: inner steps unless the request says otherwise.
        inner_lr: α unless the request says otherwise.
        limits: what is accepted.
    """
    params = create_model(
        "Params",
        __base__=Params,
        inner_steps=(Annotated[int, Bounds(ge=0, le=limits.steps)], inner_steps),
        inner_lr=(Annotated[float, Bounds(ge=0, allow_inf_nan=False)], inner_lr),
    )
    lists: dict[str, Any] = {field.name: lists_of(field, limits) for field in fields}
    inputs = create_model("Inputs", __config__=CLOSED, **lists)
    return create_model("Question", __base__=Asked, inputs=inputs, params=(params | None, None))


def lists_of(field: Field, limits: Limits) -> Any:
    """The type of an array in JSON: lists in lists, down to the numbers; an array once it is checked.

    Args:
        field: the array.
        limits: what is accepted.
    """
    dtype = np.dtype(field.dtype)
    kind: Any = KINDS.get(dtype.kind)
    if kind is None:
        kind = Annotated[int, Bounds(ge=int(np.iinfo(dtype).min), le=int(np.iinfo(dtype).max))]
    for size in reversed(field.shape):
        least, most = (size, size) if isinstance(size, int) else (2 if "+" in size else 1, None)
        kind = Annotated[list[kind], Bounds(min_length=least, max_length=most), FailFast()]
    sizes = ", ".join(f"{size} {MEANING[size]}" for size in field.shape if isinstance(size, str))
    tasks: JsonDict = {"maxItems": limits.tasks} if field.shape[0] == "T" else {}  # checked for all forms at one place
    about = Bounds(description=f"{field}: {sizes}", json_schema_extra=tasks)
    return Annotated[kind, WrapValidator(partial(_array, field)), about]


def _array(field: Field, value: Any, check: ValidatorFunctionWrapHandler) -> NDArray[Any]:
    """The array of a field: at once from a text of numbers, else from lists that are checked one by one."""
    if isinstance(value, bytes):
        array = array_of(value, len(field.shape))
        if array is not None and array.dtype.kind in SOURCES[np.dtype(field.dtype).kind]:
            return in_range(field, array)
        value = whole(value)
    lists = check(value)
    try:
        return np.array(lists, dtype=field.dtype)
    except ValueError:
        raise ValueError("expected lists of equal lengths, received others among them") from None
