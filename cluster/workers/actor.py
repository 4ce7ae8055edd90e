"""The Ray actor around a worker."""

import os
from collections.abc import Callable
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group

from cluster.config.schema import Config
from cluster.workers.wire import Payload, decode_request, decode_vectors, encode_reply
from cluster.workers.worker import Workable, Worker


class WorkerActor:
    """A :class:`cluster.workers.worker.Worker` in a process of its own."""

    def __init__(self, builder: Callable[[Config], Workable], config: Config) -> None:
        """Build the set-up from its configuration, and the worker."""
        setup = builder(config)
        self._worker = Worker(setup)
        self._data, self._dtype = setup.data, config.dtype

    def ready(self) -> tuple[int, str]:
        """The process id and the fingerprint of the data, once the worker is built."""
        return os.getpid(), self._data

    def run(self, message: bytes, vectors: Payload) -> Payload:
        """Compute one request; see :mod:`cluster.workers.wire`.

        Args:
            message: the request as bytes.
            vectors: θ [P], and the second vector [P] where the request has one.
        """
        request = decode_request(message)
        return encode_reply(self._worker.run(request, *decode_vectors(vectors, self._dtype, request)))


def start_actor(setup: Workable) -> Any:
    """Start one worker actor in Ray. It never restarts by itself: the pool replaces a lost one.

    Within a placement group, which a trial of a search has, it takes a place there; else actors are spread over nodes.
    """
    config = setup.config
    options: dict[str, Any] = {
        "num_cpus": config.cluster.threads,
        "num_gpus": config.cluster.gpus_per_worker,
        "max_restarts": 0,
    }
    if get_current_placement_group() is None:
        options["scheduling_strategy"] = "SPREAD"
    return ray.remote(WorkerActor).options(**options).remote(setup.builder, config)
