"""Batch normalisation without state, differentiable as often as one likes.

Nothing is kept between calls, so an inner loop can be unrolled and differentiated through it. The modes differ in whose
statistics normalise the query examples:

``transductive``
    Those of the query batch itself, in training and in evaluation, as in the code of Finn et al. (2017).
    Predictions for one query example then depend on the others; compare such numbers with such numbers only.
``inductive``
    Those of the task's support examples («MetaBN» of Bronskill et al. 2020), so that every query example is
    predicted on its own.
``frozen``
    The running statistics that a module came with, constants in training and evaluation, for support and query alike.
    Modules of torch alone have them (:mod:`meta.models.statistics`); this package's own models do not.
"""

from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from meta.inputs import Inputs, each, length
from meta.params import Params

BatchNorm = Literal["transductive", "inductive"]  # of this package's own models
BatchNormMode = Literal["transductive", "inductive", "frozen"]
Given = TypeVar("Given", Tensor, Inputs)
# That of the authors' layer (tf.contrib.layers.batch_norm). The second derivative grows with 1/ε where a channel is
# constant over a small support set.
EPSILON = 1e-3


class NormalisedModel(Protocol):
    """A model with batch normalisation that can normalise by the statistics of other examples."""

    @property
    def batch_norm(self) -> BatchNormMode | None:
        """The mode; None without a layer of batch normalisation."""
        ...

    def apply(self, params: Params, inputs: Any, context: Any = None) -> Tensor:
        """Returns outputs [B, ...] for inputs [B, ...].

        Args:
            params: the model's parameters.
            inputs: [B, ...], or several tensors by name.
            context: examples whose statistics normalise, [S, ...]; None: those of ``inputs``.
        """
        ...


def batch_norm(hidden: Tensor, offset: Tensor, examples: int | None = None) -> Tensor:
    """Returns (h - mean) / sqrt(var + ε) + offset by channel, without a learned scale, as in the authors' code.

    Written out in elementary operations: their derivatives of every order are exact under ``torch.func.vmap``, and
    cheaper than those of ``torch.nn.functional.batch_norm``, whose second derivative is a formula of its own.

    Args:
        hidden: [B, C] or [B, C, H, W].
        offset: β, [C].
        examples: number of leading examples that mean and (biased) variance are taken over; None: all.

    Returns:
        A tensor of the shape of ``hidden``.
    """
    over = (0, *range(2, hidden.dim()))
    shape = (1, -1, *(1 for _ in over[1:]))
    centred = hidden - hidden[:examples].mean(over, keepdim=True)
    variance = centred[:examples].square().mean(over, keepdim=True)
    return centred * torch.rsqrt(variance + EPSILON) + offset.view(shape)


def with_context(inputs: Given, context: Given | None) -> tuple[Given, int | None]:
    """Returns context and inputs as one batch [S + B, ...], and S, the number of examples that give the statistics.

    Args:
        inputs: [B, ...].
        context: [S, ...]; None: ``inputs`` and None are returned.
    """
    if context is None:
        return inputs, None
    joined: Any = each(lambda *both: torch.cat(both), context, inputs)
    return joined, length(context)


def without_context(outputs: Tensor, examples: int | None) -> Tensor:
    """Returns the outputs of the inputs alone, [B, ...]; the inverse of :func:`with_context`.

    Args:
        outputs: [S + B, ...].
        examples: S; None: ``outputs`` are returned as they are.
    """
    return outputs if examples is None else outputs[examples:]
