"""The configuration: one YAML file, checked by frozen pydantic models, overridden by ``section.key=value``."""

from collections.abc import Iterable
from inspect import isabstract
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from cluster.config import strict_yaml
from cluster.config.components import BUILT_IN, nearest, parameters, resolve, strictly
from cluster.config.credentials import secret_entries
from cluster.config.outer import checked_outer
from cluster.config.outer_sections import OuterConfig
from cluster.config.overrides import GIVEN_TO_ALGORITHMS, GIVEN_TO_MODELS, with_overrides
from cluster.config.problems import problems
from cluster.config.sections import (
    STARTING,
    AdvantageConfig,
    CheckpointConfig,
    ClusterConfig,
    Count,
    EvalConfig,
    InnerConfig,
    ModelConfig,
    NamedSection,
    OpenSection,
    Section,
    TaskConfig,
    TrackingConfig,
)
from cluster.config.shipped import configurations, locate
from cluster.errors import ConfigError
from meta.engine.strategies import STRATEGIES
from meta.objectives import Objective, TaskScore

SHARDS = 16  # of a meta-batch, by default: so many workers can share it


class Config(Section):
    """A whole training. ``identity`` is the part that decides the bits of θ."""

    task: TaskConfig
    """The family that tasks are drawn from."""
    model: ModelConfig
    """The network."""
    inner: InnerConfig = InnerConfig()
    """Adaptation on the support data."""
    outer: OuterConfig
    """The meta-update of θ."""
    advantage: AdvantageConfig = AdvantageConfig()
    """How the rewards of rollouts become advantages, of policies."""
    meta_batch: Count
    """Tasks per outer step."""
    shard: Count | None = None
    """Tasks per unit of work; null: a sixteenth of the meta-batch. It decides the bits of θ, the number of workers does
    not. More workers than shards have nothing to do."""
    algorithm: NamedSection = NamedSection(name="maml")
    """The method: a name, or ``{name: …}`` with keys of its own."""
    objective: NamedSection | None = None
    """The loss and the score that selects: a name, or ``{name: …}`` with keys of its own; null: the family's own."""
    engine: str = "auto"
    """``auto``: by a rule over model, sizes and length of the run; ``native``: compiled; ``measure``: time them and
    keep the fastest; or another strategy by name."""
    dtype: Literal["float32", "float64"] = "float32"
    """Of parameters and data."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of tasks and initial parameters."""
    eval: EvalConfig = EvalConfig()
    """Held-out tasks."""
    cluster: ClusterConfig = ClusterConfig()
    """Workers and where they run."""
    tracking: TrackingConfig = TrackingConfig()
    """MLflow."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Where runs lie, and what is kept of them."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shard is not None and self.shard > self.meta_batch:
            raise ValueError(f"shard: expected at most meta_batch ({self.meta_batch}) tasks, received {self.shard}")
        engines = ["auto", "measure", *STRATEGIES]
        if self.engine not in engines:
            raise ValueError(
                f"engine: expected one of {', '.join(engines)}, received '{self.engine}'{nearest(self.engine, engines)}"
            )
        return self

    @property
    def shard_size(self) -> int:
        """Tasks per shard; by default the meta-batch is cut into 16 shards or fewer."""
        return self.shard if self.shard is not None else -(-self.meta_batch // SHARDS)

    @property
    def shards(self) -> int:
        """Shards of a meta-batch; the last may be smaller."""
        return -(-self.meta_batch // self.shard_size)

    @property
    def training_tasks(self) -> int:
        """Tasks of the whole training."""
        return self.outer.steps * self.meta_batch

    @property
    def select_steps(self) -> int:
        """Number of inner steps after which the validation score picks the best θ; by default those of training."""
        return self.inner.steps if self.eval.select_steps is None else self.eval.select_steps

    @property
    def scored_steps(self) -> tuple[int, ...]:
        """Numbers of inner steps after which validations score."""
        return tuple(sorted({*self.eval.steps, self.select_steps}))

    @property
    def identity(self) -> dict[str, Any]:
        """The values that decide the bits of θ after a number of steps, defaults spelled out.

        The engine's name is left out: a checkpoint holds the strategy that it came to.
        """
        plain = self.model_dump(mode="json")
        kept = ("task", "model", "inner", "outer", "advantage", "meta_batch", "algorithm", "objective", "dtype", "seed")
        identity = {key: plain[key] for key in kept}
        identity["shard"] = self.shard_size
        cluster = self.cluster
        identity["cluster"] = {
            "threads": cluster.threads,
            "memory": cluster.memory,
            "gpu": cluster.gpus_per_worker > 0,
        }
        identity["eval"] = {"select_params": self.eval.select_params}  # bits of θ do not depend on it, the best θ does
        identity["inner"].pop("recompute")  # an order of additions like the engine, settled with it
        steps, schedule = identity["outer"].pop("steps"), identity["outer"]["schedule"]  # a run may go on for longer
        if schedule.get("steps", 0) is None:  # unless its schedule spans all steps
            schedule["steps"] = steps
        return identity

    def to_yaml(self) -> str:
        """The whole configuration, defaults spelled out, as YAML that loads to an equal one."""
        return strict_yaml.write(self.model_dump(mode="json"))


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys at which two nested dictionaries differ, with both values.

    Args:
        one: nested plain values.
        other: the same, to compare with.
        prefix: dotted key of the section that both are, with a dot at the end.
    """
    lines = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} there, {b} here")
    return lines


def _checked_section(
    section: OpenSection, key: str, own: str, supplied: frozenset[str], names: str | None = None
) -> dict[str, Any]:
    """The section's parameters, checked against the named class's constructor, defaults filled in.

    Args:
        section: names the class.
        key: of the section.
        own: the section's key that names the class.
        supplied: arguments of the constructor that are no keys.
        names: the table of built-in names; by default that of the section's own key.
    """
    cls = resolve(names or f"{key}.{own}", getattr(section, own))
    model = parameters(cls, supplied)
    try:
        values = strictly(model, section.params).model_dump()
        # A constructor checks what annotations cannot say (ranges, sums).
        if not supplied:
            cls(**values)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, model, f"{key}."))) from error
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    return {own: getattr(section, own), **values}


def _checked_objective(section: NamedSection) -> NamedSection:
    """The section of an objective, its class and keys checked."""
    _require_subclass("objective", section.name, Objective, "loss")
    return NamedSection(**_checked_section(section, "objective", "name", frozenset()))


def _require_subclass(key: str, name: str, base: type[Any], member: str) -> None:
    """Check that a name stands for a class of a kind, with what the base leaves to write."""
    cls = resolve(key if key in BUILT_IN else f"{key}.name", name)
    if not issubclass(cls, base) or isabstract(cls) or not hasattr(cls, "metric"):
        raise ConfigError(
            f"{key}: expected a subclass of meta.objectives.{base.__name__} with {member} and metric, received '{name}'"
        )


def parse(raw: Any) -> Config:
    """Check a nested dictionary and fill in every default.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    if not isinstance(raw, dict):
        raise ConfigError(f"expected a configuration of sections and keys, received {type(raw).__name__}")
    try:
        config = strictly(Config, raw)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, Config))) from error
    require_no_secrets(raw)
    policies = hasattr(resolve("task.family", config.task.family), "start")
    names = "algorithm of policies" if policies else "algorithm"
    algorithm = _checked_section(config.algorithm, "algorithm", "name", GIVEN_TO_ALGORITHMS, names)
    objective = None if config.objective is None else _checked_objective(config.objective)
    inner = {
        part: NamedSection(**_checked_section(getattr(config.inner, part), f"inner.{part}", "name", frozenset()))
        for part in ("rule", "derivative")
    }
    for baseline in config.eval.baselines:
        resolve("algorithm", baseline)
        if baseline == config.algorithm.name:
            raise ConfigError(f"eval.baselines: expected algorithms other than the run's own, received '{baseline}'")
    for score in config.eval.scores:
        _require_subclass("eval.scores", score, TaskScore, "measure")
    task = _checked_section(config.task, "task", "family", frozenset())
    model = _checked_section(config.model, "model", "name", GIVEN_TO_MODELS) | config.model.starting
    _require_free_names(config.model)
    if config.eval.select_params == "ema" and config.outer.ema is None:
        raise ConfigError("eval.select_params: expected theta without outer.ema, received ema; set outer.ema")
    update: dict[str, Any] = {"task": TaskConfig(**task), "model": ModelConfig(**model)}
    update |= {"algorithm": NamedSection(**algorithm), "objective": objective}
    update |= {"inner": config.inner.model_copy(update=inner)}
    return config.model_copy(update={**update, "outer": checked_outer(config.outer)})


def _require_free_names(section: ModelConfig) -> None:
    """Raise an error if the model's constructor has an argument that is a key of metaray's own."""
    arguments = parameters(resolve("model.name", section.name), GIVEN_TO_MODELS).model_fields.keys()
    for name in STARTING:
        if name in arguments:
            raise ConfigError(
                f"model.name: expected a constructor without an argument '{name}', since model.{name} says where the "
                f"initial θ comes from, received '{section.name}'; rename the argument"
            )


def require_no_secrets(raw: Any) -> None:
    """Refuse passwords, keys and tokens: configurations are stored, shown and logged.

    Raises:
        ConfigError: naming the key, not the secret.
    """
    key = next(secret_entries(raw), None)
    if key is not None:
        raise ConfigError(
            f"{key}: expected no password, key or token, received one; give it in the environment, which is neither "
            "stored nor sent to MLflow (AWS_ACCESS_KEY_ID, a variable that your own class reads, …)"
        )


def read_yaml(path: Path) -> dict[str, Any]:
    """The raw contents of a configuration file.

    Raises:
        ConfigError: if the file is missing, not YAML, or not a mapping.
    """
    try:
        raw = strict_yaml.read(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        siblings = sorted(str(other) for other in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = nearest(str(path), [*siblings, *configurations()])
        raise ConfigError(
            f"expected a configuration file at '{path}', found none{hint}; those that come with metaray are listed by: "
            "metaray configs"
        ) from error
    except strict_yaml.RefusedError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML, received a file that does not parse: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections and keys, received {type(raw).__name__}")
    return raw


def overridden(config: Config, overrides: Iterable[str]) -> Config:
    """A checked configuration with overrides applied, checked anew.

    Args:
        config: the checked configuration.
        overrides: words ``section.key=value``.
    """
    return parse(with_overrides(config.model_dump(mode="json"), overrides))


def load(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read, override and check a configuration file.

    Args:
        path: the YAML file, or the name of one that comes with metaray.
        overrides: words ``section.key=value``.
    """
    return parse(with_overrides(read_yaml(locate(path)), overrides))
