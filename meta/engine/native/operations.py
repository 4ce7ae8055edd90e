"""Convolution and max-pooling as families that are closed under differentiation.

A convolution is bilinear, so the derivatives of the three maps below, of every order, are again these three maps:

    conv(x, w)            y[b,o,p] = Σ_{i,k} x[b,i,s·p+k-pad] w[o,i,k]
    conv_data(g, w)       the adjoint of conv in x
    conv_weight(x, g)     the adjoint of conv in w

With groups, each group of entering channels has leaving channels of its own.

torch differentiates its own convolution twice by convolutions with exchanged dimensions, whose kernels are as large as
images; these keep the shapes that kernels are written for. Max-pooling is linear once the maxima are found: pooling,
:func:`unpool` (the adjoint) and :func:`pick` (the same entries of another tensor) are closed likewise. Forward
derivatives are the same maps at the tangents.

Each map is an operator of the library ``metaray``, so that a recorded program names it.
:mod:`meta.engine.native.closed` puts them in the place of torch's own while a function is recorded, in models of any
origin.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

Pair = list[int]
LIBRARY = torch.library.Library("metaray", "DEF")
LIBRARY.define("conv(Tensor x, Tensor w, int[] stride, int[] padding, int groups) -> Tensor")
LIBRARY.define("conv_data(Tensor g, Tensor w, int[] stride, int[] padding, int groups, int[] size) -> Tensor")
LIBRARY.define("conv_weight(Tensor x, Tensor g, int[] stride, int[] padding, int groups, int[] kernel) -> Tensor")
LIBRARY.define("pool(Tensor x, int[] kernel, int[] stride, int[] padding) -> (Tensor, Tensor)")
LIBRARY.define("unpool(Tensor g, Tensor at, int[] size) -> Tensor")
LIBRARY.define("pick(Tensor x, Tensor at) -> Tensor")


def _conv(x: Tensor, w: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
    return F.conv2d(x, w, stride=stride, padding=padding, groups=groups)


def _conv_data(g: Tensor, w: Tensor, stride: Pair, padding: Pair, groups: int, size: Pair) -> Tensor:
    shape = [g.shape[0], w.shape[1] * groups, *size]
    dx: Tensor = conv2d_input(shape, w, g, stride=stride, padding=padding, groups=groups)
    return dx


def _conv_weight(x: Tensor, g: Tensor, stride: Pair, padding: Pair, groups: int, kernel: Pair) -> Tensor:
    shape = [g.shape[1], x.shape[1] // groups, *kernel]
    dw: Tensor = conv2d_weight(x, shape, g, stride=stride, padding=padding, groups=groups)
    return dw


def _pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> tuple[Tensor, Tensor]:
    return F.max_pool2d(x, kernel, stride, padding, return_indices=True)


def _unpool(g: Tensor, at: Tensor, size: Pair) -> Tensor:
    flat = g.new_zeros((*g.shape[:2], size[0] * size[1]))
    full: Tensor = flat.scatter_add(2, at.flatten(2), g.flatten(2)).unflatten(2, size)
    return full


def _pick(x: Tensor, at: Tensor) -> Tensor:
    picked: Tensor = x.flatten(2).gather(2, at.flatten(2)).view(at.shape)
    return picked


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv_data": _conv_data,
    "conv_weight": _conv_weight,
    "pool": _pool,
    "unpool": _unpool,
    "pick": _pick,
}
# Explicit autograd: the recorder keeps each call as one node and does not trace into it; the derivatives are those of
# the autograd functions below, in terms of the same six maps.
for _name, _function in _FUNCTIONS.items():
    LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"metaray::{_name}", _function, lib=LIBRARY)

OPS = torch.ops.metaray


def _apply(function: Any, *args: Any) -> Any:
    """Call an operation that autograd knows; its ``apply`` has no annotations."""
    return function.apply(*args)


def _sum(*terms: Tensor | None) -> Tensor | None:
    """The sum of those terms that there are."""
    there = [term for term in terms if term is not None]
    return sum(there[1:], there[0]) if there else None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, w: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
        y: Tensor = OPS.conv(x, w, stride, padding, groups)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        x, w, *ctx.how = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dw: Tensor | None, *_: None) -> Any:
        (x, w), size = ctx.saved_tensors, ctx.how
        of_x = None if dx is None else _apply(_Conv, dx, w, *size)
        return _sum(of_x, None if dw is None else _apply(_Conv, x, dw, *size))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        needs_x, needs_w = ctx.needs_input_grad[:2]
        dx = _apply(_ConvData, g, w, *ctx.how, list(x.shape[2:])) if needs_x else None
        dw = _apply(_ConvWeight, x, g, *ctx.how, list(w.shape[2:])) if needs_w else None
        return dx, dw, None, None, None


class _ConvData(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, w: Tensor, stride: Pair, padding: Pair, groups: int, size: Pair) -> Tensor:
        dx: Tensor = OPS.conv_data(g, w, stride, padding, groups, size)
        return dx

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        g, w, *ctx.how, ctx.size = inputs
        ctx.save_for_backward(g, w)
        ctx.save_for_forward(g, w)

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dw: Tensor | None, *_: None) -> Any:
        (g, w), size = ctx.saved_tensors, (*ctx.how, ctx.size)
        of_g = None if dg is None else _apply(_ConvData, dg, w, *size)
        return _sum(of_g, None if dw is None else _apply(_ConvData, g, dw, *size))

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Any:
        g, w = ctx.saved_tensors
        needs_g, needs_w = ctx.needs_input_grad[:2]
        dg = _apply(_Conv, h, w, *ctx.how) if needs_g else None
        dw = _apply(_ConvWeight, h, g, *ctx.how, list(w.shape[2:])) if needs_w else None
        return dg, dw, None, None, None, None


class _ConvWeight(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, g: Tensor, stride: Pair, padding: Pair, groups: int, kernel: Pair) -> Tensor:
        dw: Tensor = OPS.conv_weight(x, g, stride, padding, groups, kernel)
        return dw

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        x, g, *ctx.how, ctx.kernel = inputs
        ctx.save_for_backward(x, g)
        ctx.save_for_forward(x, g)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dg: Tensor | None, *_: None) -> Any:
        (x, g), size = ctx.saved_tensors, (*ctx.how, ctx.kernel)
        of_x = None if dx is None else _apply(_ConvWeight, dx, g, *size)
        return _sum(of_x, None if dg is None else _apply(_ConvWeight, x, dg, *size))

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, g = ctx.saved_tensors
        needs_x, needs_g = ctx.needs_input_grad[:2]
        dx = _apply(_ConvData, g, v, *ctx.how, list(x.shape[2:])) if needs_x else None
        dg = _apply(_Conv, x, v, *ctx.how) if needs_g else None
        return dx, dg, None, None, None, None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Any:
        return OPS.pool(x, kernel, stride, padding)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.size = list(inputs[0].shape[2:])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Any:
        return _apply(_Pick, dx, ctx.saved_tensors[0]), None

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Any:
        return _apply(_Unpool, g, ctx.saved_tensors[0], ctx.size), None, None, None


class _Unpool(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, at: Tensor, size: Pair) -> Tensor:
        full: Tensor = OPS.unpool(g, at, size)
        return full

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        ctx.size = inputs[2]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx: Any, dg: Tensor, *_: None) -> Any:
        return _apply(_Unpool, dg, ctx.saved_tensors[0], ctx.size)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Any:
        return _apply(_Pick, h, ctx.saved_tensors[0]), None, None


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, at: Tensor) -> Tensor:
        picked: Tensor = OPS.pick(x, at)
        return picked

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        ctx.size = list(inputs[0].shape[2:])
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, *_: None) -> Any:
        return _apply(_Pick, dx, ctx.saved_tensors[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _apply(_Unpool, g, ctx.saved_tensors[0], ctx.size), None


def conv(x: Tensor, w: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """A convolution with derivatives of every order.

    Args:
        x: [B, C, H, W].
        w: [O, C / groups, KH, KW].
        stride: rows and columns between windows.
        padding: rows and columns of zeros on each side.
        groups: one, or as many as channels.
    """
    y: Tensor = _apply(_Conv, x, w, stride, padding, groups)
    return y


def conv_data(g: Tensor, w: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
    """The adjoint of a convolution in its input, with derivatives of every order.

    Args:
        g: [B, O, OH, OW].
        w: [O, C, KH, KW].
        stride: rows and columns between windows.
        padding: rows and columns of zeros on each side.
        size: rows and columns of the result.
    """
    dx: Tensor = _apply(_ConvData, g, w, stride, padding, 1, size)
    return dx


def pool(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Max-pooling with derivatives of every order.

    Args:
        x: [B, C, H, W].
        kernel: rows and columns of a window.
        stride: rows and columns between windows.
        padding: rows and columns on each side that are in no maximum.
    """
    y: Tensor = _apply(_Pool, x, kernel, stride, padding)[0]
    return y
