"""A registered model behind Ray Serve, to be measured beside ``metaray serve``: the same reading, the same programs."""

import signal
import sys
from typing import Any

import numpy as np
from ray import serve
from starlette.requests import Request

from cluster.config.sections import ClusterConfig
from cluster.serving.forms import JSON
from cluster.serving.limits import Limits
from cluster.serving.loading import load
from cluster.serving.programs import CHUNK, Programs
from cluster.serving.requests import Question, read
from cluster.workers.session import ray_session

WAIT = 0.002  # seconds in which a batch may gather


class Replica:
    """One process that reads, gathers and adapts."""

    def __init__(self, model: str) -> None:
        self._limits = Limits()
        self._model = load(model, [], self._limits).model
        self._programs = Programs()

    @serve.batch(max_batch_size=CHUNK, batch_wait_timeout_s=WAIT)
    async def gathered(self, questions: list[Question]) -> list[Any]:
        """Predictions for questions of one kind."""
        first = questions[0]
        arrays = {name: np.concatenate([one.arrays[name] for one in questions]) for name in first.arrays}
        predictions = self._model.adapted(arrays, first.inner_steps, first.inner_lr, self._programs)
        return np.split(predictions, np.cumsum([one.tasks for one in questions])[:-1])

    async def __call__(self, request: Request) -> Any:
        """Answer one request."""
        if request.url.path == "/health":
            return {"status": "ok"}
        question = read(await request.body(), JSON, self._model, self._limits)
        return {"predictions": (await self.gathered(question)).tolist()}


def main(model: str, port: int) -> None:
    """Serve until SIGTERM, with one replica for each core.

    Args:
        model: address of the registered model.
        port: to listen on.
    """
    from meta.engine.machine import available_cores

    stop = {signal.SIGTERM, signal.SIGINT}
    with ray_session(ClusterConfig(workers=available_cores())):
        signal.pthread_sigmask(signal.SIG_BLOCK, stop)
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        deployment = serve.deployment(num_replicas=available_cores(), max_ongoing_requests=64)(Replica)
        serve.run(deployment.bind(model), route_prefix="/")
        signal.sigwait(stop)
        serve.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
