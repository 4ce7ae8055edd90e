"""Trained parameters as ``torch.nn.Module``."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cluster.errors import MetarayError
from meta.algorithms import MAML, Algorithm
from meta.context import Context
from meta.episode import Examples
from meta.inner import LEARNED
from meta.models import Model, TorchModel
from meta.params import Layout, Params

Function = Callable[[Params, Tensor], Tensor]


class Network(nn.Module):
    """A function of parameters as a module: the parameters keep their names in ``state_dict``.

    >>> network = Network({"layer.weight": torch.ones(1, 2)}, lambda params, x: x @ params["layer.weight"].t())
    >>> list(network.state_dict()), network(torch.ones(3, 2)).shape
    (['layer.weight'], torch.Size([3, 1]))
    """

    def __init__(self, params: Params, function: Function) -> None:
        """Copy the parameters."""
        super().__init__()
        self._function = function
        for name, value in params.items():
            *path, leaf = name.split(".")
            node: nn.Module = self
            for part in path:
                if part not in node._modules:
                    node.add_module(part, nn.Module())
                node = node.get_submodule(part)
            node.register_parameter(leaf, nn.Parameter(value.detach().clone()))

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the outputs [B, ...] for inputs [B, ...]."""
        return self._function(dict(self.named_parameters()), inputs)


def trained_network(algorithm: Algorithm, params: Params) -> nn.Module:
    """The model with its meta-parameters, in evaluation mode: the user's own class, where the model is one.

    Args:
        algorithm: the method, over the model.
        params: θ.

    Raises:
        MetarayError: if the method's θ is not the parameters of its model.
    """
    own = _own(params)
    example = next(iter(own.values()))
    if Layout.of(own) != Layout.of(algorithm.model.init(torch.Generator(), example.dtype)):
        raise MetarayError(
            f"module: expected a method whose θ is the model's parameters, {type(algorithm).__name__} makes some of "
            "them for each task; take the module of an adapted model: .adapt(support).module"
        )
    return _network(algorithm.model, own)


def adapted_network(algorithm: Algorithm, params: Params, support: Examples, steps: int, context: Context) -> nn.Module:
    """The model with the parameters of one task, in evaluation mode.

    Args:
        algorithm: the method, over the model.
        params: θ.
        support: the task's support examples, [S, ...].
        steps: inner steps.
        context: holds α.

    Raises:
        MetarayError: if the method adapts no parameters.
    """
    if not isinstance(algorithm, MAML) or _changes(algorithm, "predict"):
        raise MetarayError(
            f"module: expected a method that adapts parameters by inner steps, {type(algorithm).__name__} predicts "
            "without; use .predict(query)"
        )
    *_, (adapted, _) = algorithm.path(params, support, steps, context)
    if not _changes(algorithm, "outputs") and isinstance(algorithm.model, TorchModel):
        return _network(algorithm.model, adapted)
    own: MAML = algorithm
    return Network(adapted, lambda params, inputs: own.outputs(params, inputs, support)).eval()


def _changes(algorithm: MAML, method: str) -> bool:
    """Tells whether a method has another form than MAML's."""
    return getattr(type(algorithm), method) is not getattr(MAML, method)


def _own(params: Params) -> Params:
    return {name: value for name, value in params.items() if not name.startswith(LEARNED)}


def _network(model: Model, params: Params) -> nn.Module:
    if not isinstance(model, TorchModel):
        return Network(params, model.apply).eval()
    module = copy.deepcopy(model.module(params, training=False))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.data = params[name].detach().clone()
    return module
