"""Convolutional networks for few-shot images."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from meta.models.norm import BatchNorm, batch_norm, with_context, without_context
from meta.params import Params

LEAK = 0.1  # slope of ResNet-12's leaky ReLU below zero


@dataclass(frozen=True, kw_only=True)
class Conv4:
    """Blocks of 3×3 convolution, batch norm and ReLU, then a linear layer (Finn et al. 2017, 5.2).

    With ``down: stride`` every convolution has stride 2 and the features are averaged over space (the paper's network
    for Omniglot); with ``down: pool`` every block ends with 2×2 max-pooling and the features are flattened (its network
    for mini-ImageNet, with 32 channels).

    Attributes:
        inputs: (channels, height, width) of an image.
        outputs: classes.
        channels: channels of every block.
        blocks: number of blocks.
        down: ``stride`` or ``pool``.
        batch_norm: whose statistics normalise query examples, see :mod:`meta.models.norm`.

    >>> model = Conv4(inputs=(1, 28, 28), outputs=5)
    >>> params = model.init(torch.Generator().manual_seed(0), torch.float32)
    >>> sum(value.numel() for value in params.values())
    111749
    >>> tuple(model.apply(params, torch.zeros(10, 1, 28, 28)).shape)
    (10, 5)
    """

    inputs: tuple[int, ...]
    outputs: int
    channels: int = 64
    blocks: int = 4
    down: Literal["stride", "pool"] = "stride"
    batch_norm: BatchNorm = "transductive"

    def __post_init__(self) -> None:
        """Check the sizes."""
        _, height, width = _image("conv4", self.inputs)
        if self.channels < 1 or self.blocks < 1:
            raise ValueError(f"expected channels and blocks of at least 1, received {self.channels}, {self.blocks}")
        if self.down == "pool" and min(height, width) < 2**self.blocks:
            raise ValueError(
                f"{self.blocks} blocks with pooling expect images of at least {2**self.blocks} pixels a side, received "
                f"{height}×{width}; use fewer blocks or down: stride"
            )

    @property
    def features(self) -> int:
        """Number of inputs of the linear layer."""
        if self.down == "stride":
            return self.channels
        _, height, width = self.inputs
        return self.channels * (height >> self.blocks) * (width >> self.blocks)

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns ``conv<i>.weight`` [C, C_in, 3, 3], ``conv<i>.offset`` [C], ``head.weight``, ``head.bias``.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        params: Params = {}
        width = self.inputs[0]
        for block in range(self.blocks):
            params[f"conv{block}.weight"] = uniform((self.channels, width, 3, 3), generator, dtype)
            params[f"conv{block}.offset"] = torch.zeros(self.channels, dtype=dtype)
            width = self.channels
        params["head.weight"] = uniform((self.outputs, self.features), generator, dtype)
        params["head.bias"] = torch.zeros(self.outputs, dtype=dtype)
        return params

    def apply(self, params: Params, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns logits [B, outputs] for images.

        Args:
            params: the parameters that :meth:`init` names.
            inputs: images [B, C, H, W].
            context: images [S, C, H, W] whose statistics normalise; None: those of ``inputs``.
        """
        hidden, examples = with_context(inputs, context)
        for block in range(self.blocks):
            stride = 2 if self.down == "stride" else 1
            hidden = F.conv2d(hidden, params[f"conv{block}.weight"], stride=stride, padding=1)
            hidden = F.relu(batch_norm(hidden, params[f"conv{block}.offset"], examples))
            if self.down == "pool":
                hidden = F.max_pool2d(hidden, 2)
        features = without_context(hidden, examples)
        features = features.mean((2, 3)) if self.down == "stride" else features.flatten(start_dim=1)
        return F.linear(features, params["head.weight"], params["head.bias"])


@dataclass(frozen=True, kw_only=True)
class ResNet12:
    """Four residual blocks of three 3×3 convolutions, then a mean over space and a linear layer.

    Each block is conv, norm, leaky ReLU twice, conv, norm, plus a 1×1 convolution with norm around it, leaky ReLU and
    2×2 max-pooling (Oreshkin et al. 2018, TADAM, supplementary; without its task conditioning).

    Attributes:
        inputs: (channels, height, width) of an image.
        outputs: classes.
        widths: channels of the blocks.
        batch_norm: whose statistics normalise query examples, see :mod:`meta.models.norm`.

    >>> model = ResNet12(inputs=(3, 32, 32), outputs=5, widths=(4, 8))
    >>> params = model.init(torch.Generator().manual_seed(0), torch.float32)
    >>> tuple(model.apply(params, torch.zeros(10, 3, 32, 32)).shape)
    (10, 5)
    """

    inputs: tuple[int, ...]
    outputs: int
    widths: tuple[int, ...] = (64, 128, 256, 512)
    batch_norm: BatchNorm = "transductive"

    def __post_init__(self) -> None:
        """Check the sizes."""
        _, height, width = _image("resnet12", self.inputs)
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"expected widths of at least 1, received {list(self.widths)}")
        if min(height, width) < 2 ** len(self.widths):
            raise ValueError(
                f"{len(self.widths)} blocks expect images of at least {2 ** len(self.widths)} pixels a side, received "
                f"{height}×{width}; use fewer widths"
            )

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params:
        """Returns ``block<i>.conv<j>.weight``, ``block<i>.conv<j>.offset``, ``block<i>.skip.…``, ``head.…``.

        Args:
            generator: CPU generator, the only source of randomness.
            dtype: floating-point type of the parameters.
        """
        params: Params = {}
        entering = self.inputs[0]
        for block, width in enumerate(self.widths):
            for layer, (size, received) in {
                "conv0": (3, entering),
                "conv1": (3, width),
                "conv2": (3, width),
                "skip": (1, entering),
            }.items():
                name = f"block{block}.{layer}"
                params[f"{name}.weight"] = uniform((width, received, size, size), generator, dtype)
                params[f"{name}.offset"] = torch.zeros(width, dtype=dtype)
            entering = width
        params["head.weight"] = uniform((self.outputs, entering), generator, dtype)
        params["head.bias"] = torch.zeros(self.outputs, dtype=dtype)
        return params

    def apply(self, params: Params, inputs: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns logits [B, outputs] for images.

        Args:
            params: the parameters that :meth:`init` names.
            inputs: images [B, C, H, W].
            context: images [S, C, H, W] whose statistics normalise; None: those of ``inputs``.
        """
        hidden, examples = with_context(inputs, context)
        for block in range(len(self.widths)):
            entered = hidden
            for layer in ("conv0", "conv1"):
                hidden = F.leaky_relu(_normed(params, f"block{block}.{layer}", hidden, examples), LEAK)
            hidden = _normed(params, f"block{block}.conv2", hidden, examples)
            hidden = hidden + _normed(params, f"block{block}.skip", entered, examples)
            hidden = F.max_pool2d(F.leaky_relu(hidden, LEAK), 2)
        features = without_context(hidden, examples).mean((2, 3))
        return F.linear(features, params["head.weight"], params["head.bias"])


def _normed(params: Mapping[str, Tensor], name: str, hidden: Tensor, examples: int | None) -> Tensor:
    weight = params[f"{name}.weight"]
    hidden = F.conv2d(hidden, weight, padding=weight.shape[-1] // 2)
    return batch_norm(hidden, params[f"{name}.offset"], examples)


def _image(name: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"{name} expects images (channels, height, width), received inputs of shape {shape}")
    channels, height, width = shape
    return channels, height, width


def uniform(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Draws weights uniformly in ±1/sqrt(fan_in), as torch initialises its convolutions and linear layers.

    Before a batch norm the scale of a weight does not change what a network computes, but the smaller it is the further
    an inner step of a given α turns it: on Omniglot this learned faster than the wider draw of Glorot and Bengio (2010)
    that the authors' code uses. Drawn in float64, then rounded: float32 and float64 runs start from the same point.

    Args:
        shape: [out, in, ...]; fan_in is the product of all but the first size.
        generator: CPU generator, the only source of randomness.
        dtype: floating-point type of the result.
    """
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    return torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound, generator=generator).to(dtype)
