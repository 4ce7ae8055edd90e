"""From a recorded graph of torch's operators to values."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

import meta.engine.native.values as v
from meta.engine.native.ir import Choice, Constant, Copy, Index, Indices, Input, Unsupported, Value
from meta.engine.native.operations import OPS

aten, metaray = torch.ops.aten, OPS
KINDS = {
    torch.float32: "real",
    torch.float64: "real",
    torch.int64: "long",
    torch.bool: "bool",
    torch.uint8: "byte",
}

# Elementwise operators and their C++; {0}, {1} are the operands.
ELEMENTWISE: dict[Any, str] = {
    aten.add.Tensor: "({0} + {1})",
    aten.add.Scalar: "({0} + {1})",
    aten.sub.Tensor: "({0} - {1})",
    aten.sub.Scalar: "({0} - {1})",
    aten.rsub.Scalar: "({1} - {0})",
    aten.mul.Tensor: "({0} * {1})",
    aten.mul.Scalar: "({0} * {1})",
    aten.neg.default: "(-{0})",
    # A comparison with NaN is false, so that NaN passes.
    aten.relu.default: "({0} <= 0 ? real(0) : {0})",
    aten.abs.default: "std::abs({0})",
    aten.maximum.default: "maximum({0}, {1})",
    aten.minimum.default: "minimum({0}, {1})",
    aten.le.Scalar: "({0} <= {1})",
    aten.le.Tensor: "({0} <= {1})",
    aten.lt.Scalar: "({0} < {1})",
    aten.lt.Tensor: "({0} < {1})",
    aten.ge.Scalar: "({0} >= {1})",
    aten.ge.Tensor: "({0} >= {1})",
    aten.gt.Scalar: "({0} > {1})",
    aten.gt.Tensor: "({0} > {1})",
    aten.eq.Scalar: "({0} == {1})",
    aten.eq.Tensor: "({0} == {1})",
    aten.ne.Scalar: "({0} != {1})",
    aten.ne.Tensor: "({0} != {1})",
    aten.logical_and.default: "({0} && {1})",
    aten.logical_or.default: "({0} || {1})",
    aten.logical_not.default: "(!{0})",
    aten.where.self: "({0} ? {1} : {2})",
    aten.sign.default: "real(({0} > 0) - ({0} < 0))",
}
HEAVY: dict[Any, str] = {
    aten.div.Tensor: "({0} / {1})",
    aten.div.Scalar: "({0} / {1})",
    aten.reciprocal.default: "(real(1) / {0})",
    aten.sqrt.default: "std::sqrt({0})",
    aten.rsqrt.default: "(real(1) / std::sqrt({0}))",
    aten.exp.default: "std::exp({0})",
    aten.log.default: "std::log({0})",
    aten.log1p.default: "std::log1p({0})",
    aten.expm1.default: "std::expm1({0})",
    aten.tanh.default: "std::tanh({0})",
    aten.sigmoid.default: "(real(1) / (real(1) + std::exp(-{0})))",
    aten.sin.default: "std::sin({0})",
    aten.cos.default: "std::cos({0})",
    aten.erf.default: "std::erf({0})",
}
CASTS = {"real": "real({0})", "long": "int64_t({0})", "bool": "bool({0})"}
POWERS = {0.0: "real(1)", 1.0: "{0}", 2.0: "({0} * {0})", 3.0: "({0} * {0} * {0})"}


def _scalar_kind(node: Node) -> str:
    return KINDS.get(node.kwargs.get("dtype"), "real")  # type: ignore[arg-type]


def lower(program: GraphModule, inputs: Sequence[Input], real: torch.dtype) -> list[Value]:
    """The outputs of a recorded program as values.

    Raises:
        Unsupported: naming the operator that has no translation.
    """
    values: dict[Node, Any] = {}
    given = iter(inputs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            values[node] = _entered(next(given))
        elif node.op == "output":
            return [values[one] for one in node.args[0]]
        elif node.op == "call_function":
            values[node] = _lower_node(node, values, real)
        else:
            raise Unsupported(f"tensors that are stored in the program ({node.target})")
    raise AssertionError("a graph has an output")


def _entered(given: Input) -> Value:
    """An input as kernels want it: images and the weights of convolutions in the order they are read in."""
    if len(given.shape) != 4:
        return given
    order = v.WEIGHTS if given.shared else v.IMAGES
    return Copy(given.shape, given.kind, source=given, order=order, shared=given.shared)


def _lower_node(node: Node, values: dict[Node, Any], real: torch.dtype) -> Any:
    args = torch.fx.node.map_arg(node.args, values.__getitem__)
    target: Any = node.target
    if target in ELEMENTWISE or target in HEAVY:
        result = _elementwise(node, args)
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


def _elementwise(node: Node, args: tuple[Any, ...]) -> Value:
    target: Any = node.target
    if node.kwargs and {"alpha": 1} | node.kwargs != {"alpha": 1}:
        raise Unsupported(f"operator {target} with {dict(node.kwargs)}")
    recorded: Any = node.meta["tensor_meta"]
    kind = KINDS[recorded.dtype]
    numbers = [arg for arg in args if not isinstance(arg, Value)]
    operands = [arg if isinstance(arg, Value) else v.constant(float(arg) if _reals(args) else arg) for arg in args]
    # What changes nothing is left out.
    if target in (aten.mul.Scalar, aten.div.Scalar) and numbers == [1]:
        return operands[0]
    if target is aten.add.Tensor:
        zero = next((o for o in operands if isinstance(o, Constant) and o.number == 0 and o.kind == "real"), None)
        rest = [o for o in operands if o is not zero]
        if zero is not None and len(rest) == 1 and rest[0].shape == tuple(recorded.shape):
            return rest[0]
    if target is aten.div.Scalar and kind == "real":
        # A multiplication takes a fraction of the time; the result may differ from torch's in the last bit.
        return v.elementwise("({0} * {1})", operands[0], v.constant(1.0 / numbers[0]))
    if target in HEAVY:
        return v.elementwise(HEAVY[target], *operands, kind=kind, heavy=True)
    return v.elementwise(ELEMENTWISE[target], *operands, kind=kind)


def _reals(args: Sequence[Any]) -> bool:
    return any(isinstance(arg, Value) and arg.kind == "real" for arg in args)


def _power(node: Node, base: Value, exponent: float) -> Value:
    del node
    power = float(exponent)
    if power == 0:
        return v.constant(1.0, base.shape)
    if power == 1:
        return base
    if power in POWERS:
        return v.elementwise(POWERS[power], base)
    return v.elementwise("std::pow({0}, {1})", base, v.constant(power), heavy=True)


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


def _clamp(x: Value, low: Any = None, high: Any = None) -> Value:
    for bound, larger in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            x = v.elementwise(f"{larger}({{0}}, {{1}})", x, v.constant(bound, (), x.kind), kind=x.kind)
    return x


def _leaky(node: Node, x: Value, slope: float = 0.01) -> Value:
    del node
    return v.elementwise("({0} > 0 ? {0} : {0} * {1})", x, v.constant(float(slope)))


def _conv_forward(node: Node, x: Value, w: Value, stride: Any, padding: Any) -> Value:
    del node
    return v.conv("forward", x, w, x.shape, w.shape, stride, padding)


def _conv_data(node: Node, g: Value, w: Value, stride: Any, padding: Any, size: Any) -> Value:
    del node
    return v.conv("data", g, w, (g.shape[0], w.shape[1], *size), w.shape, stride, padding)


def _conv_weight(node: Node, x: Value, g: Value, stride: Any, padding: Any, kernel: Any) -> Value:
    del node
    return v.conv("weight", x, g, x.shape, (g.shape[1], x.shape[1], *kernel), stride, padding)


def _t(node: Node, x: Value) -> Value:
    del node
    return v.permute(x, list(range(len(x.shape)))[::-1])


def _transpose(node: Node, x: Value, one: int, other: int) -> Value:
    del node
    dims = list(range(len(x.shape)))
    dims[one], dims[other] = dims[other], dims[one]
    return v.permute(x, dims)


def _select(node: Node, x: Value, dim: int, at: int) -> Value:
    del node
    at %= x.shape[dim % len(x.shape)]
    return v.squeeze(v.sliced(x, dim, at, at + 1), [dim])


def _cast(node: Node, x: Value, **_: Any) -> Value:
    recorded: Any = node.meta["tensor_meta"]
    kind = KINDS.get(recorded.dtype)
    if kind not in CASTS:
        raise Unsupported(f"a conversion to {recorded.dtype}")
    return x if x.kind == kind else v.elementwise(CASTS[kind], x, kind=kind)


def _bmm(node: Node, a: Value, b: Value) -> Value:
    del node
    if a.shape[0] != 1:
        raise Unsupported("a batch of matrix products within one task")
    return v.unsqueeze(v.mm(v.squeeze(a, [0]), v.squeeze(b, [0])), 0)


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
    aten.slice.Tensor: lambda _, x, *a, **k: v.sliced(x, *a, **k),
    aten.slice_scatter.default: lambda _, *a, **k: v.slice_scatter(*a, **k),
    aten.cat.default: lambda _, parts, dim=0: v.cat(parts, dim),
    aten.stack.default: lambda _, parts, dim=0: v.cat([v.unsqueeze(part, dim) for part in parts], dim),
    aten.gather.default: lambda _, x, dim, index, **__: v.gather(x, dim, index),
    aten.scatter.value: lambda _, x, dim, index, number: v.scatter(x, dim, index, number),
    # The derivative has been taken before: a recorded program is plain arithmetic, in which these change nothing.
    aten.alias.default: lambda _, x: x,
    aten.detach.default: lambda _, x: x,
    aten.clone.default: lambda _, x, **__: x,
    aten._to_copy.default: _cast,
    aten.full.default: lambda n, shape, number, **__: v.constant(number, tuple(shape), _scalar_kind(n)),
    aten.arange.start_step: lambda _, *bounds, **__: _arange(*bounds),
    aten.clamp.default: lambda _, *a: _clamp(*a),
    aten.full_like.default: lambda _, x, number, **__: v.constant(number, x.shape, x.kind),
    aten.zeros_like.default: lambda _, x, **__: v.constant(0, x.shape, x.kind),
    aten.ones_like.default: lambda _, x, **__: v.constant(1, x.shape, x.kind),
    aten.scalar_tensor.default: lambda n, number, **__: v.constant(number, (), _scalar_kind(n)),
    aten.sum.dim_IntList: lambda _, x, dims, keepdim=False: v.reduce(x, dims, keepdim, "sum"),
    aten.sum.default: lambda _, x: v.reduce(x, None, False, "sum"),
    aten.amax.default: lambda _, x, dims=(), keepdim=False: v.reduce(x, dims, keepdim, "max"),
    aten.mean.dim: lambda _, x, dims, keepdim=False: _mean(x, dims, keepdim),
    aten.mean.default: lambda _, x: _mean(x, None, False),
    aten.pow.Tensor_Scalar: _power,
    aten.leaky_relu.default: _leaky,
    aten.mm.default: lambda _, a, b: v.mm(a, b),
    aten.bmm.default: _bmm,
    aten.argmax.default: lambda _, *a: v.argmax(*a),
    metaray.conv.default: _conv_forward,
    metaray.conv_data.default: _conv_data,
    metaray.conv_weight.default: _conv_weight,
    metaray.pool.default: lambda _, *a: v.pool(*a),
    metaray.unpool.default: lambda _, *a: v.unpool(*a),
    metaray.pick.default: lambda _, *a: v.pick(*a),
    operator.getitem: lambda _, pair, place: pair[place],
}
