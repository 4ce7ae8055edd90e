"""Opening a pool of workers, and the Ray session that pools share."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from cluster.config.schema import Config
from cluster.interrupts import StopFlag
from cluster.workers.auto import elsewhere
from cluster.workers.pool import InlinePool, Pool
from cluster.workers.worker import Workable


@contextmanager
def open_pool(setup: Workable, stop: StopFlag | None = None) -> Iterator[Pool]:
    """Workers for a set-up: Ray actors, or this process itself with ``cluster.workers=0``.

    Args:
        setup: whose number of workers is settled; see :func:`cluster.workers.auto.settled`.
        stop: set when too many workers are lost, which is an error without it.
    """
    with shared_session(setup.config):
        if setup.config.cluster.workers == 0:
            pool: Pool = InlinePool(setup)
        else:
            from cluster.workers.ray_pool import RayPool  # Ray is loaded only where it is used

            pool = RayPool(setup, stop)
        try:
            yield pool
        finally:
            pool.close()


@contextmanager
def shared_session(config: Config, stop: StopFlag | None = None) -> Iterator[None]:
    """One Ray session for several pools; none where they may need none.

    Args:
        config: its section ``cluster`` tells where.
        stop: set when the head of the cluster is lost.
    """
    if config.cluster.workers == 0 or (config.cluster.workers == "auto" and not elsewhere(config)):
        yield
        return
    from cluster.workers.head import stop_without_head
    from cluster.workers.session import ray_session

    with ray_session(config.cluster), stop_without_head(stop) if stop is not None else nullcontext():
        yield
