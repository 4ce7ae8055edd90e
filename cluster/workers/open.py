"""Opening a pool of workers, and the Ray session that pools share."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.config.schema import Config
from cluster.workers.pool import InlinePool, Pool


@contextmanager
def open_pool(config: Config) -> Iterator[Pool]:
    """Workers for ``config``: Ray actors, or this process itself with ``cluster.workers=0``."""
    with shared_session(config):
        if config.cluster.workers == 0:
            pool: Pool = InlinePool(config)
        else:
            from cluster.workers.ray_pool import RayPool  # Ray is loaded only where it is used

            pool = RayPool(config)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def shared_session(config: Config) -> Iterator[None]:
    """One Ray session for a training and its baselines."""
    if config.cluster.workers == 0:
        yield
        return
    from cluster.workers.session import ray_session

    with ray_session(config.cluster):
        yield
