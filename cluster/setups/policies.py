"""From a configuration of RL tasks to the objects that compute."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch

from cluster.config.components import resolve
from cluster.config.outer_sections import OuterConfig
from cluster.config.overrides import GIVEN_TO_ALGORITHMS
from cluster.config.schema import Config
from cluster.config.sections import EvalConfig, InnerConfig
from cluster.errors import ConfigError
from cluster.setups.base import BaseSetup
from cluster.setups.models import build_inner, build_model, frozen_of, own_keys, require_pure
from cluster.workers.rollouts import RolloutWork
from meta.algorithms import Algorithm
from meta.context import Context, context
from meta.engine.choice import Choice, choose_for_policies
from meta.engine.strategies import Engine
from meta.engine.strategies import build as build_engine
from meta.params import Layout
from meta.policy import Policy, PolicyMAML
from meta.policy.advantages import AdvantageSettings
from meta.policy.engine import PolicyEngine
from meta.policy.samples import blank
from tasks.environments.contract import EnvironmentFamily, EnvironmentSpec
from tasks.family import Split

BUILT_IN = ("gaussian", "categorical", "multi_categorical")  # policies by name
ONE_BATCH = ("trpo", "ppo")  # outer steps that use a batch of rollouts more than once


@dataclass(frozen=True, kw_only=True)
class PolicySetup(BaseSetup):
    """Everything that a worker or a learner computes with where tasks are RL tasks."""

    family: EnvironmentFamily
    algorithm: PolicyMAML

    @cached_property
    def choice(self) -> Choice:
        """The strategy for meta-gradients that the configuration names, or that ``auto`` comes to."""
        name = self.config.engine
        if name not in ("auto", "measure"):
            return Choice(name, "named by the configuration", {})
        spec, algorithm = self.family.spec, self.algorithm
        rows = spec.trajectories * spec.horizon
        example = blank(algorithm.model, self.observed, algorithm.inner.steps, rows, self.dtype)
        return choose_for_policies(cast(Algorithm, algorithm), self.initial_params(), example, self.device, self.limits)

    @cached_property
    def gradients(self) -> Engine:
        """The algorithm's meta-gradients under that strategy; it computes nothing else."""
        return build_engine(self.choice.name, cast(Algorithm, self.algorithm), self.limits)

    @cached_property
    def engine(self) -> PolicyEngine:
        """All that is computed over a batch of tasks."""
        return PolicyEngine(self.algorithm, lambda: self.gradients, self.limits.memory)

    @property
    def observed(self) -> int:
        """Numbers that the policy is given per step."""
        return _observed(self.family.spec, informed=self.algorithm.informed)

    @property
    def advantage(self) -> AdvantageSettings:
        """Settings of the advantages that are computed from rewards."""
        return AdvantageSettings(**self.config.advantage.model_dump())

    def step_context(self, inner_step: int, *, evaluation: bool) -> Context:
        """The context of inner step number ``inner_step``: in evaluations α is another from the second on.

        Args:
            inner_step: number of the inner step, from 0 on.
            evaluation: whether it is a step of an evaluation.
        """
        later = self.config.eval.later_lr if evaluation and inner_step > 0 else 1.0
        return context({"lr": self.config.inner.lr * later}, self.dtype, self.device)

    @property
    def adds_shards(self) -> bool:
        """Never: each shard's rollouts are asked for again."""
        return False

    def make_work(self) -> RolloutWork:
        """The object that samples rollouts and computes meta-gradients and scores over them."""
        return RolloutWork(self)

    def describe(self, split: Split) -> dict[str, Any]:
        """Number and length of the trajectories sampled of a task after each number of inner steps."""
        del split  # rollouts are as many in all of them
        spec = self.family.spec
        return {
            "way": None,
            "shot": spec.trajectories,
            "query_per_class": spec.trajectories,
            "batch_norm": None,
            "horizon": spec.horizon,
            "later_lr": self.config.eval.later_lr,
            **({"encoding": spec.encoding} if spec.encoding else {}),
        }

    def sampling(self) -> dict[str, Any]:
        """Inner steps: each is taken on rollouts of its own."""
        return {"inner steps, each with rollouts": self.config.select_steps}


def build_policies(
    config: Config,
    builder: Callable[[Config], BaseSetup],
    family: EnvironmentFamily,
    dtype: torch.dtype,
) -> PolicySetup:
    """Construct policy and algorithm for a family of environments.

    Args:
        config: the whole configuration.
        builder: builds the same set-up in another process.
        family: the environments.
        dtype: type of θ.

    Raises:
        ConfigError: if the parts do not fit together.
        ValueError: if a value does not suit a part.
    """
    for key, value in (("objective", config.objective), ("eval.scores", config.eval.scores)):
        if value:
            raise ConfigError(
                f"{key}: expected none for RL tasks, whose score is the return, received one; leave it out"
            )
    algorithm = build_policy_algorithm(config, family.spec)
    params = algorithm.init(torch.Generator().manual_seed(config.seed), dtype)
    size = _observed(family.spec, informed=algorithm.informed)
    require_pure(algorithm.model, params, lambda: torch.zeros(3, size, dtype=dtype), keyed=False)
    return PolicySetup(
        frozen=frozen_of(config, algorithm.model, params),
        family=family,
        algorithm=algorithm,
        config=config,
        builder=builder,
        layout=Layout.of(params),
        dtype=dtype,
        seed=config.seed,
    )


def _observed(spec: EnvironmentSpec, *, informed: bool) -> int:
    """Numbers that a policy is given per step; one that is informed sees the task's description too."""
    return spec.input_shape[0] + (spec.description if informed else 0)


def build_policy_algorithm(config: Config, spec: EnvironmentSpec) -> PolicyMAML:
    """Policy and algorithm for a family of environments, of which nothing but the spec is asked.

    Args:
        config: the whole configuration.
        spec: of the family: shapes, horizon and trajectories.

    Raises:
        ConfigError: if the parts do not fit together.
        ValueError: if a value does not suit a part.
    """
    cls = resolve("algorithm of policies", config.algorithm.name)
    if not issubclass(cls, PolicyMAML):
        raise ConfigError(
            f"algorithm: expected a subclass of meta.policy.PolicyMAML, received '{config.algorithm.name}'"
        )
    size = _observed(spec, informed=cls.informed)
    if cls.informed and spec.description < 1:
        raise ConfigError("algorithm: oracle expects a family that describes its tasks, this one does not")
    outer, clipped = config.outer, config.outer.step == "ppo"
    if outer.estimator == "dice" and outer.step in ONE_BATCH:
        raise ConfigError(
            f"outer.estimator: expected likelihood_ratio with outer.step={outer.step}, received dice, which "
            "holds only where the rollouts were sampled; take outer.step=gradient"
        )
    model = _policy(config, size, spec)
    return cls(
        model=model,
        inner=build_inner(config, model),
        horizon=spec.horizon,
        estimator=config.inner.estimator,
        outer_estimator=outer.estimator,
        clip=outer.ppo.clip if clipped else None,
        kl_penalty=outer.ppo.kl_penalty if clipped else 0.0,
        **own_keys("algorithm of policies", config.algorithm, GIVEN_TO_ALGORITHMS),
    )


def _policy(config: Config, size: int, spec: EnvironmentSpec) -> Policy:
    fit = "multi_categorical" if spec.choices else "categorical" if spec.discrete else "gaussian"
    if config.model.name in BUILT_IN and config.model.name != fit:
        raise _unfit(config, spec, fit)
    policy: Any = build_model(config, (size,), spec.choices or spec.outputs)
    discrete = getattr(policy, "discrete", None)
    if discrete is None:
        raise ConfigError(
            f"model.name: expected a policy for family '{config.task.family}' ({', '.join(BUILT_IN)}, or a class with "
            f"the members of meta.policy.Policy), received '{config.model.name}'"
        )
    if discrete != spec.discrete:
        raise _unfit(config, spec, fit)
    built: Policy = policy
    return built


def _unfit(config: Config, spec: EnvironmentSpec, fit: str) -> ConfigError:
    """The error that a policy's actions are not those of the environments."""
    kind = f"{spec.outputs} discrete actions" if spec.discrete else f"actions of {spec.outputs} real numbers"
    if spec.choices:
        kind = f"actions of {spec.outputs} whole numbers ({', '.join(map(str, spec.choices))} values)"
    return ConfigError(
        f"model.name: expected a policy for {kind} of family '{config.task.family}', received "
        f"'{config.model.name}'; set model.name={fit}"
    )


def require_no_policies(config: Config) -> None:
    """Raise an error for settings of RL tasks where tasks are drawn.

    Raises:
        ConfigError: naming the key.
    """
    defaults = {"inner": InnerConfig(), "outer": OuterConfig(steps=1), "eval": EvalConfig()}
    alone = {"inner": ("estimator",), "outer": ("estimator", "trpo", "ppo"), "eval": ("later_lr",)}
    changed = [
        f"{section}.{key}"
        for section, keys in alone.items()
        for key in keys
        if getattr(getattr(config, section), key) != getattr(defaults[section], key)
    ]
    if config.outer.step in ONE_BATCH:
        changed.insert(0, "outer.step")
    if config.advantage != type(config.advantage)():
        changed.append("advantage")
    if changed:
        raise ConfigError(
            f"{changed[0]}: expected only with families of environments (navigation, half_cheetah_direction, …), "
            f"received with family '{config.task.family}'; leave it out"
        )


def require_policies(setup: BaseSetup) -> PolicySetup:
    """The set-up, if its tasks are RL tasks.

    Raises:
        ConfigError: if they are drawn.
    """
    if not isinstance(setup, PolicySetup):
        family = setup.config.task.family
        raise ConfigError(f"task.family: expected a family of environments, received episodes, '{family}'")
    return setup
