"""The suites' models and losses in JAX: the same mathematics on the same parameters, by name."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.competitor import LeftOut
from meta.models import MLP, Conv4, Model, ResNet12
from meta.models.conv import LEAK
from meta.models.norm import EPSILON
from meta.policy import GaussianPolicy

Array = Any
Apply = Callable[[dict[str, Array], Array], Array]
Loss = Callable[[Array, Array], Array]


def apply_of(model: Model) -> Apply:
    """(params, inputs) -> outputs of a model whose batch norm, if any, is transductive.

    Raises:
        LeftOut: if the model is not written in JAX here.
    """
    if isinstance(model, GaussianPolicy):
        return lambda params, inputs: _policy(model, params, inputs)
    if isinstance(model, MLP):
        return lambda params, inputs: _mlp(model, params, inputs)
    if isinstance(model, Conv4):
        return lambda params, inputs: _conv4(model, params, inputs)
    if isinstance(model, ResNet12):
        return lambda params, inputs: _resnet12(model, params, inputs)
    raise LeftOut("the model is not written in JAX")


def losses_of(model: Model) -> tuple[Loss, Loss]:
    """The inner and the outer objective of the suite with this model."""
    if isinstance(model, GaussianPolicy):
        return _likelihood_ratio, _importance_ratio
    loss = _mean_squared_error if isinstance(model, MLP) else _cross_entropy
    return loss, loss


def _linear(params: dict[str, Array], name: str, hidden: Array) -> Array:
    return hidden @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _mlp(model: MLP, params: dict[str, Array], inputs: Array) -> Array:
    hidden = inputs.reshape(len(inputs), -1)
    for layer in range(len(model.hidden)):
        hidden = jax.nn.relu(_linear(params, f"layer{layer}", hidden))
    return _linear(params, f"layer{len(model.hidden)}", hidden)


def _policy(model: GaussianPolicy, params: dict[str, Array], inputs: Array) -> Array:
    mean = _mlp(model.mean, params, inputs)
    return jnp.concatenate([mean, jnp.broadcast_to(params["log_std"], mean.shape)], axis=-1)


def _convolution(hidden: Array, weight: Array, stride: int) -> Array:
    padding = weight.shape[-1] // 2
    return lax.conv_general_dilated(hidden, weight, (stride, stride), [(padding, padding)] * 2)


def _normed(hidden: Array, offset: Array) -> Array:
    centred = hidden - hidden.mean((0, 2, 3), keepdims=True)
    variance = jnp.square(centred).mean((0, 2, 3), keepdims=True)
    return centred * lax.rsqrt(variance + EPSILON) + offset[None, :, None, None]


def _pooled(hidden: Array) -> Array:
    """2×2 max-pooling as a maximum of four slices.

    A maximum over two axes gave gradients wrong by a tenth under ``vmap`` (jax 0.10.2, processor): its derivative looks
    for the elements that equal the maximum, which XLA may compute anew with other roundings.
    """
    height, width = (side - side % 2 for side in hidden.shape[2:])
    rows = [jnp.maximum(hidden[:, :, i:height:2, 0:width:2], hidden[:, :, i:height:2, 1:width:2]) for i in (0, 1)]
    return jnp.maximum(rows[0], rows[1])


def _conv4(model: Conv4, params: dict[str, Array], hidden: Array) -> Array:
    for block in range(model.blocks):
        hidden = _convolution(hidden, params[f"conv{block}.weight"], 2 if model.down == "stride" else 1)
        hidden = jax.nn.relu(_normed(hidden, params[f"conv{block}.offset"]))
        if model.down == "pool":
            hidden = _pooled(hidden)
    features = hidden.mean((2, 3)) if model.down == "stride" else hidden.reshape(len(hidden), -1)
    return _linear(params, "head", features)


def _resnet12(model: ResNet12, params: dict[str, Array], hidden: Array) -> Array:
    def layer(name: str, entering: Array) -> Array:
        return _normed(_convolution(entering, params[f"{name}.weight"], 1), params[f"{name}.offset"])

    for block in range(len(model.widths)):
        entered = hidden
        for name in ("conv0", "conv1"):
            hidden = jax.nn.leaky_relu(layer(f"block{block}.{name}", hidden), LEAK)
        hidden = layer(f"block{block}.conv2", hidden) + layer(f"block{block}.skip", entered)
        hidden = _pooled(jax.nn.leaky_relu(hidden, LEAK))
    return _linear(params, "head", hidden.mean((2, 3)))


def _mean_squared_error(outputs: Array, targets: Array) -> Array:
    return jnp.square(outputs - targets).mean()


def _cross_entropy(outputs: Array, targets: Array) -> Array:
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], axis=-1).mean()


def _log_probability(outputs: Array, actions: Array) -> Array:
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    scaled = (actions - mean) * jnp.exp(-log_std)
    return (-0.5 * jnp.square(scaled) - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


def _likelihood_ratio(outputs: Array, targets: Array) -> Array:
    return -(_log_probability(outputs, targets[:, :-2]) * targets[:, -2]).mean()


def _importance_ratio(outputs: Array, targets: Array) -> Array:
    ratio = jnp.exp(_log_probability(outputs, targets[:, :-2]) - targets[:, -1])
    return -(ratio * targets[:, -2]).mean()
