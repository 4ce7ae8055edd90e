"""Opening a pool of workers, and the Ray session that pools share."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.config.schema import Config
from cluster.workers.auto import elsewhere
from cluster.workers.pool import InlinePool, Pool
from cluster.workers.worker import Workable


@contextmanager
def open_pool(setup: Workable) -> Iterator[Pool]:
    """Workers for a set-up: Ray actors, or this process itself with ``cluster.workers=0``.

    Args:
        setup: whose number of workers is settled; see :func:`cluster.workers.auto.settled`.
    """
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
    """One Ray session for several pools; none where they may need none."""
    if config.cluster.workers == 0 or (config.cluster.workers == "auto" and not elsewhere(config)):
        yield
        return
    from cluster.workers.session import ray_session

    with ray_session(config.cluster):
        yield
