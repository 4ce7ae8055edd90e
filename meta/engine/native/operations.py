"""Convolution and max-pooling as families that are closed under differentiation.

A convolution is bilinear, so the derivatives of the three maps below, of every order, are again these three maps:

    conv(x, w)            y[b,o,p] = Σ_{i,k} x[b,i,s·p+k-pad] w[o,i,k]
    conv_data(g, w)       the adjoint of conv in x
    conv_weight(x, g)     the adjoint of conv in w

torch differentiates its own convolution twice by convolutions with exchanged dimensions, whose kernels are as large as
images; these keep the shapes that kernels are written for. Max-pooling is linear once the maxima are found: pooling,
:func:`unpool` (the adjoint) and :func:`pick` (the same entries of another tensor) are closed likewise. Forward
derivatives are the same maps at the tangents.

Each map is an operator of the library ``metaray``, so that a recorded program names it. :class:`Closed` puts them in
the place of torch's own while a function is recorded, in models of any origin.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight
from torch.overrides import TorchFunctionMode

Pair = list[int]
LIBRARY = torch.library.Library("metaray", "DEF")
LIBRARY.define("conv(Tensor x, Tensor w, int[] stride, int[] padding) -> Tensor")
LIBRARY.define("conv_data(Tensor g, Tensor w, int[] stride, int[] padding, int[] size) -> Tensor")
LIBRARY.define("conv_weight(Tensor x, Tensor g, int[] stride, int[] padding, int[] kernel) -> Tensor")
LIBRARY.define("pool(Tensor x, int[] kernel, int[] stride, int[] padding) -> (Tensor, Tensor)")
LIBRARY.define("unpool(Tensor g, Tensor at, int[] size) -> Tensor")
LIBRARY.define("pick(Tensor x, Tensor at) -> Tensor")


def _conv(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
    return F.conv2d(x, w, stride=stride, padding=padding)


def _conv_data(g: Tensor, w: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
    shape = [g.shape[0], w.shape[1], *size]
    dx: Tensor = conv2d_input(shape, w, g, stride=stride, padding=padding)
    return dx


def _conv_weight(x: Tensor, g: Tensor, stride: Pair, padding: Pair, kernel: Pair) -> Tensor:
    shape = [g.shape[1], x.shape[1], *kernel]
    dw: Tensor = conv2d_weight(x, shape, g, stride=stride, padding=padding)
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
    def forward(x: Tensor, w: Tensor, stride: Pair, padding: Pair) -> Tensor:
        y: Tensor = OPS.conv(x, w, stride, padding)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        x, w, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, w)
        ctx.save_for_forward(x, w)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dw: Tensor | None, *_: None) -> Any:
        (x, w), size = ctx.saved_tensors, (ctx.stride, ctx.padding)
        of_x = None if dx is None else _apply(_Conv, dx, w, *size)
        return _sum(of_x, None if dw is None else _apply(_Conv, x, dw, *size))

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        needs_x, needs_w = ctx.needs_input_grad[:2]
        dx = _apply(_ConvData, g, w, ctx.stride, ctx.padding, list(x.shape[2:])) if needs_x else None
        dw = _apply(_ConvWeight, x, g, ctx.stride, ctx.padding, list(w.shape[2:])) if needs_w else None
        return dx, dw, None, None


class _ConvData(torch.autograd.Function):
    @staticmethod
    def forward(g: Tensor, w: Tensor, stride: Pair, padding: Pair, size: Pair) -> Tensor:
        dx: Tensor = OPS.conv_data(g, w, stride, padding, size)
        return dx

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        g, w, ctx.stride, ctx.padding, ctx.size = inputs
        ctx.save_for_backward(g, w)
        ctx.save_for_forward(g, w)

    @staticmethod
    def jvp(ctx: Any, dg: Tensor | None, dw: Tensor | None, *_: None) -> Any:
        (g, w), size = ctx.saved_tensors, (ctx.stride, ctx.padding, ctx.size)
        of_g = None if dg is None else _apply(_ConvData, dg, w, *size)
        return _sum(of_g, None if dw is None else _apply(_ConvData, g, dw, *size))

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> Any:
        g, w = ctx.saved_tensors
        needs_g, needs_w = ctx.needs_input_grad[:2]
        dg = _apply(_Conv, h, w, ctx.stride, ctx.padding) if needs_g else None
        dw = _apply(_ConvWeight, h, g, ctx.stride, ctx.padding, list(w.shape[2:])) if needs_w else None
        return dg, dw, None, None, None


class _ConvWeight(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, g: Tensor, stride: Pair, padding: Pair, kernel: Pair) -> Tensor:
        dw: Tensor = OPS.conv_weight(x, g, stride, padding, kernel)
        return dw

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        x, g, ctx.stride, ctx.padding, ctx.kernel = inputs
        ctx.save_for_backward(x, g)
        ctx.save_for_forward(x, g)

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, dg: Tensor | None, *_: None) -> Any:
        (x, g), size = ctx.saved_tensors, (ctx.stride, ctx.padding, ctx.kernel)
        of_x = None if dx is None else _apply(_ConvWeight, dx, g, *size)
        return _sum(of_x, None if dg is None else _apply(_ConvWeight, x, dg, *size))

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, g = ctx.saved_tensors
        needs_x, needs_g = ctx.needs_input_grad[:2]
        dx = _apply(_ConvData, g, v, ctx.stride, ctx.padding, list(x.shape[2:])) if needs_x else None
        dg = _apply(_Conv, x, v, ctx.stride, ctx.padding) if needs_g else None
        return dx, dg, None, None, None


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


def _pair(value: int | Sequence[int]) -> Pair:
    return [value, value] if isinstance(value, int) else [*value] * (2 // len(value))


def conv2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """``torch.nn.functional.conv2d`` in terms of :func:`conv`, or NotImplemented where that cannot be."""
    if isinstance(padding, str) or _pair(dilation) != [1, 1] or groups != 1 or x.dim() != 4:
        return NotImplemented
    y = _apply(_Conv, x, w, _pair(stride), _pair(padding))
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """``torch.nn.functional.max_pool2d`` in terms of :func:`pool`, or NotImplemented where that cannot be."""
    if _pair(dilation) != [1, 1] or ceil_mode or return_indices or x.dim() != 4:
        return NotImplemented
    kernel = _pair(kernel_size)
    return _apply(_Pool, x, kernel, kernel if stride in (None, []) else _pair(stride), _pair(padding))[0]


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """``torch.nn.functional.batch_norm`` by the statistics of the batch, else NotImplemented."""
    del momentum
    if not training or running_mean is not None or running_var is not None:
        return NotImplemented
    over = (0, *range(2, x.dim()))
    shape = (1, -1, *(1 for _ in over[1:]))
    return _normalised(
        x, over, None if weight is None else weight.view(shape), None if bias is None else bias.view(shape), eps
    )


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """``torch.nn.functional.layer_norm``."""
    return _normalised(x, tuple(range(-len(normalized_shape), 0)), weight, bias, eps)


def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """``torch.nn.functional.silu``, never in place."""
    del inplace
    return x * torch.sigmoid(x)


def _normalised(x: Tensor, over: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """In elementary operations, whose derivatives of every order are exact."""
    centred = x - x.mean(over, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(over, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


class Closed(TorchFunctionMode):
    """While active, calls of torch's convolution, max-pooling, batch and layer norm go to those of this module."""

    REPLACED: Mapping[Any, Callable[..., Any]] = {
        torch.conv2d: conv2d,
        F.conv2d: conv2d,
        torch.max_pool2d: max_pool2d,
        F.max_pool2d: max_pool2d,
        F.batch_norm: batch_norm,
        F.layer_norm: layer_norm,
        F.silu: silu,
    }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the replacement, or what was called where there is none."""
        replacement = self.REPLACED.get(func)
        if replacement is not None:
            with torch._C.DisableTorchFunction():
                result = replacement(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))
