"""Elementwise operators: their C++, and the values made of it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

import meta.engine.native.values as v
from meta.engine.native.ir import Constant, Unsupported, Value

aten = torch.ops.aten
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
    aten.bitwise_and.Tensor: "({0} & {1})",
    aten.bitwise_and.Scalar: "({0} & {1})",
    aten.bitwise_or.Tensor: "({0} | {1})",
    aten.bitwise_xor.Tensor: "({0} ^ {1})",
    aten.isnan.default: "({0} != {0})",
    aten.floor.default: "std::floor({0})",
    aten.ceil.default: "std::ceil({0})",
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
    aten.sinh.default: "std::sinh({0})",
    aten.cosh.default: "std::cosh({0})",
    aten.atan.default: "std::atan({0})",
    aten.pow.Scalar: "std::pow({0}, {1})",
    aten.pow.Tensor_Tensor: "std::pow({0}, {1})",
}
CASTS = {"real": "real({0})", "long": "int64_t({0})", "bool": "bool({0})"}
POWERS = {0.0: "real(1)", 1.0: "{0}", 2.0: "({0} * {0})", 3.0: "({0} * {0} * {0})"}


def elementwise(node: Node, args: tuple[Any, ...]) -> Value:
    """Returns the value of an operator of either table."""
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


def power(node: Node, base: Value, exponent: float) -> Value:
    """Returns a power, by products where it is a small whole number."""
    del node
    number = float(exponent)
    if number == 0:
        return v.constant(1.0, base.shape)
    if number == 1:
        return base
    if number in POWERS:
        return v.elementwise(POWERS[number], base)
    return v.elementwise("std::pow({0}, {1})", base, v.constant(number), heavy=True)


def clamp(x: Value, low: Any = None, high: Any = None) -> Value:
    """Returns a value kept between two numbers, either of which may be None."""
    for bound, larger in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            x = v.elementwise(f"{larger}({{0}}, {{1}})", x, v.constant(bound, (), x.kind), kind=x.kind)
    return x


def leaky(node: Node, x: Value, slope: float = 0.01) -> Value:
    """Returns a leaky ReLU."""
    del node
    return v.elementwise("({0} > 0 ? {0} : {0} * {1})", x, v.constant(float(slope)))


def cast(node: Node, x: Value, **_: Any) -> Value:
    """Returns a value converted to the type that was recorded.

    Raises:
        Unsupported: if that type is not among those of programs.
    """
    recorded: Any = node.meta["tensor_meta"]
    kind = KINDS.get(recorded.dtype)
    if kind not in CASTS:
        raise Unsupported(f"a conversion to {recorded.dtype}")
    return x if x.kind == kind else v.elementwise(CASTS[kind], x, kind=kind)


def inverted(node: Node, x: Value) -> Value:
    """Returns the bits of integers, or truth values, turned."""
    del node
    return v.elementwise("(!{0})" if x.kind == "bool" else "(~{0})", x, kind=x.kind)


def remainder(node: Node, x: Value, divisor: Any) -> Value:
    """Returns what a division leaves over, with the divisor's sign."""
    del node
    other = divisor if isinstance(divisor, Value) else v.constant(divisor, (), x.kind)
    if x.kind == "real":
        return v.elementwise("({0} - {1} * std::floor({0} / {1}))", x, other, heavy=True)
    return v.elementwise("(({0} % {1} + {1}) % {1})", x, other, kind=x.kind)
