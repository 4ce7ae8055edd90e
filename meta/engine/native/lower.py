"""From a recorded graph of torch's operators to values."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

import meta.engine.native.values as v
from meta.engine.native import indexing
from meta.engine.native import kernels as k
from meta.engine.native.elementwise import (
    ELEMENTWISE,
    HEAVY,
    KINDS,
    cast,
    clamp,
    elementwise,
    inverted,
    leaky,
    power,
    remainder,
)
from meta.engine.native.ir import Choice, Copy, Index, Indices, Input, Unsupported, Value, contiguous, strides
from meta.engine.native.operations import OPS

aten, metaray = torch.ops.aten, OPS


def _scalar_kind(node: Node) -> str:
    return KINDS.get(node.kwargs.get("dtype"), "real")  # type: ignore[arg-type]


def lower(program: GraphModule, inputs: Sequence[Input], real: torch.dtype) -> list[Value]:
    """The outputs of a recorded program as values.

    Args:
        program: as recorded.
        inputs: its inputs in order, then the tensors that are stored in it, in the order of :func:`stored_tensors`.
        real: type of its numbers.

    Raises:
        Unsupported: naming the operator that has no translation.
    """
    values: dict[Node, Any] = {}
    remaining = iter(inputs)
    stored = dict(zip(reversed(stored_tensors(program)), reversed(inputs), strict=False))
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _entered(next(remaining))
        elif node.op == "output":
            return [values[one] for one in node.args[0]]
        elif node.op == "call_function":
            values[node] = _lower_node(node, values, real)
        else:
            values[node] = stored[node.target]
    raise AssertionError("a graph has an output")


def stored_tensors(program: GraphModule) -> dict[str, torch.Tensor]:
    """Tensors that are constants of a program, a module's buffers for instance, in order of their first use."""
    names = [node.target for node in program.graph.nodes if node.op == "get_attr"]
    return {name: getattr(program, name) for name in dict.fromkeys(names)}


def _entered(tensor: Input) -> Value:
    """An input as kernels want it: images and the weights of convolutions in the order they are read in."""
    if len(tensor.shape) != 4:
        return tensor
    order = v.WEIGHTS if tensor.shared else v.IMAGES
    return Copy(tensor.shape, tensor.kind, source=tensor, order=order, shared=tensor.shared)


def _lower_node(node: Node, values: dict[Node, Any], real: torch.dtype) -> Any:
    args = torch.fx.node.map_arg(node.args, values.__getitem__)
    target: Any = node.target
    if target in ELEMENTWISE or target in HEAVY:
        result = elementwise(node, args)
    elif target in SPECIAL:
        kwargs = torch.fx.node.map_arg(dict(node.kwargs), values.__getitem__)
        result = SPECIAL[target](node, *args, **kwargs)
    else:
        raise Unsupported(f"operator {target}")
    recorded: Any = node.meta.get("tensor_meta")
    if hasattr(recorded, "dtype") and recorded.dtype.is_floating_point and recorded.dtype != real:
        raise Unsupported(f"numbers of type {recorded.dtype} among those of {real}")
    if isinstance(result, Value) and hasattr(recorded, "shape") and tuple(recorded.shape) != result.shape:
        raise Unsupported(f"{target}: recorded as {tuple(recorded.shape)}, translated as {result.shape}")
    return result


def _mean(source: Value, dims: Any, keepdim: bool) -> Value:
    total = v.reduce(source, dims, keepdim, "sum")
    return v.elementwise("({0} * {1})", total, v.constant(total.numel / source.numel))


def _arange(start: int, end: int, step: int = 1) -> Value:
    """The integers ``start``, ``start + step``, … below ``end``, put together from the bits of the place."""
    count = max(0, -(-(end - start) // step))
    total: Value = v.constant(start, (count,), "long")
    for bit in range(max(count - 1, 0).bit_length()):
        amount = v.constant(step << bit, (count,), "long")
        there = Choice((count,), "long", one=amount, other=v.constant(0, (count,), "long"), condition=_has(bit))
        total = v.elementwise("({0} + {1})", total, there, kind="long")
    return total


def _has(bit: int) -> Callable[[Indices, Index], str]:
    return lambda indices, _: f"((({indices[0]}) >> {bit}) & 1)"


def _conv_forward(node: Node, x: Value, w: Value, *how: Any) -> Value:
    del node
    return k.conv("forward", x, w, x.shape, w.shape, *how)


def _conv_data(node: Node, g: Value, w: Value, stride: Any, padding: Any, groups: int, size: Any) -> Value:
    del node
    return k.conv("data", g, w, (g.shape[0], w.shape[1] * groups, *size), w.shape, stride, padding, groups)


def _conv_weight(node: Node, x: Value, g: Value, stride: Any, padding: Any, groups: int, kernel: Any) -> Value:
    del node
    w = (g.shape[1], x.shape[1] // groups, *kernel)
    return k.conv("weight", x, g, x.shape, w, stride, padding, groups)


def _t(node: Node, x: Value) -> Value:
    del node
    return v.permute(x, list(range(len(x.shape)))[::-1])


def _transpose(node: Node, x: Value, one: int, other: int) -> Value:
    del node
    dims = list(range(len(x.shape)))
    dims[one], dims[other] = dims[other], dims[one]
    return v.permute(x, dims)


def _select(node: Any, x: Value, dim: int, at: int) -> Value:
    del node
    at %= x.shape[dim % len(x.shape)]
    return v.squeeze(v.sliced(x, dim, at, at + 1), [dim])


def _select_backward(node: Node, g: Value, sizes: Any, dim: int, at: int) -> Value:
    del node
    zeros = v.constant(0.0, tuple(sizes))
    at %= sizes[dim]
    return v.slice_scatter(zeros, v.unsqueeze(g, dim % len(sizes)), dim, at, at + 1)


def _pad(node: Node, x: Value, sizes: Any, number: float = 0.0) -> Value:
    """Numbers around a tensor, fewer than none cut off; ``sizes`` from the last dimension on, before and after."""
    del node
    for place in range(len(sizes) // 2):
        dim, (before, after) = len(x.shape) - 1 - place, sizes[2 * place : 2 * place + 2]
        x = v.sliced(x, dim, max(0, -before), x.shape[dim] - max(0, -after))
        before, after = max(0, before), max(0, after)
        shape = (*x.shape[:dim], before + x.shape[dim] + after, *x.shape[dim + 1 :])
        if shape != x.shape:
            x = v.slice_scatter(v.constant(number, shape, x.kind), x, dim, before, before + x.shape[dim])
    return x


def _variance(node: Node, x: Value, dims: Any = None, *, correction: float | None = 1, keepdim: bool = False) -> Value:
    del node
    centred = v.elementwise("({0} - {1})", x, _mean(x, dims, True))
    total = v.reduce(v.elementwise("({0} * {0})", centred), dims, keepdim, "sum")
    degrees = x.numel // total.numel - (1 if correction is None else correction)
    return v.elementwise("({0} / {1})", total, v.constant(float(degrees)), heavy=True)


def _norm(node: Node, x: Value, order: float = 2, dims: Any = None, keepdim: bool = False, **_: Any) -> Value:
    del node
    if order != 2:
        raise Unsupported(f"a vector norm of order {order}")
    total = v.reduce(v.elementwise("({0} * {0})", x), dims, keepdim, "sum")
    return v.elementwise("std::sqrt({0})", total, heavy=True)


def _as_strided(node: Node, x: Value, size: Any, stride: Any, first: int = 0) -> Value:
    _require_contiguous(node)
    return indexing.as_strided(x, size, stride, first)


def _as_strided_scatter(node: Node, x: Value, source: Value, size: Any, stride: Any, first: int = 0) -> Value:
    _require_contiguous(node)
    return indexing.as_strided_scatter(x, source, size, stride, first)


def _require_contiguous(node: Node) -> None:
    recorded: Any = node.all_input_nodes[0].meta["tensor_meta"]
    if tuple(recorded.stride) != strides(recorded.shape, contiguous(len(recorded.shape))):
        raise Unsupported(f"{node.target} of a tensor that is not contiguous")


def _embedding(node: Node, weight: Value, index: Value, *options: Any) -> Value:
    del node, options
    return indexing.take(weight, 0, index)


def _embedding_backward(
    node: Node, g: Value, index: Value, rows: int, padding: int = -1, by_frequency: bool = False
) -> Value:
    del node
    if by_frequency:
        raise Unsupported("an embedding whose gradient is scaled by frequency")
    if padding >= 0:
        index = v.elementwise("({0} == {1} ? int64_t(-1) : {0})", index, v.constant(padding), kind="long")
    count = index.numel
    return k.add_rows(v.reshape(g, (count, g.shape[-1])), v.reshape(index, (count,)), rows)


def _any(node: Node, x: Value, dim: Any = None, keepdim: bool = False) -> Value:
    del node
    dims = None if dim is None else [dim] if isinstance(dim, int) else dim
    return v.elementwise("({0} != 0)", v.reduce(x, dims, keepdim, "max"), kind="bool")


def _copy(node: Node, base: Value, source: Value, *_: Any) -> Value:
    return v.expand(cast(node, source), base.shape)


def _empty(node: Node, *_: Any, **__: Any) -> Value:
    """Memory that is written before it is read."""
    recorded: Any = node.meta["tensor_meta"]
    return v.constant(0, tuple(recorded.shape), KINDS.get(recorded.dtype, "real"))


def _iota(node: Node, length: int, *, start: int = 0, step: int = 1, **_: Any) -> Value:
    del node
    return _arange(start, start + step * length, step)


SPECIAL: dict[Any, Callable[..., Any]] = {
    aten.permute.default: lambda _, x, dims: v.permute(x, dims),
    aten.t.default: _t,
    aten.transpose.int: _transpose,
    aten.view.default: lambda _, x, shape: v.reshape(x, shape),
    aten._unsafe_view.default: lambda _, x, shape: v.reshape(x, shape),
    aten.reshape.default: lambda _, x, shape: v.reshape(x, shape),
    aten.expand.default: lambda _, x, shape, **__: v.expand(x, tuple(shape)),
    aten.unsqueeze.default: lambda _, x, dim: v.unsqueeze(x, dim),
    aten.squeeze.dims: lambda _, x, dims: v.squeeze(x, dims),
    aten.squeeze.dim: lambda _, x, dim: v.squeeze(x, [dim]),
    aten.select.int: _select,
    aten.unbind.int: lambda _, x, dim=0: tuple(_select(_, x, dim, at) for at in range(x.shape[dim])),
    aten.select_scatter.default: lambda _, x, source, dim, at: v.slice_scatter(
        x, v.unsqueeze(source, dim), dim, at % x.shape[dim], at % x.shape[dim] + 1
    ),
    aten.select_backward.default: _select_backward,
    aten.slice.Tensor: lambda _, x, *a, **k: v.sliced(x, *a, **k),
    aten.slice_scatter.default: lambda _, *a, **k: v.slice_scatter(*a, **k),
    aten.cat.default: lambda _, parts, dim=0: v.cat(parts, dim),
    aten.stack.default: lambda _, parts, dim=0: v.cat([v.unsqueeze(part, dim) for part in parts], dim),
    aten.gather.default: lambda _, x, dim, index, **__: indexing.gather(x, dim, index),
    aten.scatter.value: lambda _, x, dim, index, number: indexing.scatter(x, dim, index, number),
    aten.scatter_add.default: lambda _, x, dim, index, source: k.scatter_add(x, dim, index, source),
    aten.index_select.default: lambda _, x, dim, index: indexing.take(x, dim, index),
    aten.index.Tensor: lambda _, x, indices: indexing.indexed(x, indices),
    aten.index_put.default: lambda _, *a: k.index_put(*a),
    aten._unsafe_index_put.default: lambda _, *a: k.index_put(*a),
    aten.index_add.default: lambda _, *a: k.index_add(*a),
    aten.embedding.default: _embedding,
    aten.embedding_dense_backward.default: _embedding_backward,
    aten.split_with_sizes.default: lambda _, x, sizes, dim=0: v.split(x, sizes, dim),
    aten.flip.default: lambda _, x, dims: v.flipped(x, dims),
    aten.cumsum.default: lambda _, x, dim, **__: k.cumsum(x, dim),
    aten.as_strided.default: _as_strided,
    aten.as_strided_scatter.default: _as_strided_scatter,
    aten.constant_pad_nd.default: _pad,
    aten.var.correction: _variance,
    aten.linalg_vector_norm.default: _norm,
    aten.any.dim: _any,
    aten.any.dims: _any,
    aten.any.default: _any,
    aten.bitwise_not.default: inverted,
    aten.remainder.Scalar: remainder,
    aten.remainder.Tensor: remainder,
    aten.copy.default: _copy,
    aten.new_empty_strided.default: _empty,
    aten.empty_permuted.default: _empty,
    aten.empty_strided.default: _empty,
    aten.new_empty.default: _empty,
    aten.empty.memory_format: _empty,
    torch.ops.prims.iota.default: _iota,
    # The derivative has been taken before: a recorded program is plain arithmetic, in which these change nothing.
    aten.alias.default: lambda _, x: x,
    aten.detach.default: lambda _, x: x,
    aten.clone.default: lambda _, x, **__: x,
    aten._to_copy.default: cast,
    aten.full.default: lambda n, shape, number, **__: v.constant(number, tuple(shape), _scalar_kind(n)),
    aten.arange.start_step: lambda _, *bounds, **__: _arange(*bounds),
    aten.clamp.default: lambda _, *a: clamp(*a),
    aten.full_like.default: lambda _, x, number, **__: v.constant(number, x.shape, x.kind),
    aten.zeros_like.default: lambda _, x, **__: v.constant(0, x.shape, x.kind),
    aten._new_zeros_with_same_feature_meta.default: lambda _, x, like, **__: v.constant(0, like.shape, x.kind),
    aten.ones_like.default: lambda _, x, **__: v.constant(1, x.shape, x.kind),
    aten.scalar_tensor.default: lambda n, number, **__: v.constant(number, (), _scalar_kind(n)),
    aten.sum.dim_IntList: lambda _, x, dims, keepdim=False: v.reduce(x, dims, keepdim, "sum"),
    aten.sum.default: lambda _, x: v.reduce(x, None, False, "sum"),
    aten.amax.default: lambda _, x, dims=(), keepdim=False: v.reduce(x, dims, keepdim, "max"),
    aten.mean.dim: lambda _, x, dims, keepdim=False: _mean(x, dims, keepdim),
    aten.mean.default: lambda _, x: _mean(x, None, False),
    aten.pow.Tensor_Scalar: power,
    aten.leaky_relu.default: leaky,
    aten.mm.default: lambda _, a, b: k.mm(a, b),
    aten.bmm.default: lambda _, a, b: k.bmm(a, b),
    aten.argmax.default: lambda _, *a: k.argmax(*a),
    metaray.conv.default: _conv_forward,
    metaray.conv_data.default: _conv_data,
    metaray.conv_weight.default: _conv_weight,
    metaray.pool.default: lambda _, *a: k.pool(*a),
    metaray.unpool.default: lambda _, *a: k.unpool(*a),
    metaray.pick.default: lambda _, *a: k.pick(*a),
    operator.getitem: lambda _, pair, place: pair[place],
}
