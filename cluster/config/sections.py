"""The sections of a configuration: what keys there are, of what type, with what defaults."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from cluster.config.credentials import has_credentials, without_credentials

Count = Annotated[int, Field(ge=1)]
CountOrNone = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A part of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class OpenSection(BaseModel):
    """A section whose further keys are the parameters of the class it names."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the named class."""
        return dict(self.model_extra or {})


class NamedSection(OpenSection):
    """A class by name with keys of its own; the name alone may stand for it."""

    name: str

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_serializer
    def _shortest(self) -> str | dict[str, Any]:
        return {"name": self.name, **self.params} if self.params else self.name


STARTING = ("weights", "reinit")  # keys of ``model`` that are metaray's own


class TaskConfig(OpenSection):
    """``task``: the family and its parameters."""

    family: str


class ModelConfig(OpenSection):
    """``model``: the network and its parameters.

    Attributes:
        weights: file, address or registered model that the initial θ is taken from; None: it is drawn.
        reinit: patterns of the names of parameters that are drawn all the same.
    """

    name: str
    weights: str | None = None
    reinit: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _reinit_of_weights(self) -> Self:
        if self.reinit and self.weights is None:
            raise ValueError(
                "reinit: expected none without model.weights, since all parameters are drawn; leave it out"
            )
        return self

    @property
    def starting(self) -> dict[str, Any]:
        """``weights`` and ``reinit``, as far as they are set."""
        values = {"weights": self.weights, "reinit": self.reinit}
        return {key: value for key, value in values.items() if value}

    @model_serializer(mode="wrap")
    def _without_empty(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = plain(self)
        return {key: value for key, value in values.items() if key not in STARTING or value}


class InnerConfig(Section):
    """``inner``: adaptation on the support data."""

    lr: NonNegative = 0.01
    steps: CountOrNone = 1
    adapt: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    rule: NamedSection = NamedSection(name="sgd")
    derivative: NamedSection = NamedSection(name="exact")
    recompute: bool | None = None
    estimator: Literal["likelihood_ratio", "dice", "low_variance"] = "likelihood_ratio"


class TrustRegionConfig(Section):
    """``outer.trpo``: a natural-gradient step within a bound of the mean KL divergence."""

    kl: Positive = 0.01
    iterations: Count = 10
    damping: NonNegative = 1e-5
    backtracks: Count = 15
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8


class ClippedConfig(Section):
    """``outer.ppo``: several steps of the optimizer on one batch of rollouts, by a clipped surrogate."""

    clip: Positive = 0.3
    epochs: Count = 5
    kl_penalty: NonNegative = 5e-4


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


_ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
Patterns = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE)]


class GroupConfig(OpenSection):
    """``outer.optimizer.groups.NAME``: parameters with settings of their own.

    Attributes:
        patterns: of their names, as in ``inner.adapt``; one may stand without a list.
        lr: their step size; None: ``outer.lr``.
    """

    patterns: Patterns
    lr: Positive | None = None


class OptimizerConfig(OpenSection):
    """``outer.optimizer``: the class that moves θ, its arguments, and groups of parameters with other ones."""

    name: str = "adam"
    groups: dict[str, GroupConfig] = {}

    @field_validator("groups")
    @classmethod
    def _plain_names(cls, groups: dict[str, GroupConfig]) -> dict[str, GroupConfig]:
        """Names are parts of dotted keys, so that each can be overridden and searched."""
        for name in groups:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(
                    f"{name}: expected a group's name of letters, digits, - and _; patterns are a key of the group: "
                    f"my_group: {{patterns: '{name}'}}"
                )
        return groups


class ScheduleConfig(OpenSection):
    """``outer.schedule``: the share of the step sizes that an outer step takes, and its parameters."""

    name: str = "constant"


class OuterConfig(Section):
    """``outer``: the meta-update of θ by the learner."""

    lr: Positive = 1e-3
    steps: Count
    step: Literal["gradient", "trpo", "ppo"] = "gradient"
    optimizer: OptimizerConfig = OptimizerConfig()
    estimator: Literal["likelihood_ratio", "dice"] = "likelihood_ratio"
    trpo: TrustRegionConfig = TrustRegionConfig()
    ppo: ClippedConfig = ClippedConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_value: Positive | None = None
    clip_norm: Positive | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    freeze: tuple[str, ...] = ()
    on_nonfinite: Literal["stop", "skip"] = "stop"

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _named(cls, value: object, info: ValidationInfo) -> object:
        """A name alone stands for the class with its defaults."""
        if info.field_name == "optimizer" and value in ("trpo", "ppo"):
            raise ValueError(
                f"name: expected an optimizer, received '{value}', which is a kind of step: set outer.step={value}"
            )
        return {"name": value} if isinstance(value, str) else value


class AdvantageConfig(Section):
    """``advantage``: how the rewards of rollouts become advantages."""

    discount: Annotated[float, Field(ge=0, le=1)] = 0.99
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    baseline: Literal["none", "linear", "value"] = "linear"
    normalise: Literal["none", "center", "standardise"] = "standardise"


class EvalConfig(Section):
    """``eval``: held-out tasks."""

    tasks: Annotated[int, Field(ge=2)] = 600
    steps: tuple[CountOrNone, ...] = (0, 1, 5, 10)
    every: CountOrNone = 0
    val_tasks: Annotated[int, Field(ge=2)] = 200
    select_steps: CountOrNone | None = None
    select_params: Literal["theta", "ema"] = "theta"
    later_lr: Positive = 1.0
    baselines: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps: expected increasing numbers of inner steps, received {list(self.steps)}")
        return self

    @field_validator("scores")
    @classmethod
    def _each_once(cls, scores: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(scores)) < len(scores):
            raise ValueError(f"expected each score once, received {list(scores)}")
        return scores


class ClusterConfig(Section):
    """``cluster``: where the work is done. Only ``threads``, ``memory`` and GPU or not change bits of θ."""

    workers: CountOrNone | Literal["auto"] = "auto"
    min_workers: CountOrNone = 0
    max_workers: Count | None = None
    threads: Count = 1
    memory: Positive = 2000.0
    gpus_per_worker: NonNegative = 0.0
    address: str = "local"
    start_timeout: Positive = 120.0
    order_timeout: Positive = 600.0
    heartbeat_timeout: Positive = 5.0
    max_failures: CountOrNone = 20
    failure_window: Positive = 600.0
    copies: bool = True
    mixed: bool = False

    @property
    def count(self) -> int:
        """The number of workers, once it is a number; see :mod:`cluster.workers.auto`."""
        if self.workers == "auto":
            raise TypeError("expected cluster.workers to be settled, received 'auto'")
        return self.workers

    @property
    def least(self) -> int:
        """Workers that have to be there before a run with workers begins."""
        return max(1, self.min_workers)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.workers != "auto" and self.max_workers is not None:
            raise ValueError(
                f"max_workers: expected only beside workers: auto, received {self.max_workers} with workers: "
                f"{self.workers}; leave one of the two out"
            )
        most = self.max_workers if self.workers == "auto" else self.workers
        if most is not None and self.min_workers > most:
            raise ValueError(
                f"min_workers: expected at most {most}, the number of workers that are asked for, received "
                f"{self.min_workers}; lower it, or raise {'max_workers' if self.workers == 'auto' else 'workers'}"
            )
        return self

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1 and not self.gpus_per_worker.is_integer():
            raise ValueError(
                f"gpus_per_worker: expected a share of one GPU or a whole number of them, received "
                f"{self.gpus_per_worker:g}"
            )
        return self


def _plain(address: str) -> str:
    """Refuse names and passwords in an address: configurations are stored, shown and logged."""
    if has_credentials(address):
        raise ValueError(
            f"expected an address without user and password, received '{without_credentials(address)}'; give them in "
            "the environment (MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME, AWS_ACCESS_KEY_ID, …)"
        )
    return address


Address = Annotated[str, AfterValidator(_plain)]


class TrackingConfig(Section):
    """``tracking``: MLflow."""

    uri: Address | None = None
    experiment: str = "metaray"
    every: Count = 10
    system_every: NonNegative = 10.0


class CheckpointConfig(Section):
    """``checkpoint``: where runs lie, how often θ is saved and how many saves are kept."""

    root: Address = "runs"
    every: Count = 1000
    keep: Count = 3
