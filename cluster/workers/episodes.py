"""What a worker does where tasks are drawn: episodes of a shard, then the engine over them."""

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cluster.setups.build import Setup
from cluster.workers.messages import Order, Result, TaskRange, to_flat
from meta.episode import Episode, stack, unstack
from meta.params import Params
from tasks.family import draw_batch, draws_ranges


class EpisodeWork:
    """Gradients and scores of drawn episodes. Stateless but for episodes drawn ahead."""

    def __init__(self, setup: Setup) -> None:
        """Draw nothing yet."""
        self._setup = setup
        self._drawer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._ahead: tuple[TaskRange, Future[Episode]] | None = None

    def run(self, order: Order, params: Params, other: Params | None) -> Result:
        """Compute one order under θ."""
        del other
        episodes = self._episodes(order)
        at_once = draws_ranges(self._setup.family)
        if not at_once:
            self._draw_ahead(order)
        if order.kind == "scores":
            scores = self._setup.engine.scores(params, episodes, order.inner_steps)
            return Result(order=order, buffer=to_flat(scores))
        gradient, metrics = self._setup.engine.meta_gradient(params, episodes)
        flat = self._setup.layout.flatten(gradient)
        finite = bool(torch.isfinite(flat).all())
        names = tuple(sorted(metrics))
        if at_once:
            # Drawn sooner than a second thread gets its turn beside the engine, but well while the answer is under way.
            self._draw_ahead(order)
        return Result(
            order=order,
            buffer=to_flat(torch.cat([flat, *(metrics[name] for name in names)])),
            metrics=names,
            nonfinite=() if finite else self._culprits(order.tasks, params, episodes),
        )

    def _draw_ahead(self, order: Order) -> None:
        if order.upcoming is not None:
            upcoming = dataclasses.replace(order, tasks=order.upcoming, upcoming=None)
            self._ahead = (upcoming.tasks, self._drawer.submit(self._draw, upcoming))

    def _episodes(self, order: Order) -> Episode:
        ahead, self._ahead = self._ahead, None
        return ahead[1].result() if ahead is not None and ahead[0] == order.tasks else self._draw(order)

    def _draw(self, order: Order) -> Episode:
        setup, tasks = self._setup, order.tasks
        if order.kind != "scores":
            return setup.training_episodes(tasks.indices)
        return draw_batch(setup.family, setup.seed, tasks.split, tasks.indices, setup.dtype, setup.device)

    def _culprits(self, tasks: TaskRange, params: Params, episodes: Episode) -> tuple[int, ...]:
        """Indices of the tasks whose own meta-gradient is not finite; all, if only their sum is not."""
        found = []
        for position, index in enumerate(tasks.indices):
            one = stack([unstack(episodes, position)])
            gradient, _ = self._setup.engine.meta_gradient(params, one)
            if not all(bool(torch.isfinite(part).all()) for part in gradient.values()):
                found.append(index)
        return tuple(found) or tuple(tasks.indices)
