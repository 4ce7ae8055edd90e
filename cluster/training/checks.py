"""Checks of a configuration, or of a class of the user's own, before anything is trained: ``metaray check``."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.config.components import imported, parameters, strictly
from cluster.config.overrides import with_overrides, with_values
from cluster.config.schema import Config, parse
from cluster.errors import ConfigError
from cluster.setups.build import Setup, build
from cluster.setups.episodes import EpisodeSetup, require_episodes
from cluster.setups.models import build_model, require_pure
from cluster.training.preflight import require_path
from meta.algorithms import MAML, Algorithm, noise_size
from meta.checker import check_algorithm, check_rule, runs_on
from meta.episode import Episode, Examples, unstack, with_noise
from meta.inner import Inner
from meta.models import Model
from meta.models.module import TorchModel
from meta.objectives import OBJECTIVES
from meta.params import Params
from tasks.checker import check_family
from tasks.environments.checker import check_environment_family
from tasks.family import draw_noise

TASKS, EXAMPLES = 2, 5
PLAIN: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": EXAMPLES},
    "model": {"name": "mlp"},
    "meta_batch": TASKS,
    "outer": {"steps": 1},
    "dtype": "float64",
}
CONTRACTS = {
    "algorithm": ("meta_loss", "scores", "predict"),
    "inner rule": ("rule_params", "update"),
    "derivative": ("implicit", "is_constant"),
    "environment family": ("spec", "describe", "start"),
    "family": ("spec", "draw"),
    "model": ("init", "apply"),
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The result of a check that found no fault.

    Attributes:
        kind: ``configuration``, or the contract that the class keeps.
        facts: sentences by name.
        layers: of the model, each with ``name``, ``type``, ``parameters`` and ``handled``.
        engines: strategies, with an empty text if one runs and the reason if it does not.
    """

    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    engines: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


def check_configuration(config: Config) -> Checked:
    """Build everything that a configuration names, and try each part of a training on one task.

    Raises:
        ConfigError: naming the part that fails, and why.
    """
    setup = build(config)
    require_path(setup)
    choice = setup.choice
    numbers = setup.layout.size
    facts = {
        "task": config.task.family,
        "model": f"{config.model.name}, {numbers} parameters" + _frozen(setup),
        "algorithm": config.algorithm.name,
        "inner loop": f"{config.inner.steps} steps of {config.inner.rule.name}, α {config.inner.lr:g}, "
        f"{config.inner.derivative.name}",
        "outer loop": f"{config.outer.steps} steps of {config.meta_batch} tasks in {config.shards} shards",
        "engine": f"{choice.name} ({choice.reason})",
        **{name: str(value) for name, value in setup.sampling().items()},
    }
    return Checked(
        kind="configuration", facts=facts, layers=layers(setup.algorithm.model), engines=dict(choice.passed_over)
    )


def _frozen(setup: Setup) -> str:
    return f", {len(setup.frozen)} of {len(setup.layout.names)} tensors frozen" if setup.frozen else ""


def check_class(
    name: str,
    words: list[str],
    config: Config | None = None,
    inputs: tuple[int, ...] | None = None,
    outputs: int | None = None,
) -> Checked:
    """Check a class by the contract that it keeps.

    Args:
        name: ``module:Name``.
        words: its own keys, ``key=value``.
        config: whose task family gives sizes and examples to a model or an algorithm; None: sinusoids.
        inputs: shape of one input of a model, in place of a family's.
        outputs: number of outputs of a model, in place of a family's.

    Raises:
        ConfigError: naming the first fault.
    """
    cls = imported("check", name)
    keys = with_overrides({}, words)
    kind = kind_of(cls, name)
    try:
        match kind:
            case "model":
                return _check_model(name, keys, config, inputs, outputs)
            case "algorithm":
                return _check_method(kind, "algorithm", name, keys, config)
            case "inner rule":
                check_rule(_built(cls, keys))
            case "derivative":
                return _check_method(kind, "inner.derivative", name, keys, config)
            case "family":
                check_family(_built(cls, keys))
            case _:
                check_environment_family(_built(cls, keys))
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's class raises is what the check is for
        kind_of_error = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ConfigError(f"{name}: {kind_of_error}{error}") from error
    return Checked(kind=kind)


def kind_of(cls: type[Any], name: str) -> str:
    """The contract of :data:`CONTRACTS` that a class keeps.

    Args:
        cls: the class.
        name: as the user wrote it.

    Raises:
        ConfigError: if it keeps none.
    """
    if issubclass(cls, nn.Module):
        return "model"
    declared = dir(cls) + list(inspect.get_annotations(cls))
    for kind, members in CONTRACTS.items():
        if all(member in declared for member in members):
            return kind
    contracts = "; ".join(f"{kind}: {', '.join(members)}" for kind, members in CONTRACTS.items())
    raise ConfigError(
        f"{name}: expected a torch.nn.Module, or a class with the members of a contract ({contracts}), received one "
        f"with {', '.join(member for member in dir(cls) if not member.startswith('_')) or 'none of its own'}"
    )


def _built(cls: type[Any], keys: Mapping[str, Any]) -> Any:
    return cls(**dict(strictly(parameters(cls, frozenset()), keys)))


def _check_model(
    name: str, keys: Mapping[str, Any], config: Config | None, inputs: tuple[int, ...] | None, outputs: int | None
) -> Checked:
    if config is not None and (inputs or outputs):
        raise ConfigError("expected either --config or --inputs and --outputs, received both")
    if config is None:
        plain = parse(PLAIN | {"model": {"name": name, **keys}})
        model = build_model(plain, inputs or (1,), outputs or 1)
        algorithm, params, episodes = _with_random_examples(model, inputs or (1,))
        drawing = require_pure(model, params, lambda: unstack(episodes).support.inputs)
        if drawing:
            size = noise_size(algorithm, params, unstack(episodes))
            noise = draw_noise(0, range(TASKS), size, torch.float64, torch.device("cpu"))
            episodes = with_noise(episodes, noise)
    else:
        setup = _setup(config, "model", {"name": name, **keys})
        algorithm, params, drawing = setup.algorithm, setup.initial_params(), setup.draws
        episodes = setup.training_episodes(range(TASKS))
    engines = runs_on(algorithm, episodes, params)
    if all(engines.values()):
        raise ConfigError(f"{name}: no engine computes a meta-gradient of it: {engines['eager']}")
    facts = {"parameters": str(sum(value.numel() for value in params.values()))}
    if drawing:
        facts["random layers"] = "draw numbers keyed by task and step in training, and are off in evaluation"
    return Checked(kind="model", facts=facts, layers=layers(algorithm.model), engines=engines)


def _with_random_examples(model: Model, inputs: tuple[int, ...]) -> tuple[Algorithm, Params, Episode]:
    """MAML over a model, θ, and tasks [T, ...] of normal inputs and targets, in float64."""
    source = torch.Generator().manual_seed(0)
    algorithm: Any = MAML(model=model, objective=OBJECTIVES["mse"], inner=Inner())
    params = algorithm.init(source, torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(TASKS, EXAMPLES, *shape, generator=source, dtype=torch.float64)

    example = normal(*inputs)
    with torch.no_grad():
        shape = tuple(model.apply(params, example[0]).shape[1:])
    examples = Examples(example, normal(*shape))
    query = Examples(normal(*inputs), normal(*shape))
    return algorithm, params, Episode(examples, query, torch.zeros(TASKS, 0, dtype=torch.float64))


def _check_method(kind: str, key: str, name: str, keys: Mapping[str, Any], config: Config | None) -> Checked:
    """Check the algorithm of a set-up in which ``key`` names the class."""
    setup = _setup(config, key, {"name": name, **keys})
    episodes = setup.training_episodes(range(TASKS))
    check_algorithm(setup.algorithm, Episode(*episodes[:3]))
    return Checked(kind=kind, engines=runs_on(setup.algorithm, episodes, setup.initial_params()))


def _setup(config: Config | None, key: str, section: Mapping[str, Any]) -> EpisodeSetup:
    """The set-up of a configuration with another section at ``key``, in float64."""
    raw = parse(PLAIN).model_dump(mode="json") if config is None else config.model_dump(mode="json")
    return require_episodes(build(parse(with_values(raw, {key: dict(section), "dtype": "float64"}))))


def layers(model: Any) -> list[dict[str, Any]]:
    """The layers of a module without layers of their own, and how metaray computes each; empty for a built-in model.

    Args:
        model: the model.
    """
    if not isinstance(model, TorchModel):
        return []
    module = model.module({"": torch.zeros(())}, training=False)
    return [
        {
            "name": name,
            "type": type(layer).__name__,
            "parameters": sum(value.numel() for value in layer.parameters(recurse=False)),
            "handled": _handled(name, layer, model),
        }
        for name, layer in module.named_modules()
        if name and (next(layer.children(), None) is None or list(layer.parameters(recurse=False)))
    ]


def _handled(name: str, layer: nn.Module, model: TorchModel) -> str:
    own = [f"{name}.{parameter}" for parameter, _ in layer.named_parameters(recurse=False)]
    if own and all(parameter in model.frozen for parameter in own):
        return "frozen by its constructor"
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention):
        return "in elementary operations, which differentiate twice"
    if isinstance(layer, nn.modules.dropout._DropoutNd):
        return "keyed random numbers in training, off in evaluation"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return f"statistics: {model.batch_norm}"
    return "as it is"


def is_configuration(target: str) -> bool:
    """Tells whether a word names a file rather than a class.

    >>> is_configuration("tune_configs/sinusoid.yaml"), is_configuration("my_models:Net")
    (True, False)
    """
    return Path(target).suffix in (".yaml", ".yml") or ":" not in target
