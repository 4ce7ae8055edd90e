"""How many workers a cluster has room for, out of what Ray tells of its resources."""

from collections.abc import Mapping

from cluster.config.sections import ClusterConfig

Resources = Mapping[str, float]


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


def short_of_room(limits: ClusterConfig, requested: int, total: Resources) -> str | None:
    """A warning if a cluster has room for fewer workers than are asked for.

    Args:
        limits: what each takes.
        requested: workers asked for.
        total: the cluster's resources.
    """
    if limits.workers == "auto" or (there := room(limits, total)) >= requested:
        return None
    return (
        f"cluster.workers: {requested} workers were asked for, the cluster has room for {there} ({amounts(total)} in "
        "all); lower cluster.workers, or add nodes"
    )
