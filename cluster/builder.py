"""From a configuration to the objects that compute. The only place besides the commands that reads it whole."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from cluster.components import parameters, resolve
from cluster.config import GIVEN_TO_MODELS, Config
from cluster.errors import ConfigError
from meta.algorithms import Algorithm
from meta.choice import Choice, choose, measure
from meta.engine import Engine, Limits
from meta.engine import build as build_engine
from meta.models import Model, TorchModel
from meta.objectives import OBJECTIVES
from meta.params import Layout, Params
from tasks.family import Family, FamilySpec, draw_batch

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything that a worker or a learner computes with."""

    family: Family
    algorithm: Algorithm
    config: Config
    layout: Layout
    dtype: torch.dtype
    device: torch.device
    seed: int

    @cached_property
    def choice(self) -> Choice:
        """The strategy that the configuration names, or that its ``auto`` or ``measure`` comes to.

        Raises:
            ConfigError: if the model or the tasks do not let the algorithm run at all.
        """
        if self.config.engine not in ("auto", "measure"):
            return Choice(self.config.engine, "named by the configuration", {})
        measured = self.config.engine == "measure"
        tasks = range(self.config.shard_size if measured else 1)
        params = {name: value.to(self.device) for name, value in self.initial_params().items()}
        try:
            episodes = draw_batch(self.family, self.seed, "train", tasks, self.dtype, self.device)
            if measured:
                return measure(self.algorithm, params, episodes, self._limits)
            return choose(self.algorithm, params, episodes, self.device, self.config.training_tasks, self._limits)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @cached_property
    def engine(self) -> Engine:
        """The algorithm under that strategy."""
        return build_engine(self.choice.name, self.algorithm, self._limits)

    @property
    def _limits(self) -> Limits:
        return Limits(threads=self.config.cluster.threads, memory=int(self.config.cluster.memory * 1e6))

    def initial_params(self) -> Params:
        """θ before the first step, a function of the seed alone."""
        return _initial_params(self.algorithm, self.seed, self.dtype)


def build(config: Config) -> Setup:
    """Construct family, model and algorithm; the engine is chosen when it is first asked for.

    Raises:
        ConfigError: if the parts do not fit together.
    """
    dtype = DTYPES[config.dtype]
    device = torch.device("cuda" if config.cluster.gpus_per_worker > 0 else "cpu")
    try:
        family = _build_family(config)
        algorithm = _build_algorithm(config, family.spec)
        params = _initial_params(algorithm, config.seed, dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Setup(
        family=family,
        algorithm=algorithm,
        config=config,
        layout=Layout.of(params),
        dtype=dtype,
        device=device,
        seed=config.seed,
    )


def _initial_params(algorithm: Algorithm, seed: int, dtype: torch.dtype) -> Params:
    return algorithm.init(torch.Generator().manual_seed(seed), dtype)


def _build_family(config: Config) -> Family:
    family: Family = _resolve("task.family", config.task.family, "spec", "draw")(**config.task.params)
    return family


def _resolve(key: str, name: str, *members: str) -> type[Any]:
    """The class of a name, which has to offer some members.

    Raises:
        ConfigError: if it does not.
    """
    cls = resolve(key, name)
    missing = [member for member in members if not hasattr(cls, member)]
    if missing:
        raise ConfigError(f"{key}: expected a class with {', '.join(members)}; '{name}' lacks {', '.join(missing)}")
    return cls


def _build_algorithm(config: Config, spec: FamilySpec) -> Algorithm:
    cls = _resolve("algorithm", config.algorithm, "input_shape", "init", "meta_loss", "scores")
    inputs = cls.input_shape(spec.input_shape, spec.description)
    algorithm: Algorithm = cls(
        model=_build_model(config, inputs, spec.outputs),
        objective=OBJECTIVES[spec.objective],
        inner_lr=config.inner.lr,
        inner_steps=config.inner.steps,
        adapt=config.inner.adapt,
        **({"recompute": True} if config.inner.recompute else {}),  # an algorithm that cannot need not know the word
    )
    return algorithm


def _build_model(config: Config, inputs: tuple[int, ...], outputs: int) -> Model:
    cls = resolve("model.name", config.model.name)
    if not issubclass(cls, nn.Module):
        _resolve("model.name", config.model.name, "init", "apply")
    given: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    # Values as the constructor's annotations want them: YAML knows lists, constructors ask for tuples.
    params = dict(parameters(cls, GIVEN_TO_MODELS).model_validate(config.model.params))
    if issubclass(cls, nn.Module):
        taken = parameters(cls, frozenset()).model_fields.keys()
        arguments = {name: value for name, value in given.items() if name in taken} | params
        return TorchModel(lambda: cls(**arguments))
    model: Model = cls(**given, **params)
    return model
