"""Classes named by a configuration, checked for what they have to offer, and the model built from one."""

from typing import Any

from torch import nn

from cluster.components import parameters, resolve
from cluster.config import GIVEN_TO_MODELS, Config
from cluster.errors import ConfigError
from meta.models import Model, TorchModel


def resolve_offering(key: str, name: str, *members: str) -> type[Any]:
    """The class of a name, which has to offer some members.

    Raises:
        ConfigError: if it does not.
    """
    cls = resolve(key, name)
    missing = [member for member in members if not hasattr(cls, member)]
    if missing:
        raise ConfigError(f"{key}: expected a class with {', '.join(members)}; '{name}' lacks {', '.join(missing)}")
    return cls


def build_model(config: Config, inputs: tuple[int, ...], outputs: int) -> Model:
    """The network, given the shape of an input and the number of outputs."""
    cls = resolve("model.name", config.model.name)
    if not issubclass(cls, nn.Module):
        resolve_offering("model.name", config.model.name, "init", "apply")
    given: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    # Values as the constructor's annotations want them: YAML knows lists, constructors ask for tuples.
    params = dict(parameters(cls, GIVEN_TO_MODELS).model_validate(config.model.params))
    if issubclass(cls, nn.Module):
        taken = parameters(cls, frozenset()).model_fields.keys()
        arguments = {name: value for name, value in given.items() if name in taken} | params
        return TorchModel(lambda: cls(**arguments))
    model: Model = cls(**given, **params)
    return model
