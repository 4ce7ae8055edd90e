"""Opening a pool of workers, and the Ray session that pools share."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.config.schema import Config
from cluster.workers.pool import InlinePool, Pool
from cluster.workers.worker import Workable


@contextmanager
def open_pool(setup: Workable) -> Iterator[Pool]:
    """Workers for a set-up: Ray actors, or this process itself with ``cluster.workers=0``."""
    with shared_session(setup.config):
        if setup.config.cluster.workers == 0:
            pool: Pool = InlinePool(setup)
        else:
            from cluster.workers.ray_pool import RayPool  # Ray is loaded only where it is used

            pool = RayPool(setup)
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
