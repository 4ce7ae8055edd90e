"""The Ray actor around a worker."""

import os
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group

from cluster.config.schema import Config
from cluster.workers.wire import Payload, decode_numbers, decode_order, encode_result
from cluster.workers.worker import Worker


class WorkerActor:
    """A :class:`cluster.workers.worker.Worker` in a process of its own."""

    def __init__(self, config: Config) -> None:
        """Build the worker."""
        self._worker = Worker(config)
        self._dtype = config.dtype

    def ready(self) -> tuple[int, str]:
        """The process id and the fingerprint of the data, once the worker is built."""
        return os.getpid(), self._worker.data

    def run(self, order: bytes, theta: Payload) -> Payload:
        """Compute one order; see :mod:`cluster.workers.wire`."""
        return encode_result(self._worker.run(decode_order(order), decode_numbers(theta, self._dtype)))


def start_actor(config: Config) -> Any:
    """Ask Ray for one worker actor. It never restarts by itself: the pool replaces what it loses.

    Within a placement group, which a trial of a search has, it takes a place there; else actors are spread over nodes.
    """
    options: dict[str, Any] = {
        "num_cpus": config.cluster.threads,
        "num_gpus": config.cluster.gpus_per_worker,
        "max_restarts": 0,
    }
    if get_current_placement_group() is None:
        options["scheduling_strategy"] = "SPREAD"
    return ray.remote(WorkerActor).options(**options).remote(config)
