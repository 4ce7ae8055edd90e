"""The interface between Ray Tune's trials and what they are trials of: a search, or a comparison."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cluster.config.schema import Config
from cluster.runs.checkpoint import Checkpoint
from cluster.search.trials import Status, Trial

Values = Mapping[str, Any]
Report = Callable[[int, float, Checkpoint], None]


class Study(Protocol):
    """A list of trainings that run as trials, side by side."""

    @property
    def base(self) -> Config:
        """The configuration of which all trials are variants; its ``cluster`` and ``tracking`` are every trial's."""
        ...

    @property
    def at_once(self) -> int | None:
        """Trials at a time; None: as many as the cluster has room for."""
        ...

    @property
    def retries(self) -> int:
        """Times that a trial whose process dies goes on from its checkpoint."""
        ...

    @property
    def population(self) -> bool:
        """Whether trials take over the states and values of others."""
        ...

    def metric(self, values: Values) -> str:
        """Key, in a run's metrics, of the validation score that a trial is shown by."""
        ...

    def config(self, values: Values) -> Config:
        """The configuration of a trial.

        Raises:
            ConfigError: if the values do not go together.
        """
        ...

    def plain(self, values: Values) -> dict[str, Any]:
        """A trial's parameters as MLflow shows them, nested plain values."""
        ...

    def kept_values(self, values: Values, plain: Mapping[str, Any]) -> Values:
        """The values of a trial whose state has the configuration ``plain``, which may be another trial's."""
        ...

    def overview(self, over: Sequence[Trial], *, higher: bool) -> dict[str, float]:
        """Metrics of the whole, from the trials that are over."""
        ...

    def to_yaml(self) -> str:
        """The whole as YAML that loads to an equal one."""
        ...


S = TypeVar("S", bound=Study, contravariant=True)


class Train(Protocol[S]):
    """Trains in a trial's folder; see :func:`cluster.search.trial.train_trial`."""

    def __call__(
        self, study: S, values: Values, name: str, path: Path, taken_over: Checkpoint | None, report: Report, /
    ) -> tuple[Status, str | None]:
        """Train; returns how it ended, and why."""
        ...
