"""GPUs of workers: refused where there are none, before anything is started."""

from collections.abc import Sequence
from typing import Any

import torch

from cluster.config.sections import ClusterConfig
from cluster.errors import ConfigError
from cluster.workers.room import Resources


def require_gpu_here(limits: ClusterConfig) -> None:
    """Refuse workers on GPUs where this process has to compute, or starts the workers, on a machine without.

    Raises:
        ConfigError: naming the key and what torch lacks.
    """
    if limits.gpus_per_worker == 0 or torch.cuda.is_available():
        return
    built = "" if torch.version.cuda else "; this torch was built without CUDA"
    raise ConfigError(
        f"cluster.gpus_per_worker: expected 0 on a machine without a GPU, received {limits.gpus_per_worker:g}: torch "
        f"sees none here{built}; set it to 0, or start the command on a machine with one"
    )


def require_gpus(limits: ClusterConfig, nodes: Sequence[dict[str, Any]], most: Resources | None) -> None:
    """Refuse workers on GPUs where no node of the cluster has enough of them for one, nor can have.

    Args:
        limits: what each worker takes.
        nodes: as Ray lists them, alive or not, with their ``Resources``.
        most: resources that the cluster's autoscaler may grow to; None: there is none, or it does not say.

    Raises:
        ConfigError: naming the key and what there is.
    """
    gpus = [node["Resources"].get("GPU", 0.0) for node in nodes if node["Alive"]]
    if limits.gpus_per_worker <= max([*gpus, (most or {}).get("GPU", 0.0)], default=0.0):
        return
    raise ConfigError(
        f"cluster.gpus_per_worker: expected at most the GPUs of one node, received {limits.gpus_per_worker:g}: none of "
        f"the {len(gpus)} nodes of the cluster has more than {max(gpus, default=0.0):g}, as Ray says; set it to 0, or "
        "add nodes with GPUs ('ray start --num-gpus' where Ray does not see them)"
    )
