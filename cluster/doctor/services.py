"""Ray, shared memory, MLflow and the data that a configuration names."""

from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from cluster.config.components import strictly
from cluster.config.overrides import with_overrides
from cluster.config.problems import problems
from cluster.config.schema import Config
from cluster.config.sections import CheckpointConfig, ClusterConfig, Section, TrackingConfig
from cluster.doctor.findings import Finding, examined
from cluster.errors import ConfigError, MetarayError


class Places(Section):
    """The sections that say where a training runs and what it writes to."""

    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()


def sections(overrides: Sequence[str]) -> tuple[ClusterConfig, TrackingConfig, str]:
    """The sections ``cluster`` and ``tracking`` and ``checkpoint.root``, where there is no whole configuration.

    Args:
        overrides: words ``section.key=value`` of these three sections.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    try:
        places = strictly(Places, with_overrides({}, overrides))
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, Places))) from error
    return places.cluster, places.tracking, places.checkpoint.root


def services(cluster: ClusterConfig, tracking: TrackingConfig) -> Iterator[Finding]:
    """Findings about Ray, which is started or joined for the time of the look, and MLflow.

    Args:
        cluster: the section ``cluster``.
        tracking: the section ``tracking``.
    """
    yield examined("Ray", lambda: _ray(cluster))
    yield examined("MLflow", lambda: _mlflow(tracking), "warning")  # trainings go on without


def data(config: Config) -> Finding:
    """The finding about the family and its data.

    Args:
        config: a whole configuration.
    """

    def look() -> str:
        from cluster.setups.build import build

        setup = build(config)
        own = f"data of fingerprint {setup.data[:12]}" if setup.data else "needs no data"
        return f"task.family {config.task.family}: {own}"

    return examined("data", look)


def _ray(cluster: ClusterConfig) -> str:
    """Nodes and processors of a session."""
    from cluster.workers.nodes import described
    from cluster.workers.session import ray_session

    with ray_session(cluster):
        return described()


def _mlflow(tracking: TrackingConfig) -> str:
    """The store and how many experiments it has; an embedded one that is not there yet is not made."""
    from cluster.tracking.server import reached, tracking_uri

    uri = tracking_uri(tracking)
    try:
        return reached(uri)
    except MetarayError:
        raise
    except Exception as error:  # stores raise what their databases and servers raise
        raise MetarayError(
            f"expected an answer of MLflow at {uri}, received {type(error).__name__}: {error}; see that it runs and "
            "that tracking.uri or MLFLOW_TRACKING_URI names it; trainings keep their metrics and send them later"
        ) from error
