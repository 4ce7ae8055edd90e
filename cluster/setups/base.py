"""Base of every set-up: the configuration, what follows from it alone, and the members that both kinds provide."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from cluster.config.schema import Config
from cluster.workers.gpus import require_gpu_here
from cluster.workers.worker import Work
from meta.algorithms import context_of
from meta.context import Context
from meta.engine.choice import Choice
from meta.engine.strategies import Limits
from meta.params import Layout, Params
from tasks.family import Split

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class BaseSetup(ABC):
    """Everything that a worker or a learner computes with.

    Attributes:
        config: what it was built from.
        builder: builds the same from a configuration, in another process for one.
        layout: the parameters' places in θ.
        frozen: names of the parameters that the outer loop leaves alone.
        dtype: type of θ.
        seed: of θ, tasks and rollouts.
        device: where this process computes: the processor, unless it is a worker; see :meth:`placed`.
    """

    config: Config
    builder: Callable[[Config], "BaseSetup"]
    layout: Layout
    frozen: tuple[str, ...]
    dtype: torch.dtype
    seed: int
    device: torch.device = CPU

    family: Any
    algorithm: Any

    def under(self, config: Config) -> Self:
        """The set-up under another engine or number of workers: the same parts, unless ``inner.recompute`` changes.

        Args:
            config: differs from the set-up's own in ``engine``, ``inner.recompute`` and ``cluster.workers`` alone.
        """
        if bool(config.inner.recompute) == bool(self.config.inner.recompute):  # None: the engine has not decided
            return replace(self, config=config)
        built: Self = self.builder(config)  # type: ignore[assignment]
        return built

    def placed(self) -> Self:
        """The set-up as a worker computes with it: on its GPU, if the configuration gives it one.

        Raises:
            ConfigError: if it does and there is none here.
        """
        require_gpu_here(self.config.cluster)
        return replace(self, device=torch.device("cuda")) if self.config.cluster.gpus_per_worker > 0 else self

    @property
    def limits(self) -> Limits:
        """Threads and memory that an engine may take of the machine."""
        return Limits(threads=self.config.cluster.threads, memory=int(self.config.cluster.memory * 1e6))

    @property
    def family_warnings(self) -> list[str]:
        """Sentences of the family about what it leaves out; most families have none."""
        return list(getattr(self.family, "warnings", ()))

    @property
    def data(self) -> str:
        """Fingerprint of the data that tasks are drawn from, empty if there are none."""
        data: str = self.family.spec.data
        return data

    def initial_params(self) -> Params:
        """θ as it is drawn, a function of the seed alone; ``model.weights`` takes its place in the learner alone."""
        params: Params = self.algorithm.init(torch.Generator().manual_seed(self.seed), self.dtype)
        return params

    def context(self, step: int | None) -> Context:
        """The scheduled numbers of an outer step, None being after training, as tensors beside θ.

        Args:
            step: number of the outer step, from 0 on.
        """
        return context_of(self.algorithm, step, self.dtype, self.device)

    @property
    @abstractmethod
    def choice(self) -> Choice:
        """The strategy that the configuration names, or that its ``auto`` or ``measure`` comes to.

        Raises:
            ConfigError: if the model or the tasks do not let the algorithm run at all.
        """

    @property
    def adds_shards(self) -> bool:
        """Whether a worker may compute several shards at once and send their sum."""
        return True

    @property
    def needs_trial(self) -> bool:
        """Whether parts are a user's own, so that some may fail late in a run; see :meth:`trial`."""
        return False

    @property
    def needs_worker_trial(self) -> bool:
        """Whether a worker may lack what this process has, or fail where this process does not."""
        return False

    def trial(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Names and attempts of what a training will do, each on one task, besides writing and drawing."""
        yield from ()

    @abstractmethod
    def make_work(self) -> Work:
        """The object that computes requests about this kind of tasks in a worker."""

    @abstractmethod
    def describe(self, split: Split) -> dict[str, Any]:
        """Amount of data per task of a split, as keys of an evaluation's ``--json``."""

    @abstractmethod
    def sampling(self) -> dict[str, Any]:
        """Settings, by name, that must be equal before two models are compared on the same tasks."""
