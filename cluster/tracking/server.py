"""The MLflow server or database: its address, a client that gives up soon, and the experiment there."""

import logging
import os
from pathlib import Path

# Without the first three a server that is down would hold a call for minutes; a run's address, which MLflow prints on
# ending it, would be in the way of results on standard output.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

import mlflow
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException

from cluster.config.credentials import without_credentials
from cluster.config.sections import TrackingConfig
from cluster.errors import MetarayError
from cluster.runs.lasting import require_lasting_store

NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"
UNREACHABLE = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE")  # codes of a failed connection


def tracking_uri(config: TrackingConfig) -> str:
    """``tracking.uri``, else ``MLFLOW_TRACKING_URI``, else a SQLite file in the working directory.

    Raises:
        ConfigError: if it would be gone with the Ray job that writes it.
    """
    require_lasting_store(config.uri)
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


def connect(uri: str) -> mlflow.MlflowClient:
    """A client; only an embedded database is opened yet."""
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of every attempt that a server that is down misses
    return mlflow.MlflowClient(tracking_uri=uri)


def reached(uri: str) -> str:
    """The store at an address and how many experiments it has; a SQLite file that is not there is not made.

    Args:
        uri: address of the tracking server or database.
    """
    shown, database = without_credentials(uri), uri.removeprefix("sqlite:///")
    if database != uri and not Path(database).exists():
        folder = Path(database).absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise MetarayError(f"expected a folder to make {database} in, '{folder}' is none for this user")
        return f"{shown}, made by the first run"
    return f"{shown}, {len(connect(uri).search_experiments())} experiments"


def experiment_id(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    """The experiment of a name, made if need be; an embedded database has its artifacts beside it.

    Args:
        client: of MLflow.
        uri: address of the tracking server.
        name: of the experiment.

    Raises:
        MetarayError: if it was deleted: MLflow keeps its name, so that no other can be made.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        require_active(experiment, uri)
        return str(experiment.experiment_id)
    beside = uri.removeprefix("sqlite:///")
    location = (Path(beside).parent / "mlruns").absolute().as_uri() if beside != uri else None
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        experiment = client.get_experiment_by_name(name)  # another run may have been quicker
        if experiment is None:
            raise
        require_active(experiment, uri)
        return str(experiment.experiment_id)


def require_active(experiment: Experiment, uri: str) -> None:
    """Raise an error if an experiment was deleted.

    Args:
        experiment: as MLflow gives it.
        uri: address of the tracking server, for messages.

    Raises:
        MetarayError: saying how it is restored.
    """
    if experiment.lifecycle_stage == LifecycleStage.DELETED:
        raise MetarayError(
            f"expected MLflow experiment '{experiment.name}' ({experiment.experiment_id}), found that it was deleted; "
            f"restore it with: MLFLOW_TRACKING_URI={without_credentials(uri)} mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}, or name another with tracking.experiment=…"
        )
