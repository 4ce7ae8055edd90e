"""Values that calls of kernels compute: products, convolutions, poolings, running sums, scattered sums."""

from collections.abc import Sequence
from math import prod
from typing import Any

from meta.engine.native.indexing import combined
from meta.engine.native.ir import Kernel, Shape, Twin, Unsupported, Value, contiguous
from meta.engine.native.values import (
    IMAGES,
    WEIGHTS,
    all_shared,
    elementwise,
    expand,
    permute,
    reshape,
    squeeze,
    unsqueeze,
)


def mm(a: Value, b: Value) -> Value:
    """A matrix product."""
    (rows, inner), columns = a.shape, b.shape[1]
    return Kernel(
        (rows, columns),
        name="gemm",
        args=(a, b),
        orders=(None, None),
        order=(0, 1),
        sizes=(rows, columns, inner),
        shared=all_shared((a, b)),
    )


def bmm(a: Value, b: Value) -> Value:
    """Matrix products of two batches, [N, rows, inner] by [N, inner, columns]."""
    (batch, rows, inner), columns = a.shape, b.shape[2]
    if batch == 1:
        return unsqueeze(mm(squeeze(a, [0]), squeeze(b, [0])), 0)
    return Kernel(
        (batch, rows, columns),
        name="bmm",
        args=(a, b),
        orders=(None, None),
        order=(0, 1, 2),
        sizes=(rows, columns, inner),
        shared=all_shared((a, b)),
    )


def conv(which: str, one: Value, other: Value, x: Shape, w: Shape, stride: Any, padding: Any, groups: int) -> Value:
    """One of the three maps of a convolution with input shape ``x`` and weight shape ``w``; of one group or C."""
    out = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x[2:], w[2:], stride, padding, strict=True)]
    shape, orders, order = {
        "forward": ((x[0], w[0], *out), (IMAGES, WEIGHTS), IMAGES),
        "data": (x, (IMAGES, WEIGHTS), IMAGES),
        "weight": (w, (IMAGES, IMAGES), WEIGHTS),
    }[which]
    channels = (x[1], w[0]) if groups == 1 else (x[1],)
    sizes = (x[0], x[2], x[3], *channels, w[2], w[3], *stride, *padding)
    return Kernel(
        tuple(shape),
        name=which if groups == 1 else f"depthwise_{which}",
        args=(one, other),
        orders=orders,
        order=order,
        sizes=sizes,
        shared=all_shared((one, other)),
    )


def pool(x: Value, kernel: Any, stride: Any, padding: Any) -> tuple[Value, Value]:
    """The maxima, and their places row·width + column."""
    out = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(x.shape[2:], kernel, stride, padding, strict=True)]
    shape = (*x.shape[:2], *out)
    sizes = (x.shape[0], *x.shape[2:], x.shape[1], *kernel, *stride, *padding)
    best = Kernel(shape, name="pool", args=(x,), orders=(IMAGES,), order=IMAGES, sizes=sizes, shared=x.shared)
    best.twin = Twin(shape, "int", first=best, order=IMAGES, shared=x.shared)
    return best, best.twin


def unpool(g: Value, at: Value, size: Any) -> Value:
    """Each number at its place in a tensor of zeros, added up where places meet."""
    shape = (*g.shape[:2], *size)
    sizes = (g.shape[0], *g.shape[2:], g.shape[1], *size)
    args, orders = (g, at), (IMAGES, IMAGES)
    return Kernel(shape, name="unpool", args=args, orders=orders, order=IMAGES, sizes=sizes, shared=all_shared(args))


def pick(x: Value, at: Value) -> Value:
    """The numbers at the places."""
    sizes = (at.shape[0], *at.shape[2:], at.shape[1], *x.shape[2:])
    args, orders = (x, at), (IMAGES, IMAGES)
    return Kernel(at.shape, name="pick", args=args, orders=orders, order=IMAGES, sizes=sizes, shared=all_shared(args))


def argmax(source: Value, dim: Any = None, keepdim: bool = False) -> Value:
    """Place of the first maximum along the last dimension."""
    if dim is None or dim % len(source.shape) != len(source.shape) - 1 or keepdim or len(source.shape) != 2:
        raise Unsupported("argmax other than over the last dimension of a matrix")
    rows, columns = source.shape
    return Kernel(
        (rows,), "long", name="argmax", args=(source,), orders=((0, 1),), order=(0,), sizes=(rows, columns),
        shared=source.shared,
    )  # fmt: skip


def cumsum(source: Value, dim: int) -> Value:
    """Running sums along a dimension."""
    dim %= len(source.shape)
    shape, order = source.shape, contiguous(len(source.shape))
    sizes = (prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))
    args, orders = (source,), (order,)
    return Kernel(shape, name="cumsum", args=args, orders=orders, order=order, sizes=sizes, shared=source.shared)


def add_rows(source: Value, index: Value, rows: int) -> Value:
    """Sums [rows, ...] of the rows of ``source`` that go to each place; ``index`` [N] says where the N rows go.

    The adjoint of :func:`meta.engine.native.indexing.take`. A row whose place is outside is left out.
    """
    shape = (rows, *source.shape[1:])
    args = (source, index)
    return Kernel(
        shape,
        name="add_rows",
        args=args,
        orders=(contiguous(len(shape)), (0,)),
        order=contiguous(len(shape)),
        sizes=(index.numel, prod(shape[1:]), rows),
        shared=all_shared(args),
    )


def index_add(base: Value, dim: int, index: Value, source: Value) -> Value:
    """``base`` with slices of ``source`` added at the places ``index`` [N] of a dimension."""
    dim %= len(base.shape)
    front = [dim, *(other for other in range(len(base.shape)) if other != dim)]
    sums = add_rows(permute(source, front), index, base.shape[dim])
    back = [front.index(other) for other in range(len(front))]
    return elementwise("({0} + {1})", base, permute(sums, back))


def index_put(base: Value, indices: Sequence[Value | None], source: Value, accumulate: bool = False) -> Value:
    """``base`` with ``source`` added at integers along neighbouring dimensions, others taken whole.

    Raises:
        Unsupported: if numbers are replaced, not added, or dimensions are not neighbours.
    """
    if not accumulate:
        raise Unsupported("numbers that are replaced at integers")
    place, first, count = combined(base.shape, indices)
    rank = len(place.shape)
    inner = (*base.shape[:first], *place.shape, *base.shape[first + count :])
    wide = expand(source, inner)
    front = [*range(first, first + rank), *range(first), *range(first + rank, len(inner))]
    moved = permute(wide, front)
    moved = reshape(moved, (place.numel, *moved.shape[rank:]))
    sums = add_rows(moved, reshape(place, (place.numel,)), prod(base.shape[first : first + count]))
    back = permute(sums, [*range(1, first + 1), 0, *range(first + 1, len(sums.shape))])
    return elementwise("({0} + {1})", base, reshape(back, base.shape))


def scatter_add(base: Value, dim: int, index: Value, source: Value) -> Value:
    """``base`` with each number of ``source`` added at its integer of ``index`` along a dimension.

    Raises:
        Unsupported: if ``index`` is smaller than ``base`` along other dimensions.
    """
    dim %= len(base.shape)
    lengths = [size for other, size in enumerate(base.shape) if other != dim]
    if lengths != [size for other, size in enumerate(index.shape) if other != dim] or source.shape != index.shape:
        raise Unsupported("scatter_add with an index smaller than its base")
    front = [dim, *(other for other in range(len(base.shape)) if other != dim)]
    moved, places = permute(source, front), permute(index, front)
    order = contiguous(len(front))
    args = (moved, places)
    sums = Kernel(
        (base.shape[dim], *moved.shape[1:]),
        name="add_elements",
        args=args,
        orders=(order, order),
        order=order,
        sizes=(index.shape[dim], prod(lengths), base.shape[dim]),
        shared=all_shared(args),
    )
    back = [front.index(other) for other in range(len(front))]
    return elementwise("({0} + {1})", base, permute(sums, back))
