"""torch's layers in terms of the closed families and of elementary operations, put in their place while recording."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from meta.engine.native.operations import Pair, conv, conv_data, pool


def _pair(value: int | Sequence[int]) -> Pair:
    return [value, value] if isinstance(value, int) else [*value] * (2 // len(value))


def _single(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else [*value]


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
    if x.dim() != 4:
        return NotImplemented
    stride, dilation = _pair(stride), _pair(dilation)
    if isinstance(padding, str):
        x, padding = _padded_to(padding, x, w, dilation)
    padding = _pair(padding)
    if dilation != [1, 1]:
        y = _dilated(x, w, stride, padding, dilation, groups)
    elif groups == 1:
        y = conv(x, w, stride, padding, 1)
    else:
        y = _grouped(x, w, stride, padding, groups)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def _padded_to(padding: str, x: Tensor, w: Tensor, dilation: Pair) -> tuple[Tensor, Pair]:
    """Input and padding of a convolution that is asked to keep the size (``same``), or not to pad (``valid``)."""
    if padding == "valid":
        return x, [0, 0]
    total = [step * (size - 1) for step, size in zip(dilation, w.shape[2:], strict=True)]
    if any(size % 2 for size in total):  # one more zero after than before
        x = F.pad(x, (0, total[1] % 2, 0, total[0] % 2))
    return x, [size // 2 for size in total]


def _grouped(x: Tensor, w: Tensor, stride: Pair, padding: Pair, groups: int) -> Tensor:
    """A convolution by groups: with one entering channel each by kernels of its own, else group by group."""
    entering, each = x.shape[1], w.shape[0] // groups
    if groups == entering:
        if each > 1:  # a channel enters once for each that leaves
            x = x.unsqueeze(2).expand(-1, -1, each, -1, -1).reshape(x.shape[0], -1, *x.shape[2:])
        return conv(x, w, stride, padding, w.shape[0])
    parts = zip(x.split(entering // groups, 1), w.split(each), strict=True)
    return torch.cat([conv(part, weights, stride, padding, 1) for part, weights in parts], 1)


def _dilated(x: Tensor, w: Tensor, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Tensor:
    """A convolution whose taps lie apart: an ordinary one on every ``dilation``-th pixel, from each first pixel on.

    With a stride it is computed without, and read at every stride-th pixel.
    """
    (rows, columns), images = dilation, x.shape[0]
    high, wide = (size + 2 * more for size, more in zip(x.shape[2:], padding, strict=True))
    out = [size - step * (taps - 1) for size, step, taps in zip((high, wide), dilation, w.shape[2:], strict=True)]
    below, right = -high % rows, -wide % columns
    x = F.pad(x, (padding[1], padding[1] + right, padding[0], padding[0] + below))
    x = x.unflatten(3, (-1, columns)).unflatten(2, (-1, rows)).permute(3, 5, 0, 1, 2, 4)
    y = conv2d(x.reshape(-1, *x.shape[3:]), w, groups=groups)
    y = y.view(rows, columns, images, *y.shape[1:]).permute(2, 3, 4, 0, 5, 1).flatten(4).flatten(2, 3)
    within: Tensor = y[:, :, : out[0] : stride[0], : out[1] : stride[1]]
    return within


def conv1d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """``torch.nn.functional.conv1d`` as a convolution of images of one row, or NotImplemented where that cannot be."""
    if x.dim() != 3:
        return NotImplemented
    at = padding if isinstance(padding, str) else [0, *_single(padding)]
    y = conv2d(x.unsqueeze(2), w.unsqueeze(2), bias, [1, *_single(stride)], at, [1, *_single(dilation)], groups)
    return y.squeeze(2)


def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    """``torch.nn.functional.conv_transpose2d`` as the adjoint of a convolution, or NotImplemented where it is not."""
    stride, padding, more = _pair(stride), _pair(padding), _pair(output_padding)
    if x.dim() != 4 or groups != 1 or _pair(dilation) != [1, 1]:
        return NotImplemented
    size = [(x.shape[2 + n] - 1) * stride[n] - 2 * padding[n] + w.shape[2 + n] + more[n] for n in (0, 1)]
    y = conv_data(x, w, stride, padding, size)
    return y if bias is None else y + bias.view(1, -1, 1, 1)


def avg_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """``torch.nn.functional.avg_pool2d`` as means or as a convolution, or NotImplemented where that cannot be."""
    kernel, padding = _pair(kernel_size), _pair(padding)
    stride = kernel if stride in (None, []) else _pair(stride)
    if x.dim() != 4 or ceil_mode or divisor_override is not None or (padding != [0, 0] and not count_include_pad):
        return NotImplemented
    if stride == kernel and padding == [0, 0]:
        high, wide = (size // step for size, step in zip(x.shape[2:], kernel, strict=True))
        x = x[:, :, : high * kernel[0], : wide * kernel[1]]
        return x.reshape(*x.shape[:2], high, kernel[0], wide, kernel[1]).mean((3, 5))
    w = x.new_full((x.shape[1], 1, *kernel), 1 / (kernel[0] * kernel[1]))
    return conv(x, w, stride, padding, x.shape[1])


def max_pool1d(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """``torch.nn.functional.max_pool1d`` on images of one row, or NotImplemented where that cannot be."""
    stride = kernel_size if stride in (None, []) else stride
    if x.dim() != 3:
        return NotImplemented
    sizes = ([1, *_single(kernel_size)], [1, *_single(stride)], [0, *_single(padding)], [1, *_single(dilation)])
    y = max_pool2d(x.unsqueeze(2), *sizes, ceil_mode, return_indices)
    return y if y is NotImplemented else y.squeeze(2)


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
    return pool(x, kernel, kernel if stride in (None, []) else _pair(stride), _pair(padding))


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


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """``torch.nn.functional.group_norm``."""
    grouped = x.unflatten(1, (num_groups, -1))
    y = _normalised(grouped, tuple(range(2, grouped.dim())), None, None, eps).view(x.shape)
    shape = (1, -1, *(1 for _ in range(2, x.dim())))
    y = y if weight is None else y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


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
    """While active, calls of torch's convolutions, poolings and norms go to those of this module."""

    REPLACED: Mapping[Any, Callable[..., Any]] = {
        torch.conv2d: conv2d,
        F.conv2d: conv2d,
        torch.max_pool2d: max_pool2d,
        F.max_pool2d: max_pool2d,
        torch.conv1d: conv1d,
        torch.conv_transpose2d: conv_transpose2d,
        torch.max_pool1d: max_pool1d,
        F.max_pool1d: max_pool1d,
        F.avg_pool2d: avg_pool2d,
        F.batch_norm: batch_norm,
        F.group_norm: group_norm,
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
