"""Values read and put at integers that are values themselves."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from meta.engine.native.ir import (
    ZERO,
    Choice,
    Index,
    Indices,
    Shape,
    Unsupported,
    Value,
    contiguous,
    offset,
    strides,
)
from meta.engine.native.values import all_shared, constant, elementwise, reshape, view


def gather(source: Value, dim: int, index: Value) -> Value:
    """Elements of ``source`` at the integers of ``index`` along a dimension."""
    dim %= len(source.shape)
    return Choice(
        index.shape,
        source.kind,
        one=source,
        index=index,
        one_at=lambda indices, place: (*indices[:dim], place, *indices[dim + 1 :]),
        shared=all_shared((source, index)),
    )


def take(source: Value, dim: int, index: Value) -> Value:
    """``source`` with a dimension replaced by those of ``index``, whose integers say what to take.

    An integer outside of the dimension gives NaN.
    """
    dim %= len(source.shape)
    size, rank = source.shape[dim], len(index.shape)
    outside = constant(math.nan if source.kind == "real" else 0, (*source.shape[:dim], 1, *source.shape[dim + 1 :]))
    return Choice(
        (*source.shape[:dim], *index.shape, *source.shape[dim + 1 :]),
        source.kind,
        one=source,
        other=outside,
        index=index,
        index_at=lambda indices: indices[dim : dim + rank],
        condition=lambda _, at: f"({at} >= 0 && {at} < {size})",
        one_at=lambda indices, at: (*indices[:dim], at, *indices[dim + rank :]),
        shared=all_shared((source, index)),
    )


def indexed(source: Value, indices: Sequence[Value | None]) -> Value:
    """``source`` at the integers of some neighbouring dimensions, None for dimensions taken whole."""
    place, first, count = combined(source.shape, indices)
    if count > 1:
        source = reshape(source, (*source.shape[:first], -1, *source.shape[first + count :]))
    return take(source, first, place)


def combined(shape: Shape, indices: Sequence[Value | None]) -> tuple[Value, int, int]:
    """Integers along neighbouring dimensions as one along their product, with the first dimension and their number.

    Negative integers count from the end, as in torch.

    Raises:
        Unsupported: if the dimensions are not neighbours.
    """
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if dims != list(range(dims[0], dims[-1] + 1)):
        raise Unsupported("integers along dimensions that are not neighbours")
    place: Value = constant(0)
    for dim in dims:
        index = indices[dim]
        assert index is not None
        if index.kind != "long":
            raise Unsupported(f"an index of kind {index.kind}")
        number = constant(shape[dim])
        positive = elementwise("({0} < 0 ? {0} + {1} : {0})", index, number, kind="long")
        place = elementwise("({0} * {1} + {2})", place, number, positive, kind="long")
    return place, dims[0], len(dims)


def scatter(base: Value, dim: int, index: Value, number: Any) -> Value:
    """``base`` with a number put at the integers of ``index``, one for each place along the other dimensions."""
    dim %= len(base.shape)
    if index.shape[dim] != 1 or _without(index.shape, dim) != _without(base.shape, dim):
        raise Unsupported("scatter of several elements along a dimension")
    return Choice(
        base.shape,
        base.kind,
        one=constant(number, base.shape, base.kind),
        other=base,
        index=index,
        index_at=lambda indices: (*indices[:dim], ZERO, *indices[dim + 1 :]),
        condition=lambda indices, place: f"({indices[dim]} == {place})",
        shared=all_shared((base, index)),
    )


def _without(shape: Shape, dim: int) -> Shape:
    return (*shape[:dim], *shape[dim + 1 :])


def as_strided(source: Value, size: Sequence[int], stride: Sequence[int], first: int = 0) -> Value:
    """Elements of a contiguous tensor by their places in memory."""

    def at(indices: Indices) -> Indices:
        place = Index((), first)
        for index, step in zip(indices, stride, strict=True):
            place = place.plus(index.times(step))
        return (place,)

    return view(reshape(source, (source.numel,)), tuple(size), at)


def as_strided_scatter(base: Value, source: Value, size: Sequence[int], stride: Sequence[int], first: int = 0) -> Value:
    """A contiguous tensor with elements replaced by their places in memory.

    Raises:
        Unsupported: if one place belongs to several elements.
    """
    dims = sorted((dim for dim in range(len(size)) if size[dim] > 1), key=lambda dim: -stride[dim])
    for dim, inner in pairwise(dims):
        if stride[dim] < size[inner] * stride[inner]:
            raise Unsupported("memory that several elements share")
    steps = strides(base.shape, contiguous(len(base.shape)))
    outer = [None, *(stride[dim] for dim in dims)]

    def numbers(indices: Indices) -> list[str]:
        place = offset(indices, steps).plus(Index((), -first))
        rests = [f"({place})" if step is None else f"(({place}) % {step})" for step in outer]
        return [*(f"({rest} / {stride[dim]})" for rest, dim in zip(rests, dims, strict=False)), rests[-1]]

    def condition(indices: Indices, _: Index) -> str:
        *places, rest = numbers(indices)
        within = [f"{place} < {size[dim]}" for place, dim in zip(places, dims, strict=True)]
        return f"({' && '.join([f'{offset(indices, steps)} >= {first}', *within, f'{rest} == 0'])})"

    def at(indices: Indices, _: Index) -> Indices:
        result = [ZERO] * len(size)
        for place, dim in zip(numbers(indices), dims, strict=False):
            result[dim] = Index.of(place)
        return tuple(result)

    return Choice(
        base.shape,
        base.kind,
        one=source,
        other=base,
        condition=condition,
        one_at=at,
        shared=all_shared((base, source)),
    )
