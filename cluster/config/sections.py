"""The sections of a configuration: what keys there are, of what type, with what defaults."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
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

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class OpenSection(BaseModel):
    """A section whose further keys are the parameters of the class it names."""

    model_config = ConfigDict(extra="allow", frozen=True, use_attribute_docstrings=True)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the named class."""
        return dict(self.model_extra or {})


class NamedSection(OpenSection):
    """A class by name with keys of its own; the name alone may stand for it."""

    name: str
    """A built-in name, or ``module:Name``. All further keys are its own."""

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
    """A built-in family, or ``module:Name``. All further keys are the family's own."""


class ModelConfig(OpenSection):
    """``model``: the network and its parameters."""

    name: str
    """A built-in model, or ``module:Name``: a class with ``init`` and ``apply``, or a ``torch.nn.Module``. All further
    keys are the model's own."""
    weights: str | None = None
    """File, address or registered model that the initial θ is taken from; null: it is drawn."""
    reinit: tuple[str, ...] = ()
    """Patterns of the names of parameters that are drawn all the same."""

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
    """Step size α, for a loss averaged over examples."""
    steps: CountOrNone = 1
    """Inner steps in training."""
    adapt: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    """Patterns of the names of the parameters that the inner loop moves; ``!head.*`` leaves some out. The others are
    only meta-learned."""
    rule: NamedSection = NamedSection(name="sgd")
    """How a step turns a gradient into new parameters: a name, or ``{name: …}`` with keys of its own."""
    derivative: NamedSection = NamedSection(name="exact")
    """How the outer gradient goes through the inner loop: a name, or ``{name: …}`` with keys of its own."""
    recompute: bool | None = None
    """Keep of each inner step its parameters and gradient alone, and compute the rest again in the backward pass: less
    memory. null: where ``cluster.memory`` asks for it."""
    estimator: Literal["likelihood_ratio", "dice", "low_variance"] = "likelihood_ratio"
    """Of policies: the inner surrogate, which decides what its second derivative is in expectation."""


class AdvantageConfig(Section):
    """``advantage``: how the rewards of rollouts become advantages."""

    discount: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Discount γ."""
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ of generalised advantage estimation."""
    baseline: Literal["none", "linear", "value"] = "linear"
    """Reward baseline: linear in features of observation and time, a small network, or none; fitted for each task."""
    normalise: Literal["none", "center", "standardise"] = "standardise"
    """Over a task's rollouts of one inner step."""
    horizon: Literal["bootstrap", "end"] = "bootstrap"
    """The value after a trajectory that was cut off: the baseline's, or zero (``end``, as in rllab)."""


class EvalConfig(Section):
    """``eval``: held-out tasks."""

    tasks: Annotated[int, Field(ge=2)] = 600
    """Test tasks of the final evaluation. ± is Student's t below 100 tasks."""
    steps: tuple[CountOrNone, ...] = (0, 1, 5, 10)
    """Numbers of inner steps that are shown. 0 is always computed, since a task whose error ends above ten times that
    before adaptation counts as diverged."""
    every: CountOrNone = 0
    """Validate every so many outer steps. 0: never, the last θ is then evaluated."""
    val_tasks: Annotated[int, Field(ge=2)] = 200
    """Validation tasks."""
    select_steps: CountOrNone | None = None
    """Number of inner steps whose validation score picks the best θ; null: ``inner.steps``."""
    select_params: Literal["theta", "ema"] = "theta"
    """Whose validation scores pick the best step, and which is evaluated, drawn and registered: θ, or its moving
    average (``outer.ema``)."""
    later_lr: Positive = 1.0
    """Of policies: factor on α from the second inner step of an evaluation on."""
    baselines: tuple[str, ...] = ()
    """Algorithms trained and evaluated beside the run, each in ``RUN/baselines/``."""
    scores: tuple[str, ...] = ()
    """Scores of the evaluation beside the one that selects: built-in names, or ``module:Name``."""

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
    """Ray actors. 0: compute in the command's own process, without Ray. ``auto`` times a few tasks and takes none or as
    many as pay; on a cluster one for each shard, which start when there is room; in a search none."""
    min_workers: CountOrNone = 0
    """Workers that have to be there before a run with workers begins: fewer within ``start_timeout`` are refused, fewer
    later are a warning."""
    max_workers: Count | None = None
    """With ``workers: auto``: no more than these."""
    threads: Count = 1
    """Threads, and CPUs, of each worker."""
    memory: Positive = 2000.0
    """MB (10⁶ bytes) that a worker's engine may take between inputs and results; above, inner steps are recomputed or
    fewer tasks computed at a time."""
    gpus_per_worker: NonNegative = 0.0
    """Above 0 the workers compute on CUDA: a share of one GPU, or a whole number of them."""
    address: str = "local"
    """A local Ray for this command (in a Ray job: the cluster it runs on), or the address of a cluster."""
    start_timeout: Positive = 120.0
    """Seconds to wait for a first worker."""
    order_timeout: Positive = 600.0
    """Seconds that a worker has for one shard, from when it begins with it; then it is replaced. Three in turn that are
    silent about the same shard end the run."""
    heartbeat_timeout: Positive = 5.0
    """Seconds without a sign of life after which a worker is replaced. Workers give one every second, however long a
    shard takes; raise it for code that holds Python's lock for longer."""
    max_failures: CountOrNone = 20
    """Workers lost within ``failure_window``, or in a row without a result between, that a run goes on with; twice as
    many as there are workers, if that is more. One more, and it stops with a checkpoint."""
    failure_window: Positive = 600.0
    """Seconds over which ``max_failures`` are counted."""
    copies: bool = True
    """Whether a shard that takes 2.5 times longer than usual is computed by an idle worker as well; the first result
    counts."""
    mixed: bool = False
    """Whether workers may differ in processor, libraries or GPU, which may change bits of θ."""

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
    """Where MLflow keeps runs; null: ``MLFLOW_TRACKING_URI``, else ``sqlite:///mlflow.db``."""
    experiment: str = "metaray"
    """MLflow experiment."""
    every: Count = 10
    """Outer steps per record of metrics, each the mean over them."""
    system_every: NonNegative = 10.0
    """Seconds between samples of the machine's load; 0: none."""


class CheckpointConfig(Section):
    """``checkpoint``: where runs lie, how often θ is saved and how many saves are kept."""

    root: Address = "runs"
    """Folder of the runs; a URI puts the checkpoints there."""
    every: Count = 1000
    """Outer steps between checkpoints."""
    keep: Count = 3
    """Newest checkpoints kept, beside the best."""
