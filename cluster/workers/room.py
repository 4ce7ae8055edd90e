"""How many workers are asked for, and how many a cluster has room for, out of what Ray tells of its resources."""

from collections.abc import Callable, Mapping

from cluster.config.schema import Config
from cluster.config.sections import ClusterConfig

Resources = Mapping[str, float]


def requested(config: Config) -> int:
    """Workers that a pool asks for: the configuration's number, or one a shard between its bounds."""
    limits = config.cluster
    if limits.workers != "auto":
        return limits.workers
    return max(limits.least, min(config.shards, limits.max_workers or config.shards))


def room(limits: ClusterConfig, total: Resources) -> int:
    """Workers that a cluster of these resources has room for.

    Args:
        limits: what each takes.
        total: amounts by Ray's names, such as ``CPU``.
    """
    workers = int(total.get("CPU", 0) // limits.threads)
    if limits.gpus_per_worker > 0:
        workers = min(workers, int(total.get("GPU", 0) / limits.gpus_per_worker))
    return workers


def amounts(resources: Resources) -> str:
    """CPUs and GPUs in words.

    >>> amounts({"CPU": 8.0, "memory": 1e9})
    '8 CPU and 0 GPU'
    """
    return f"{resources.get('CPU', 0):g} CPU and {resources.get('GPU', 0):g} GPU"


def short_of_room(limits: ClusterConfig, workers: int, total: Resources) -> str | None:
    """A warning if a cluster has room for fewer workers than are asked for.

    Args:
        limits: what each takes.
        workers: how many are asked for.
        total: the cluster's resources.
    """
    if limits.workers == "auto" or (there := room(limits, total)) >= workers:
        return None
    return (
        f"cluster.workers: {workers} workers were asked for, the cluster has room for {there} ({amounts(total)} in "
        "all); lower cluster.workers, or add nodes"
    )


def waiting_for_room(limits: ClusterConfig, most: int, ready: int, total: Resources) -> str:
    """Line that says with how many workers an elastic run begins.

    Args:
        limits: what each takes.
        most: workers that it may grow to.
        ready: workers that are there.
        total: the cluster's resources.
    """
    return (
        f"cluster.workers: beginning with {ready}; the cluster has room for {room(limits, total)} ({amounts(total)} in "
        f"all), and up to {most} take part when nodes join"
    )


def too_few(limits: ClusterConfig, ready: int, total: Resources, free: Resources) -> str:
    """Error text for a run that cannot begin: fewer workers than it needs have started in time.

    Args:
        limits: how many it needs, and the time.
        ready: workers that have started.
        total: the cluster's resources.
        free: those that nobody uses.
    """
    return (
        f"cluster.min_workers: expected {limits.least} workers within {limits.start_timeout:g} s, received {ready}; "
        f"the cluster has {amounts(total)} in all and {amounts(free)} free. Lower cluster.min_workers, add nodes, or "
        "raise cluster.start_timeout"
    )


def no_room(limits: ClusterConfig, total: Resources, free: Resources) -> str:
    """Error text for a cluster on which no worker has started in time.

    Args:
        limits: what each takes, and the time.
        total: the cluster's resources.
        free: those that nobody uses.
    """
    return (
        f"expected a worker with {limits.threads} CPU and {limits.gpus_per_worker:g} GPU to start within "
        f"{limits.start_timeout:g} s; the cluster has {amounts(total)} in all and {amounts(free)} free. Lower "
        "cluster.threads or cluster.gpus_per_worker, or add nodes"
    )


def resources(ask: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Resources by name; Ray's functions have no types."""
    return ask()
