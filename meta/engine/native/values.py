"""Values made from values: views, elementwise expressions, reductions, contractions.

Shapes follow torch's rules. A view of a constant is a constant; what depends on θ alone stays marked as shared.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from meta.engine.native.ir import (
    ZERO,
    Choice,
    Constant,
    Copy,
    Index,
    Indices,
    Joined,
    Map,
    Reduction,
    Shape,
    Value,
    View,
    contiguous,
)

FEW = 4  # parts that are chosen from, element by element; more are written one after the other
IMAGES = (0, 2, 3, 1)  # examples, rows, columns, channels
WEIGHTS = (2, 3, 1, 0)  # rows, columns, entering channels, leaving channels


def constant(number: Any, shape: Shape = (), kind: str | None = None) -> Constant:
    """A constant of a shape."""
    if kind is None:
        kind = "bool" if isinstance(number, bool) else "long" if isinstance(number, int) else "real"
    return Constant(shape, kind, number=number)


def elementwise(template: str, *args: Value, kind: str = "real", heavy: bool = False) -> Value:
    """An elementwise expression, its arguments broadcast against each other."""
    shape = torch.broadcast_shapes(*(arg.shape for arg in args))
    wide = tuple(expand(arg, tuple(shape)) for arg in args)
    return Map(tuple(shape), kind, template=template, args=wide, heavy=heavy, shared=all_shared(wide))


def view(source: Value, shape: Shape, at: Callable[[Indices], Indices]) -> Value:
    """A source seen in another shape; a view of a constant is a constant."""
    if isinstance(source, Constant):
        return Constant(shape, source.kind, number=source.number)
    return View(shape, source.kind, source=source, at=at, shared=source.shared)


def expand(source: Value, shape: Shape) -> Value:
    """Broadcast to a shape, -1 keeping a size."""
    new = len(shape) - len(source.shape)
    shape = tuple(source.shape[dim - new] if size == -1 else size for dim, size in enumerate(shape))
    if shape == source.shape:
        return source
    kept = tuple(size != 1 or shape[new + dim] == 1 for dim, size in enumerate(source.shape))
    return view(
        source,
        shape,
        lambda indices: tuple(i if keep else ZERO for i, keep in zip(indices[new:], kept, strict=True)),
    )


def permute(source: Value, dims: Sequence[int]) -> Value:
    """Dimensions in another order."""
    dims = [dim % len(source.shape) for dim in dims]
    if dims == sorted(dims):
        return source
    inverse = [dims.index(dim) for dim in range(len(dims))]
    shape = tuple(source.shape[dim] for dim in dims)
    moved = view(source, shape, lambda indices: tuple(indices[place] for place in inverse))
    if isinstance(moved, View):
        moved.dims = tuple(dims)
    return moved


def reshape(source: Value, shape: Sequence[int]) -> Value:
    """The same elements in row-major order under another shape."""
    target = list(shape)
    if -1 in target:
        target[target.index(-1)] = source.numel // max(1, -math.prod(target))
    if tuple(target) == source.shape:
        return source
    groups = _reshape_groups(source.shape, tuple(target))
    if any(sum(source.shape[dim] != 1 for dim in old) > 1 for old, _ in groups) and not isinstance(source, Constant):
        # Several dimensions become one: read from memory where they lie one after the other.
        source = Copy(
            source.shape, source.kind, source=source, order=contiguous(len(source.shape)), shared=source.shared
        )
        flat = view(source, (source.numel,), _row_major(source.shape))
        return view(flat, tuple(target), lambda indices: (_combined(indices, tuple(target)),))
    return view(source, tuple(target), lambda indices: _regrouped(indices, groups, source.shape, tuple(target)))


def reduce(source: Value, dims: Sequence[int] | None, keepdim: bool, what: str) -> Value:
    """A sum or maximum over dimensions."""
    rank = len(source.shape)
    over = tuple(sorted({dim % rank for dim in dims})) if dims else tuple(range(rank))
    if source.kind != "real":
        source = elementwise("real({0})", source)
    kept = tuple(1 if dim in over else size for dim, size in enumerate(source.shape))
    result: Value = source
    if over:
        result = Reduction(kept, "real", source=source, over=over, what=what, shared=source.shared)
    return result if keepdim else squeeze(result, over)


def squeeze(source: Value, dims: Sequence[int]) -> Value:
    """Drop dimensions of size one."""
    rank = len(source.shape)
    gone = {dim % rank for dim in dims if source.shape[dim % rank] == 1}
    places = [dim for dim in range(rank) if dim not in gone]

    def at(indices: Indices) -> Indices:
        at_rank = [ZERO] * rank
        for place, index in zip(places, indices, strict=True):
            at_rank[place] = index
        return tuple(at_rank)

    return view(source, tuple(source.shape[dim] for dim in places), at)


def unsqueeze(source: Value, dim: int) -> Value:
    """Insert a dimension of size one."""
    dim %= len(source.shape) + 1
    shape = (*source.shape[:dim], 1, *source.shape[dim:])
    return view(source, shape, lambda indices: (*indices[:dim], *indices[dim + 1 :]))


def sliced(source: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """Every ``step``-th element of a dimension."""
    dim, start, stop = _slice(source.shape, dim, start, end)
    size = len(range(start, stop, step))
    if size == source.shape[dim]:
        return source
    if isinstance(source, View) and source.dims is not None:
        return permute(sliced(source.source, source.dims[dim], start, stop, step), source.dims)
    part = _part(source, dim, start, stop)
    if part is not None:
        return sliced(part[0], dim, start - part[1], stop - part[1], step)

    def at(indices: Indices) -> Indices:
        moved = indices[dim].times(step).plus(Index((), start))
        return (*indices[:dim], moved, *indices[dim + 1 :])

    return view(source, (*source.shape[:dim], size, *source.shape[dim + 1 :]), at)


def _spread(base: Value, source: Value, dim: int, start: int, step: int) -> Value:
    """``base`` with every ``step``-th element of a dimension replaced."""
    last = start + step * (source.shape[dim] - 1)

    def condition(indices: Indices, _: Index) -> str:
        index = indices[dim]
        return f"({index} >= {start} && {index} <= {last} && ({index.plus(Index((), -start))}) % {step} == 0)"

    def at(indices: Indices, _: Index) -> Indices:
        place = Index.of(f"(({indices[dim].plus(Index((), -start))}) / {step})")
        return (*indices[:dim], place, *indices[dim + 1 :])

    return Choice(
        base.shape, base.kind, one=source, other=base, condition=condition, one_at=at, shared=all_shared((base, source))
    )


def _part(source: Value, dim: int, start: int, stop: int) -> tuple[Value, int] | None:
    """The value that a slice of something joined or replaced lies in, and that value's first place; None if several."""
    if isinstance(source, Choice) and source.span is not None and source.span[0] == dim:
        _, first, last = source.span
        if first <= start and stop <= last:
            return source.one, first
        if (stop <= first or last <= start) and source.other is not None:
            return source.other, 0
    if isinstance(source, Joined) and source.dim == dim:
        first = 0
        for part in source.parts:
            if first <= start and stop <= first + part.shape[dim]:
                return part, first
            first += part.shape[dim]
    return None


def slice_scatter(base: Value, source: Value, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Value:
    """``base`` with a slice of it replaced."""
    dim, start, stop = _slice(base.shape, dim, start, end)
    if step != 1:
        return _spread(base, source, dim, start, step)
    if stop - start == base.shape[dim]:
        return source
    return Choice(
        base.shape,
        base.kind,
        one=source,
        other=base,
        condition=lambda indices, _: f"({indices[dim]} >= {start} && {indices[dim]} < {stop})",
        one_at=lambda indices, _: (*indices[:dim], indices[dim].plus(Index((), -start)), *indices[dim + 1 :]),
        span=(dim, start, stop),
        shared=all_shared((base, source)),
    )


def cat(parts: Sequence[Value], dim: int = 0) -> Value:
    """Parts one after the other."""
    parts = [part for part in parts if part.numel]
    dim %= len(parts[0].shape)
    if len(parts) > FEW:
        size = sum(part.shape[dim] for part in parts)
        shape = (*parts[0].shape[:dim], size, *parts[0].shape[dim + 1 :])
        return Joined(shape, parts[0].kind, parts=tuple(parts), dim=dim, shared=all_shared(parts))
    total = parts[-1]
    for part in reversed(parts[:-1]):
        total = _cat_two(part, total, dim)
    return total


def _cat_two(one: Value, other: Value, dim: int) -> Value:
    first = one.shape[dim]
    shape = (*one.shape[:dim], first + other.shape[dim], *one.shape[dim + 1 :])
    return Choice(
        shape,
        one.kind,
        one=one,
        other=other,
        condition=lambda indices, _: f"({indices[dim]} < {first})",
        other_at=lambda indices: (*indices[:dim], indices[dim].plus(Index((), -first)), *indices[dim + 1 :]),
        shared=all_shared((one, other)),
    )


def flipped(source: Value, dims: Sequence[int]) -> Value:
    """Some dimensions in reverse."""
    turned = {dim % len(source.shape) for dim in dims}
    ends = [Index((), size - 1) for size in source.shape]
    return view(
        source,
        source.shape,
        lambda indices: tuple(
            ends[dim].plus(index.times(-1)) if dim in turned else index for dim, index in enumerate(indices)
        ),
    )


def split(source: Value, sizes: Sequence[int], dim: int = 0) -> tuple[Value, ...]:
    """Consecutive parts of a dimension."""
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    return tuple(sliced(source, dim, end - size, end) for end, size in zip(ends, sizes, strict=True))


def all_shared(values: Sequence[Value]) -> bool:
    """Returns whether all values depend on θ alone."""
    return all(value.shared for value in values)


def _slice(shape: Shape, dim: int, start: Any, end: Any) -> tuple[int, int, int]:
    dim %= len(shape)
    first, last, _ = slice(start, end).indices(shape[dim])
    return dim, first, max(first, last)


def _reshape_groups(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions of equal product, those of size one in the run before or after."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        old_dims, new_dims = [], []
        a = b = 1
        if i < len(old):
            old_dims, a, i = [i], old[i], i + 1
        if j < len(new):
            new_dims, b, j = [j], new[j], j + 1
        while a != b:
            if (a < b and i < len(old)) or j == len(new):
                old_dims.append(i)
                a, i = a * old[i], i + 1
            else:
                new_dims.append(j)
                b, j = b * new[j], j + 1
        groups.append((old_dims, new_dims))
    return groups


def _combined(indices: Sequence[Index], shape: Shape) -> Index:
    """The row-major number of an element."""
    total = ZERO
    for index, size in zip(indices, shape, strict=True):
        total = total.times(size).plus(index if size != 1 else ZERO)
    return total


def _regrouped(indices: Indices, groups: list[tuple[list[int], list[int]]], old: Shape, new: Shape) -> Indices:
    result = [ZERO] * len(old)
    for old_dims, new_dims in groups:
        place = next((dim for dim in old_dims if old[dim] != 1), None)
        if place is not None:
            result[place] = _combined([indices[dim] for dim in new_dims], tuple(new[dim] for dim in new_dims))
    return tuple(result)


def _row_major(shape: Shape) -> Callable[[Indices], Indices]:
    """Indices that give element number n of a dense row-major tensor: all of n in the last dimension."""
    return lambda indices: (*(ZERO for _ in shape[1:]), indices[0])
