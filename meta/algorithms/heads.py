"""Parts of methods with a head of their own: features below a linear head, and means by class."""

from typing import cast

import torch
from torch import Tensor

from meta.inputs import Inputs
from meta.models.base import Model
from meta.models.norm import NormalisedModel
from meta.params import Params


def head_width(model: Model, head: str) -> int:
    """Returns the number of features that the linear layer is given that a model ends in.

    Args:
        model: the network.
        head: name of the layer.

    Raises:
        ValueError: if there is no matrix ``HEAD.weight`` or no vector ``HEAD.bias``.
    """
    params = model.init(torch.Generator().manual_seed(0), torch.float32)
    dims = {part: params[f"{head}.{part}"].dim() for part in ("weight", "bias") if f"{head}.{part}" in params}
    if dims != {"weight": 2, "bias": 1}:
        matrices = [name.removesuffix(".weight") for name, value in params.items() if value.dim() == 2]
        raise ValueError(
            f"algorithm.head: expected the name of the linear layer that the model ends in, with a bias, received "
            f"'{head}'; linear layers are {', '.join(matrices) or 'none'}"
        )
    return params[f"{head}.weight"].shape[1]


def without_head(params: Params, head: str) -> Params:
    """Returns the parameters below the head, by name.

    Args:
        params: the model's parameters.
        head: name of the linear layer that the model ends in.
    """
    return {name: value for name, value in params.items() if name not in (f"{head}.weight", f"{head}.bias")}


def features(
    model: Model, params: Params, inputs: Inputs, head: str, size: int, context: Inputs | None = None
) -> Tensor:
    """Returns what the head is given, [B, F]: the model's outputs with the identity as its head.

    Args:
        model: ends in the linear layer ``head``, with nothing behind it.
        params: the model's parameters; those of the head are not used.
        inputs: [B, ...].
        head: name of the layer.
        size: F.
        context: examples [S, ...] whose statistics normalise, of a :class:`meta.models.NormalisedModel`; None: those of
            ``inputs``.
    """
    example = next(iter(params.values()))
    eye = torch.eye(size, dtype=example.dtype, device=example.device)
    theta = {**params, f"{head}.weight": eye, f"{head}.bias": eye.new_zeros(size)}
    if context is None:
        return model.apply(theta, inputs)
    return cast(NormalisedModel, model).apply(theta, inputs, context)


def one_hot(targets: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Returns the indicators [B, N] of class numbers [B].

    Args:
        targets: class numbers, int64.
        classes: N.
        dtype: of the result.
    """
    return torch.stack([targets == number for number in range(classes)], dim=1).to(dtype)


def class_means(embedded: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Returns the mean of the rows of each class, [N, F]; zeros for a class without rows.

    Args:
        embedded: [B, F].
        targets: class numbers [B].
        classes: N.
    """
    members = one_hot(targets, classes, embedded.dtype)
    return members.t() @ embedded / members.sum(dim=0).clamp(min=1)[:, None]
