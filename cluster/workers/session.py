"""Starting, joining and leaving Ray."""

import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.state import state
from ray.job_config import JobConfig

from cluster.config.sections import ClusterConfig
from cluster.errors import ClusterError, ConfigError
from cluster.own_packages import HOME
from cluster.runs.lasting import in_job
from cluster.workers.gpus import require_gpu_here, require_gpus

SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
LONGEST_SOCKET = 107  # bytes, on Linux
LEAST_SHARED = 80 * 2**20  # bytes; Ray refuses less than 75 MiB

LOOPBACK_ONLY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def ray_session(config: ClusterConfig, at_once: int = 1) -> Iterator[None]:
    """Start or join a Ray session for the duration of a block: a local one of its own, or the cluster at ``address``.

    A session that the caller has opened already is used and left open. In a Ray job ``local`` is the cluster that the
    job runs on, so that the same configuration serves on a laptop and there.

    Args:
        config: the section ``cluster``.
        at_once: number of trainings that a local session has room for.

    Raises:
        ClusterError: if no cluster answers at the address.
        ConfigError: if workers are to have GPUs and there are none.
    """
    if ray.is_initialized():
        yield
        return
    # Ray tells the command of a job where its cluster is, which it then finds by 'auto'.
    address = "auto" if config.address == "local" and in_job() else config.address
    if address == "local":
        require_gpu_here(config)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address == "local":
            _start_local(config, at_once)
        else:
            _require_answer(address)
            ray.init(address=address, log_to_driver=False, configure_logging=False, job_config=_product_first())
    except (PermissionError, FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        raise ClusterError(
            f"expected a folder that Ray can write its own files to, received: {error}; set RAY_TMPDIR to one"
        ) from error
    except Exception as error:  # Ray raises the base class where its own processes do not start
        raise ClusterError(
            f"expected a Ray cluster at '{config.address}', received: {error}. If it uses token authentication, "
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error
    try:
        if address != "local" and config.workers != 0:
            nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
            require_gpus(config, nodes(), state.get_max_resources_from_cluster_config())
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
    ray_constants.ENABLE_RAY_CLUSTER = False
    _require_room()
    ray.init(
        address="local",
        num_cpus=max(
            os.cpu_count() or 1, at_once * max(1 if config.workers == "auto" else config.workers, 1) * config.threads
        ),
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        job_config=_product_first(),
    )


class _ProductFirst(list[str]):
    """Folders that workers search for modules, the product's own before the driver's working directory."""

    def extend(self, folders: Iterable[str]) -> None:
        """Ray adds the working directory here, for classes of the user's own, and searches it before all else."""
        super().extend([*folders, HOME])  # the last comes first


def _product_first() -> JobConfig:
    """A job whose workers import ``tasks`` and ``meta`` from the product, whatever the working directory holds."""
    return JobConfig(_py_driver_sys_path=_ProductFirst([HOME]))  # an empty list would be replaced


def _require_room() -> None:
    """Raise an error if the machine lacks something that Ray needs.

    Raises:
        ConfigError: if its sockets' names would be too long, or shared memory is too small.
    """
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    place = os.environ[name] if name else "/tmp"
    if len(os.fsencode(place)) + len(SOCKET) > LONGEST_SOCKET:
        raise ConfigError(
            f"{name}: expected a path of at most {LONGEST_SOCKET - len(SOCKET)} bytes, since Ray keeps its sockets "
            f"below it, received {len(os.fsencode(place))}: {place}; set RAY_TMPDIR to a shorter one, or "
            "cluster.workers=0"
        )
    shared = Path("/dev/shm")
    if shared.is_dir() and (free := shutil.disk_usage(shared).free) < LEAST_SHARED:
        raise ConfigError(
            f"/dev/shm: expected at least {LEAST_SHARED // 2**20} MiB of free shared memory for Ray's object store, "
            f"received {free // 2**20}; give the container more (docker run --shm-size=1g), or set cluster.workers=0"
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
