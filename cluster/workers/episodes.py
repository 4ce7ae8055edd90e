"""Requests about drawn tasks: episodes of a shard, then the engine over them."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn, Protocol

import torch

from cluster.workers.messages import (
    GradientReply,
    GradientRequest,
    Reply,
    Request,
    RolloutRequest,
    ScoresReply,
    ScoresRequest,
    TaskRange,
    to_flat,
)
from meta.engine.strategies import Engine
from meta.episode import Episode, stack, unstack
from meta.params import Layout, Params
from tasks.family import Family, Split, draws_ranges


class EpisodeSource(Protocol):
    """A set-up of drawn tasks, as far as their work asks."""

    @property
    def family(self) -> Family:
        """The family that episodes are drawn from."""
        ...

    @property
    def layout(self) -> Layout:
        """The parameters' places in θ."""
        ...

    @property
    def engine(self) -> Engine:
        """The engine that computes meta-gradients and scores."""
        ...

    def training_episodes(self, tasks: range) -> Episode:
        """Episodes of training tasks [T, ...], with the noise that random layers draw from."""
        ...

    def held_out_episodes(self, split: Split, tasks: range) -> Episode:
        """Episodes of tasks of a split [T, ...], without noise.

        Args:
            split: of the tasks.
            tasks: their indices, T of them.
        """
        ...


class EpisodeWork:
    """Meta-gradients and scores of drawn episodes. Stateless but for episodes drawn ahead."""

    def __init__(self, setup: EpisodeSource) -> None:
        """Draw nothing yet."""
        self._setup = setup
        self._drawer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")
        self._ahead: tuple[TaskRange, Future[Episode]] | None = None
        self._upcoming: TaskRange | None = None  # to be drawn while no request waits

    def run(self, request: Request, params: Params) -> Reply:
        """Compute one request under θ.

        Args:
            request: meta-gradients or scores of a shard.
            params: θ by name.
        """
        if isinstance(request, GradientRequest):
            return self._gradient(request, params)
        if isinstance(request, ScoresRequest):
            return self._scores(request, params)
        raise TypeError(f"expected a request for gradients or scores, received {request.kind}")

    def run_on_rollouts(self, request: RolloutRequest, params: Params, second: Params) -> NoReturn:
        """Raise an error: drawn tasks have no rollouts.

        Args:
            request: about rollouts.
            params: θ by name.
            second: the request's second vector, in the shapes of θ.
        """
        del params, second
        raise TypeError(f"expected a request for gradients or scores, received {request.kind}: drawn tasks have none")

    def _scores(self, request: ScoresRequest, params: Params) -> ScoresReply:
        tasks = request.tasks
        episodes = self._setup.held_out_episodes(tasks.split, tasks.indices)
        scores = self._setup.engine.scores(params, episodes, request.inner_steps)
        return ScoresReply(request=request, buffer=to_flat(scores))

    def _gradient(self, request: GradientRequest, params: Params) -> GradientReply:
        episodes = self._episodes(request.tasks)
        if draws_ranges(self._setup.family):  # in less time than a second thread takes from the engine
            self._upcoming = request.upcoming
        elif request.upcoming is not None:
            drawn = self._drawer.submit(self._setup.training_episodes, request.upcoming.indices)
            self._ahead = (request.upcoming, drawn)
        gradient, metrics = self._setup.engine.meta_gradient(params, episodes)
        flat = self._setup.layout.flatten(gradient)
        finite = bool(torch.isfinite(flat).all())
        names = tuple(sorted(metrics))
        return GradientReply(
            request=request,
            buffer=to_flat(torch.cat([flat, *(metrics[name] for name in names)])),
            metrics=names,
            nonfinite=() if finite else self._nonfinite(request.tasks, params, episodes),
        )

    def between_requests(self) -> None:
        """Draw the tasks that will most likely be asked for next, while no request waits."""
        if self._upcoming is not None:
            drawn: Future[Episode] = Future()
            drawn.set_result(self._setup.training_episodes(self._upcoming.indices))
            self._ahead, self._upcoming = (self._upcoming, drawn), None

    def _episodes(self, tasks: TaskRange) -> Episode:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == tasks:
            return ahead[1].result()
        return self._setup.training_episodes(tasks.indices)

    def _nonfinite(self, tasks: TaskRange, params: Params, episodes: Episode) -> tuple[int, ...]:
        """Indices of the tasks whose own meta-gradient is not finite; all, if only their sum is not."""
        indices = []
        for position, index in enumerate(tasks.indices):
            one = stack([unstack(episodes, position)])
            gradient, _ = self._setup.engine.meta_gradient(params, one)
            if not all(bool(torch.isfinite(part).all()) for part in gradient.values()):
                indices.append(index)
        return tuple(indices) or tuple(tasks.indices)
