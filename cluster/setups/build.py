"""From a configuration to the objects that compute. The only place besides the commands that reads it whole."""

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.setups.base import Basis
from cluster.setups.models import (
    adapted_of,
    build_model,
    frozen_of,
    is_built_in,
    require_pure,
    resolve_offering,
)
from cluster.setups.policies import PolicySetup, build_policies, require_no_policies
from meta.algorithms import Algorithm, noise_size
from meta.engine.choice import Choice, choose, measure
from meta.engine.strategies import Engine
from meta.engine.strategies import build as build_engine
from meta.episode import Episode, unstack, with_noise
from meta.objectives import OBJECTIVES
from meta.params import Layout, Params
from tasks.environments.contract import EnvironmentFamily, EnvironmentSpec
from tasks.family import Family, FamilySpec, draw_batch, draw_noise

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Setup(Basis):
    """Everything that a worker or a learner computes with."""

    family: Family
    algorithm: Algorithm
    draws: bool

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
            episodes = self.training_episodes(tasks)
            if measured:
                return measure(self.algorithm, params, episodes, self.limits)
            tried_at = None if self.is_built_in else self.config.scored_steps
            count = self.config.training_tasks
            return choose(self.algorithm, params, episodes, self.device, count, self.limits, tried_at)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    @cached_property
    def engine(self) -> Engine:
        """The algorithm under that strategy."""
        return build_engine(self.choice.name, self.algorithm, self.limits)

    @property
    def is_built_in(self) -> bool:
        """Whether model and algorithm are of metaray itself."""
        return is_built_in(self.algorithm) and is_built_in(self.algorithm.model)

    def initial_params(self) -> Params:
        """θ before the first step, a function of the seed alone."""
        return _initial_params(self.algorithm, self.seed, self.dtype)

    def training_episodes(self, tasks: range) -> Episode:
        """Episodes of training tasks [T, ...], with the noise that random layers draw from where there are any."""
        episodes = self._draw(tasks)
        if not self.noise:
            return episodes
        return with_noise(episodes, draw_noise(self.seed, tasks, self.noise, self.dtype, self.device))

    @cached_property
    def noise(self) -> int:
        """Random numbers M that the meta-loss of one task takes."""
        if not self.draws and is_built_in(self.algorithm):
            return 0
        params = {name: value.to(self.device) for name, value in self.initial_params().items()}
        return noise_size(self.algorithm, params, unstack(self._draw(range(1))))

    def _draw(self, tasks: range) -> Episode:
        return draw_batch(self.family, self.seed, "train", tasks, self.dtype, self.device)


AnySetup = Setup | PolicySetup


def build(config: Config) -> AnySetup:
    """Construct family, model and algorithm; the engine is chosen when it is first asked for.

    Raises:
        ConfigError: if the parts do not fit together.
    """
    dtype = DTYPES[config.dtype]
    device = _device(config)
    try:
        family = _build_family(config)
        if isinstance(family.spec, EnvironmentSpec):
            return build_policies(config, cast(EnvironmentFamily, family), dtype, device)
        require_no_policies(config)
        return _build_examples(config, cast(Family, family), dtype, device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _device(config: Config) -> torch.device:
    """Where workers compute.

    Raises:
        ConfigError: if they ask for GPUs of a machine that has none.
    """
    asked = config.cluster.gpus_per_worker
    if asked > 0 and not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this torch was built without CUDA"
        raise ConfigError(
            f"cluster.gpus_per_worker: expected 0 on a machine without a GPU, received {asked:g}: torch sees none here"
            f"{built}; set it to 0, or start the command on a machine with one"
        )
    return torch.device("cuda" if asked > 0 else "cpu")


def build_episodes(config: Config) -> Setup:
    """As :func:`build`, for families whose tasks are drawn.

    Raises:
        ConfigError: if the family's tasks are acted in.
    """
    setup = build(config)
    if isinstance(setup, PolicySetup):
        raise ConfigError(f"task.family: expected a family of episodes, received environments, '{config.task.family}'")
    return setup


def _build_examples(config: Config, family: Family, dtype: torch.dtype, device: torch.device) -> Setup:
    algorithm = build_algorithm(config, family.spec)
    params = _initial_params(algorithm, config.seed, dtype)

    def inputs() -> Tensor:
        episode = unstack(draw_batch(family, config.seed, "train", range(1), dtype))
        found = episode.support.inputs if len(episode.support.inputs) else episode.query.inputs
        shape = algorithm.input_shape(family.spec.input_shape, family.spec.description)
        return found if tuple(found.shape[1:]) == shape else found.new_zeros(len(found), *shape)

    return Setup(
        family=family,
        algorithm=algorithm,
        draws=require_pure(algorithm.model, params, inputs),
        frozen=frozen_of(config, algorithm.model, params),
        config=config,
        layout=Layout.of(params),
        dtype=dtype,
        device=device,
        seed=config.seed,
    )


def _initial_params(algorithm: Algorithm, seed: int, dtype: torch.dtype) -> Params:
    return algorithm.init(torch.Generator().manual_seed(seed), dtype)


def _build_family(config: Config) -> Family | EnvironmentFamily:
    cls = resolve_offering("task.family", config.task.family, "spec")
    family: Family | EnvironmentFamily = cls(**config.task.params)
    members = ("describe", "start") if isinstance(family.spec, EnvironmentSpec) else ("draw",)
    resolve_offering("task.family", config.task.family, *members)
    return family


def build_algorithm(config: Config, spec: FamilySpec) -> Algorithm:
    """Model and algorithm for a family's episodes, of which nothing but the spec is asked.

    Raises:
        ConfigError: if the parts do not fit together.
        ValueError: if a value does not suit a part.
    """
    cls = resolve_offering("algorithm", config.algorithm, "input_shape", "init", "meta_loss", "scores", "predict")
    inputs = cls.input_shape(spec.input_shape, spec.description)
    model = build_model(config, inputs, spec.outputs)
    algorithm: Algorithm = cls(
        model=model,
        objective=OBJECTIVES[spec.objective],
        inner_lr=config.inner.lr,
        inner_steps=config.inner.steps,
        adapt=adapted_of(config, model),
        **({"recompute": True} if config.inner.recompute else {}),  # an algorithm that cannot need not know the word
    )
    return algorithm
