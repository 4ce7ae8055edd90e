"""The engine chosen for a run, which every later process of the run takes."""

from cluster.config.schema import Config
from cluster.runs.folder import RunFolder


def with_engine_of(folder: RunFolder, config: Config) -> Config:
    """The configuration with the engine chosen for the run, so that every worker, now and later, has the same.

    Args:
        folder: the run's folder, made or only planned.
        config: the configuration, whose engine may be ``auto``.
    """
    info, inner = folder.info, config.inner
    if config.engine in ("auto", "measure"):
        config = config.model_copy(update={"engine": info["engine"]})
    if inner.recompute is None:
        inner = inner.model_copy(update={"recompute": info.get("recompute", False)})
    return config.model_copy(update={"inner": inner})
