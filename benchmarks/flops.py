"""Operations of a meta-gradient, counted by the shapes: one multiplication and one addition are two operations.

Matrix products and convolutions count, elementwise work does not. Let f be a layer's operations of a forward pass over
one example. The plain loop does, per support example and inner step,

    f   forward,  f   gradient of the weights,  f   gradient of the layer's input,
    2 f for the derivative of each of these three with respect to its two arguments,

9 f in all, and 3 f per query example. The first layer has no gradient of its input, which is no parameter:
4 f and 2 f. Two things that torch does make a convolution's count larger, and are counted as they are done:

- The derivative of a weight gradient with respect to the layer's input is computed for the first layer too: 5 f.
- A convolution of stride s whose windows leave r = (H + 2 padding - k) mod s rows of the image over computes the second
  derivative of its weights as a window of (k + r)², of which k² are kept: the f for it become f (k + r)² / k².
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

from torch.utils.flop_counter import FlopCounterMode

from benchmarks.competitor import Option
from benchmarks.peers.loop import Loop
from benchmarks.suites import Suite, Work
from benchmarks.user_models import UserModel
from meta.models import MLP, Conv4, Model, ResNet12
from meta.params import Params
from meta.policy import GaussianPolicy


class Layer(NamedTuple):
    """A matrix product or convolution.

    Attributes:
        forward: operations of a forward pass over one example.
        first: whether its input is the example itself.
        step: operations per support example of an inner step, with its second-order backward pass.
    """

    forward: int
    first: bool
    step: int

    @property
    def query(self) -> int:
        """Operations per query example: forward and backward pass."""
        return self.forward * (2 if self.first else 3)


def linear(inputs: int, outputs: int, *, first: bool = False) -> Layer:
    """A fully connected layer.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
        first: whether it is the first layer, whose inputs need no gradient.

    >>> linear(40, 40).forward
    3200
    """
    forward = 2 * inputs * outputs
    return Layer(forward, first, forward * (4 if first else 9))


def convolution(
    channels: tuple[int, int], size: tuple[int, int], *, kernel: int = 3, stride: int = 1, first: bool = False
) -> Layer:
    """A convolution over images of ``size``, padded by half of its kernel.

    Args:
        channels: of input and output.
        size: height and width of the input.
        kernel: height and width of the kernel.
        stride: in both directions.
        first: whether it is the first layer, whose inputs need no gradient.

    >>> convolution((1, 64), (28, 28), stride=2, first=True).forward
    225792
    """
    height, width = conv_size(size, stride)
    area = kernel * kernel
    forward = 2 * area * channels[0] * channels[1] * height * width
    if first:
        return Layer(forward, first, 5 * forward)
    left = [(side + 2 * (kernel // 2) - kernel) % stride for side in size]
    return Layer(forward, first, 8 * forward + forward // area * (kernel + left[0]) * (kernel + left[1]))


def conv_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Height and width after a convolution padded by half of its odd kernel.

    Args:
        size: height and width of the input.
        stride: in both directions.
    """
    return (size[0] + stride - 1) // stride, (size[1] + stride - 1) // stride


def layers(model: Model) -> list[Layer]:
    """The layers of a model in the order of the forward pass."""
    if isinstance(model, GaussianPolicy):
        return layers(model.mean)
    if isinstance(model, MLP):
        widths = model.widths
        return [linear(a, b, first=i == 0) for i, (a, b) in enumerate(pairwise(widths))]
    if isinstance(model, ResNet12):
        return _resnet12(model)
    assert isinstance(model, Conv4)
    return _conv4(model)


def _conv4(model: Conv4) -> list[Layer]:
    channels, *size = model.inputs
    stack, stride = [], 2 if model.down == "stride" else 1
    at = (size[0], size[1])
    for block in range(model.blocks):
        stack.append(convolution((channels, model.channels), at, stride=stride, first=block == 0))
        at = conv_size(at, stride) if model.down == "stride" else (at[0] // 2, at[1] // 2)
        channels = model.channels
    return [*stack, linear(model.features, model.outputs)]


def _resnet12(model: ResNet12) -> list[Layer]:
    channels, *size = model.inputs
    stack = []
    at = (size[0], size[1])
    for block, width in enumerate(model.widths):
        first = block == 0
        stack.append(convolution((channels, width), at, first=first))
        stack += [convolution((width, width), at)] * 2
        stack.append(convolution((channels, width), at, kernel=1, first=first))
        at, channels = (at[0] // 2, at[1] // 2), width
    return [*stack, linear(channels, model.outputs)]


def operations(suite: Suite) -> int:
    """Operations of the plain loop over a suite's meta-batch; those of a user's module as torch counts them."""
    if isinstance(suite.model, UserModel):
        return suite.tasks * counted(Loop().prepare(Work.of(suite).part(0, 1), Option(1)).run)
    per_layer = layers(suite.model)
    step = suite.support * sum(layer.step for layer in per_layer)
    query = suite.queries * sum(layer.query for layer in per_layer)
    return suite.tasks * (suite.steps * step + query)


def counted(gradient: Callable[[], Params]) -> int:
    """Operations of a meta-gradient as torch's own counter sees them."""
    with FlopCounterMode(display=False) as counter:
        gradient()
    return int(counter.get_total_flops())
