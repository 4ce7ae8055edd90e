"""A worker computes requests about either kind of tasks. It is a plain class."""

from collections.abc import Callable
from typing import Any, Protocol, Self

import torch

from cluster.config.schema import Config
from cluster.errors import EngineError, MetarayError
from cluster.workers.messages import Flat, Reply, Request, RolloutRequest, ShardFailed, TaskRange
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.memory import keep_freed_memory
from meta.engine.native.ir import Unsupported
from meta.params import Layout, Params


class Work(Protocol):
    """Computes requests about one kind of tasks."""

    def run(self, request: Request, params: Params) -> Reply:
        """Compute one request under θ.

        Args:
            request: meta-gradients or scores of a shard.
            params: θ by name.
        """
        ...

    def run_on_rollouts(self, request: RolloutRequest, params: Params, second: Params) -> Reply:
        """Compute one request about rollouts sampled under θ, with its second vector of θ's shape.

        Args:
            request: about rollouts.
            params: θ by name.
            second: the request's second vector, in the shapes of θ.
        """
        ...

    def between_requests(self) -> bool:
        """Prepare a part of the next request, while none waits; False: there is nothing to prepare."""
        ...


class Workable(Protocol):
    """A set-up, as far as workers and pools ask: see :class:`cluster.setups.base.BaseSetup`."""

    @property
    def config(self) -> Config:
        """The configuration that it was built from."""
        ...

    @property
    def layout(self) -> Layout:
        """The parameters' places in θ."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Type of θ."""
        ...

    @property
    def device(self) -> torch.device:
        """Device on which this process computes."""
        ...

    def placed(self) -> Self:
        """The set-up on the device on which workers compute."""
        ...

    def initial_params(self) -> Params:
        """θ before the first step."""
        ...

    @property
    def data(self) -> str:
        """Fingerprint of the data that tasks are drawn from, empty if there are none."""
        ...

    @property
    def adds_shards(self) -> bool:
        """Whether a worker may compute several shards at once and send their sum."""
        ...

    @property
    def builder(self) -> Callable[[Config], Any]:
        """Builds the same from its configuration in another process."""
        ...

    def make_work(self) -> Work:
        """The object that computes requests about the set-up's kind of tasks."""
        ...


class Worker:
    """Computes requests. No state of it decides a bit of a reply, so any worker may compute any request."""

    def __init__(self, setup: Workable) -> None:
        """Fix the arithmetic of this process, and make what computes."""
        fix_arithmetic(setup.config.cluster.threads)
        keep_freed_memory()
        self._layout = setup.layout
        self._work = setup.make_work()
        self._theta = _Received(setup.layout.size, setup.dtype, setup.device)
        self._second = _Received(setup.layout.size, setup.dtype, setup.device)

    def run(self, request: Request, theta: Flat, second: Flat | None = None) -> Reply:
        """Compute one request under θ [P], with a second vector [P] if it is about rollouts.

        Args:
            request: any request.
            theta: θ [P].
            second: the second vector [P] of a request about rollouts, else None.

        Raises:
            MetarayError: naming step and tasks, whatever the family, model or algorithm raised.
        """
        try:
            params = self._layout.unflatten(self._theta.take(theta))
            if not isinstance(request, RolloutRequest):
                return self._work.run(request, params)
            if second is None:
                raise TypeError(f"expected a second vector with a {request.kind} request, received none")
            return self._work.run_on_rollouts(request, params, self._layout.unflatten(self._second.take(second)))
        except Unsupported as error:
            raise EngineError(f"a worker cannot run the engine: {error}") from error
        except ShardFailed as failed:
            raise _failure(request.step, failed.tasks, failed.__cause__ or failed) from failed.__cause__
        except Exception as error:
            raise _failure(request.step, request.tasks, error) from error

    def between_requests(self) -> bool:
        """Prepare a part of the next request, while none waits; False: there is nothing to prepare."""
        return self._work.between_requests()


def _failure(step: int, tasks: TaskRange, error: BaseException) -> MetarayError:
    return MetarayError(f"a worker failed at step {step} on {tasks}: {type(error).__name__}: {error}")


class _Received:
    """Memory of torch's own for a vector that arrives: its alignment never varies; see :func:`meta.episode.place`."""

    def __init__(self, size: int, dtype: torch.dtype, device: torch.device) -> None:
        # From pinned memory the copy to a GPU needs no other copy before it.
        self._host = torch.empty(size, dtype=dtype, pin_memory=device.type == "cuda")
        self._there = self._host.to(device)

    def take(self, vector: Flat) -> torch.Tensor:
        """A copy on the device, until the next one is taken."""
        self._host.numpy()[:] = vector
        if self._there is not self._host:
            self._there.copy_(self._host)
        return self._there
