"""The Ray actor of a worker: Ray places, watches and ends it. It has a process forked that computes.

Nothing heavy is imported here. On Linux the node's nursery (:mod:`cluster.workers.nursery`) forks the process that
computes, and ends it when this one ends; elsewhere, and for workers with GPUs, this process computes itself.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import ray
from ray.util.placement_group import get_current_placement_group

from cluster.workers.nurture import forked
from cluster.workers.post import Post
from cluster.workers.transport.hub import Address

if TYPE_CHECKING:
    from cluster.workers.worker import Workable

FORKS = sys.platform == "linux"


class WorkerActor:
    """A worker as Ray knows it."""

    def __init__(self, builder: str, config: str, *, forks: bool) -> None:
        """Build nothing yet.

        Args:
            builder: ``module:function`` that builds the set-up from its configuration.
            config: that, as JSON.
            forks: whether another process is to compute.
        """
        self._builder, self._config, self._forks = builder, config, forks

    def serve(self, address: Address, node: str, number: int, start: int) -> str:
        """Have requests computed until the pool closes the worker's link.

        Args:
            address: the pool's.
            node: Ray's identity of the pool's node.
            number: the worker's, for the pool.
            start: number of this start among all of the pool's.

        Returns:
            How it has ended, for a message.

        Raises:
            MetarayError: if the worker cannot be built, or the pool cannot be reached.
        """
        own: str = ray.get_runtime_context().get_node_id()
        post = Post(address=address, pool_node=node, node=own, number=number, start=start)
        if self._forks:
            return forked(self._builder, self._config, post)
        serving = importlib.import_module("cluster.workers.serving")
        serving.Server(serving.built(self._builder, self._config)).serve(post)
        return "it ended its connection"


def start_actor(setup: "Workable") -> Any:
    """Start one worker actor in Ray. It never restarts by itself: the pool replaces a lost one.

    Within a placement group, which a trial of a search has, it takes a place there; else actors are spread over nodes.
    """
    config, builder = setup.config, setup.builder
    options: dict[str, Any] = {
        "num_cpus": config.cluster.threads,
        "num_gpus": config.cluster.gpus_per_worker,
        "max_restarts": 0,
    }
    if get_current_placement_group() is None:
        options["scheduling_strategy"] = "SPREAD"
    # A process that has used CUDA cannot be forked, and imports of a user's own may do so.
    forks = FORKS and config.cluster.gpus_per_worker == 0
    remote: Any = ray.remote(WorkerActor)
    name = f"{builder.__module__}:{builder.__qualname__}"
    return remote.options(**options).remote(name, config.model_dump_json(), forks=forks)
