"""A worker: draws the episodes of a shard, runs the engine over them, answers with sums. A plain class."""

import os
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from cluster.builder import build
from cluster.config import Config
from cluster.errors import MetarayError
from cluster.messages import Flat, Order, Result, TaskRange
from meta.episode import Episode, stack, unstack
from meta.memory import keep_freed_memory
from tasks.family import draw_batch, draws_ranges


def fix_arithmetic(threads: int) -> None:
    """Make torch in this process add in one order only: a fixed number of threads, deterministic kernels."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling new memory with NaN is for hunting errors; it costs time and changes no result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class Worker:
    """Computes orders. Stateless but for episodes drawn ahead, so any worker may compute any order."""

    def __init__(self, config: Config) -> None:
        """Build family, model, algorithm and engine from ``config``."""
        fix_arithmetic(config.cluster.threads)
        keep_freed_memory()
        self._setup = build(config)
        # θ is copied into memory of torch's own, whose alignment never varies; see meta.episode.place.
        self._host = torch.empty(self._setup.layout.size, dtype=self._setup.dtype)
        self._theta = self._host.to(self._setup.device)
        self._params = self._setup.layout.unflatten(self._theta)
        self._drawer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._ahead: tuple[TaskRange, Future[Episode]] | None = None

    @property
    def data(self) -> str:
        """Fingerprint of the data that this worker draws tasks from."""
        return self._setup.family.spec.data

    def run(self, order: Order, theta: Flat) -> Result:
        """Compute one order under θ (flat, [P]).

        Raises:
            MetarayError: naming step and tasks, whatever the family, model or algorithm raised.
        """
        try:
            return self._run(order, theta)
        except Exception as error:
            where = f"at step {order.step} on {order.tasks}"
            raise MetarayError(f"a worker failed {where}: {type(error).__name__}: {error}") from error

    def _run(self, order: Order, theta: Flat) -> Result:
        episodes = self._episodes(order.tasks)
        at_once = draws_ranges(self._setup.family)
        if not at_once:
            self._draw_ahead(order)
        self._host.numpy()[:] = theta
        if self._theta is not self._host:
            self._theta.copy_(self._host)
        if order.kind == "scores":
            scores = self._setup.engine.scores(self._params, episodes, order.inner_steps)
            return Result(order=order, buffer=_to_numpy(scores))
        gradient, metrics = self._setup.engine.meta_gradient(self._params, episodes)
        flat = self._setup.layout.flatten(gradient)
        finite = bool(torch.isfinite(flat).all())
        names = tuple(sorted(metrics))
        if at_once:
            # Drawn sooner than a second thread gets its turn beside the engine, but well while the answer is under way.
            self._draw_ahead(order)
        return Result(
            order=order,
            buffer=_to_numpy(torch.cat([flat, *(metrics[name] for name in names)])),
            metrics=names,
            nonfinite=() if finite else self._culprits(order.tasks, episodes),
        )

    def _draw_ahead(self, order: Order) -> None:
        if order.upcoming is not None:
            self._ahead = (order.upcoming, self._drawer.submit(self._draw, order.upcoming))

    def _episodes(self, tasks: TaskRange) -> Episode:
        ahead, self._ahead = self._ahead, None
        return ahead[1].result() if ahead is not None and ahead[0] == tasks else self._draw(tasks)

    def _draw(self, tasks: TaskRange) -> Episode:
        setup = self._setup
        return draw_batch(setup.family, setup.seed, tasks.split, tasks.indices, setup.dtype, setup.device)

    def _culprits(self, tasks: TaskRange, episodes: Episode) -> tuple[int, ...]:
        """Indices of the tasks whose own meta-gradient is not finite; all, if only their sum is not."""
        found = []
        for position, index in enumerate(tasks.indices):
            one = stack([unstack(episodes, position)])
            gradient, _ = self._setup.engine.meta_gradient(self._params, one)
            if not all(bool(torch.isfinite(part).all()) for part in gradient.values()):
                found.append(index)
        return tuple(found) or tuple(tasks.indices)


def _to_numpy(tensor: Tensor) -> Flat:
    array: Flat = tensor.reshape(-1).cpu().numpy()
    return array
