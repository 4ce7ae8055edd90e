"""Classes named by a configuration, checked for the members they must have, and the model built from one."""

from collections.abc import Callable, Iterable
from glob import escape
from typing import Any, Protocol

import torch
from torch import nn

from cluster.config.components import module_keys, parameters, resolve, strictly
from cluster.config.overrides import GIVEN_TO_MODELS
from cluster.config.schema import Config
from cluster.config.sections import ModelConfig, NamedSection
from cluster.errors import ConfigError
from meta.inner import EVERY, EXCEPT, Inner, matches
from meta.inputs import Inputs, Shape, one_shape
from meta.models import Model, TorchModel
from meta.models.examine import examine
from meta.params import Params


def resolve_offering(key: str, name: str, *members: str) -> type[Any]:
    """The class that a configuration names, which must have the given members.

    Args:
        key: configuration key of the name, for messages.
        name: built-in name or ``module:Name``.
        *members: names of attributes that the class must have.

    Raises:
        ConfigError: if it does not.
    """
    cls = resolve(key, name)
    missing = [member for member in members if not hasattr(cls, member)]
    if missing:
        raise ConfigError(f"{key}: expected a class with {', '.join(members)}; '{name}' lacks {', '.join(missing)}")
    return cls


def build_model(config: Config, inputs: Shape, outputs: int | tuple[int, ...]) -> Model:
    """The network for inputs and outputs of a family.

    Args:
        config: names the class and its own parameters, ``model.*``.
        inputs: shape of one input, or shapes by name.
        outputs: number of outputs, or what a policy of several whole numbers takes.

    Raises:
        ValueError: if the network takes one tensor and the family has several.
    """
    cls = resolve("model.name", config.model.name)
    if is_own(cls):
        inputs = one_shape(inputs, f"model {config.model.name}")
    if not issubclass(cls, nn.Module):
        resolve_offering("model.name", config.model.name, "init", "apply")
    sizes: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    params = own_keys("model.name", config.model, GIVEN_TO_MODELS)
    if issubclass(cls, nn.Module):
        taken = parameters(cls, frozenset()).model_fields.keys()
        about = {name: params.pop(name) for name in module_keys(cls)}
        arguments = {name: value for name, value in sizes.items() if name in taken} | params
        return TorchModel(lambda: cls(**arguments), config.seed, **about)
    model: Model = cls(**sizes, **params)
    return model


class _Initial(Protocol):
    """A model or an algorithm: it has initial parameters."""

    def init(self, generator: torch.Generator, dtype: torch.dtype) -> Params: ...


def frozen_of(config: Config, model: Any, names: Iterable[str]) -> tuple[str, ...]:
    """Names of the parameters that the outer loop leaves as they are.

    They are those that the model's constructor froze, and those that fit ``outer.freeze``.

    Args:
        config: the configuration.
        model: the model.
        names: of all meta-parameters.

    Raises:
        ConfigError: if a pattern fits no name, or nothing is left to train.
    """
    names, patterns = tuple(names), config.outer.freeze
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            raise ConfigError(
                f"outer.freeze: expected patterns of parameter names, '{pattern}' fits none of {', '.join(names)}"
            )
    own: frozenset[str] = getattr(model, "frozen", frozenset())
    frozen = tuple(name for name in names if name in own or (patterns and matches(name, patterns)))
    if len(frozen) == len(names):
        raise ConfigError(f"outer.freeze: expected patterns that leave parameters to train, received {list(patterns)}")
    return frozen


def adapted_of(config: Config, model: _Initial) -> tuple[str, ...]:
    """Patterns of the names of the parameters that the inner loop moves.

    Unless ``inner.adapt`` has patterns of its own, what is frozen in the outer loop is frozen in the inner loop too.
    What the model's constructor froze is never moved.

    Args:
        config: names the patterns of the inner loop, ``inner.*``.
        model: the network.
    """
    own: frozenset[str] = getattr(model, "frozen", frozenset())
    if config.outer.freeze and config.inner.adapt == EVERY:
        params = model.init(torch.Generator().manual_seed(config.seed), torch.float32)
        own |= {name for name in params if matches(name, config.outer.freeze)}
    return (*config.inner.adapt, *(EXCEPT + escape(name) for name in sorted(own)))


def build_inner(config: Config, model: _Initial) -> Inner:
    """The inner loop of a configuration: rule, derivative, steps, and what moves.

    Args:
        config: has the section ``inner``.
        model: the network.
    """
    inner = config.inner
    return Inner(
        lr=inner.lr,
        steps=inner.steps,
        rule=_built("inner.rule.name", inner.rule),
        derivative=_built("inner.derivative.name", inner.derivative),
        adapt=adapted_of(config, model),
        recompute=bool(inner.recompute),
    )


def _built(key: str, section: NamedSection) -> Any:
    """The object that a section names, of a class whose constructor takes the section's keys alone."""
    return resolve(key, section.name)(**own_keys(key, section, frozenset()))


def own_keys(key: str, section: NamedSection | ModelConfig, supplied: frozenset[str]) -> dict[str, Any]:
    """The keys of a section as the constructor of its class wants them: YAML knows lists, constructors ask for tuples.

    Args:
        key: of the section, for the table of built-in names.
        section: names the class.
        supplied: arguments that the builder gives itself.
    """
    return dict(strictly(parameters(resolve(key, section.name), supplied), section.params))


def is_built_in(part: Any) -> bool:
    """Whether a model or an algorithm is of metaray itself: a pure function, that draws no random numbers."""
    return is_own(type(part)) and not isinstance(part, TorchModel)


def is_own(cls: type[Any]) -> bool:
    """Whether a class is of metaray's mathematics."""
    return cls.__module__.partition(".")[0] == "meta"


def require_pure(model: Model, params: Params, inputs: Callable[[], Inputs], *, keyed: bool = True) -> bool:
    """Examine a user's model; see :func:`meta.models.examine.examine`.

    Args:
        model: the model.
        params: parameters of it.
        inputs: gives example inputs [B, ...], or several by name.
        keyed: whether random layers can draw from a task's noise.

    Returns:
        Whether random layers draw numbers in training.

    Raises:
        ConfigError: saying what the model does that meta-learning would get wrong.
    """
    if is_built_in(model):
        return False
    try:
        drawing = examine(model, params, inputs())
    except ValueError as error:
        raise ConfigError(f"model.name: {error}") from error
    if drawing and not keyed:
        raise ConfigError(
            "model.name: expected a policy without random layers, received one that draws random numbers in training: "
            "the policy that acts and the policy that is differentiated would differ; leave dropout out"
        )
    return drawing
