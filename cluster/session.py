"""Starting, joining and leaving Ray."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray._private import ray_constants

from cluster.errors import ClusterError
from cluster.jobs.inside import in_job
from cluster.sections import ClusterConfig
from cluster.wire import LARGE

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def ray_session(config: ClusterConfig, at_once: int = 1) -> Iterator[None]:
    """A Ray session for the duration of a command: a local one of its own, or the cluster at ``address``.

    A local one has room for ``at_once`` trainings.

    A session that the caller has opened already is used and left open. In a Ray job ``local`` is the cluster that the
    job runs on, so that the same configuration serves on a laptop and there.

    Raises:
        ClusterError: if no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        # Ray tells the command of a job where its cluster is, which it then finds by 'auto'.
        address = "auto" if config.address == "local" and in_job() else config.address
        if address == "local":
            _start_local(config, at_once)
        else:
            _require_answer(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"expected a Ray cluster at '{config.address}', received: {error}. If it uses token authentication, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(config: ClusterConfig, at_once: int) -> None:
    """Start Ray on this machine, for this process, listening on the loopback interface alone."""
    # Ray binds to the host's address unless it takes the machine for one that cannot be part of a cluster. It reads
    # the variable when it is imported, which somebody else may have done already.
    os.environ[LOOPBACK_ONLY] = "0"
    # Ray starts workers at niceness 15, where anything else on the machine starves them; here they are the work.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # θ and gradients of up to a megabyte go with the call itself, in half the time that the object store takes.
    os.environ.setdefault("RAY_max_direct_call_object_size", str(LARGE))
    ray_constants.ENABLE_RAY_CLUSTER = False
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, at_once * max(config.workers, 1) * config.threads),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )


def _require_answer(address: str) -> None:
    """Fail early and clearly where nothing listens; Ray itself would retry for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon:  # 'auto' and other words are Ray's to resolve
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"cluster.address: nothing answers at '{address}' ({error}); start a head node there with 'ray start "
            "--head', or use cluster.address=local"
        ) from error
