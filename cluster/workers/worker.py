"""A worker: computes orders, whatever kind of tasks they are about. A plain class."""

from typing import Protocol

import torch

from cluster.config.schema import Config
from cluster.errors import EngineError, MetarayError
from cluster.setups.build import build
from cluster.setups.policies import PolicySetup
from cluster.workers.episodes import EpisodeWork
from cluster.workers.messages import Flat, Order, Result
from cluster.workers.rollouts import PolicyWork
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.memory import keep_freed_memory
from meta.engine.native.ir import Unsupported
from meta.params import Params


class Work(Protocol):
    """How orders about one kind of tasks are computed."""

    def run(self, order: Order, params: Params, other: Params | None) -> Result:
        """Compute one order under θ; ``other`` is a second vector of θ's shape, for orders that have one."""
        ...


class Worker:
    """Computes orders. No state of it decides a bit of a result, so any worker may compute any order."""

    def __init__(self, config: Config) -> None:
        """Build family, model, algorithm and engine from ``config``."""
        fix_arithmetic(config.cluster.threads)
        keep_freed_memory()
        self._setup = build(config)
        self._work: Work
        if isinstance(self._setup, PolicySetup):
            self._work = PolicyWork(self._setup)
        else:
            self._work = EpisodeWork(self._setup)
        self._theta = _Received(self._setup.layout.size, self._setup.dtype, self._setup.device)
        self._other = _Received(self._setup.layout.size, self._setup.dtype, self._setup.device)

    @property
    def data(self) -> str:
        """Fingerprint of the data that this worker draws tasks from."""
        return self._setup.family.spec.data

    def run(self, order: Order, vectors: Flat) -> Result:
        """Compute one order under θ (flat, [P]), or θ and another vector behind it ([2 P]).

        Raises:
            MetarayError: naming step and tasks, whatever the family, model or algorithm raised.
        """
        size, layout = self._setup.layout.size, self._setup.layout
        try:
            params = layout.unflatten(self._theta.take(vectors[:size]))
            other = layout.unflatten(self._other.take(vectors[size:])) if len(vectors) > size else None
            return self._work.run(order, params, other)
        except Unsupported as error:
            raise EngineError(f"a worker cannot run the engine: {error}") from error
        except Exception as error:
            where = f"at step {order.step} on {order.tasks}"
            raise MetarayError(f"a worker failed {where}: {type(error).__name__}: {error}") from error


class _Received:
    """Memory of torch's own for a vector that arrives: its alignment never varies; see :func:`meta.episode.place`."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        self._host = torch.empty(size, dtype=dtype)
        self._there = self._host.to(device)

    def take(self, vector: Flat) -> torch.Tensor:
        """A copy on the device, until the next one is taken."""
        self._host.numpy()[:] = vector
        if self._there is not self._host:
            self._there.copy_(self._host)
        return self._there
