"""Checks within a Ray job that nothing is written to the job's own folder, which is deleted with the job."""

import os
from pathlib import PurePath

from cluster.errors import ConfigError

DRIVER = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets this variable for the command that a job runs


def in_job() -> bool:
    """Whether this process is the command of a Ray job."""
    return DRIVER in os.environ


def require_lasting_root(root: str) -> None:
    """Raise an error for a relative ``checkpoint.root`` in a Ray job.

    Raises:
        ConfigError: naming what would last.
    """
    if in_job() and "://" not in root and not PurePath(root).is_absolute():
        raise ConfigError(
            f"checkpoint.root: expected a folder that outlives the job (/shared/runs, s3://bucket/runs), received "
            f"'{root}', which is inside the job's own folder; add checkpoint.root=/shared/runs to the command"
        )


def require_lasting_store(uri: str | None) -> None:
    """Refuse, in a Ray job, the database in the working directory that MLflow has where nothing is named.

    Args:
        uri: ``tracking.uri``, or None for ``MLFLOW_TRACKING_URI``.

    Raises:
        ConfigError: naming what would last.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    relative = uri is None or (uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"))
    if in_job() and relative:
        raise ConfigError(
            f"tracking.uri: expected a server or a database that outlives the job, received {uri or 'none'}; set "
            "MLFLOW_TRACKING_URI where you submit from, or add tracking.uri=http://host:5000 (or "
            "tracking.uri=sqlite:////shared/mlflow.db) to the command"
        )
