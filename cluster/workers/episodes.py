"""Requests about drawn tasks: episodes of a shard, then the engine over them."""

from collections import deque
from collections.abc import Mapping
from typing import NoReturn, Protocol

import torch
from torch import Tensor

from cluster.workers.messages import (
    GradientReply,
    GradientRequest,
    Reply,
    Request,
    RolloutRequest,
    ScoresReply,
    ScoresRequest,
    ShardFailed,
    TaskRange,
    shards_of,
    to_flat,
)
from meta.context import Context
from meta.engine.native.ir import Unsupported
from meta.engine.strategies import Engine
from meta.episode import Episode
from meta.params import Layout, Params
from meta.reduce import TreeSum
from tasks.family import Family, Split


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

    def context(self, step: int | None) -> Context:
        """The scheduled numbers of an outer step, None being after training.

        Args:
            step: number of the outer step, from 0 on.
        """
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

    def further_scores(self, params: Params, episodes: Episode, steps: tuple[int, ...]) -> Tensor:
        """The scores of ``eval.scores`` of T tasks after K numbers of inner steps, [T, K, number of scores].

        Args:
            params: θ.
            episodes: of held-out tasks, [T, ...].
            steps: the K numbers.
        """
        ...


class EpisodeWork:
    """Meta-gradients and scores of drawn episodes. Stateless but for episodes drawn ahead."""

    def __init__(self, setup: EpisodeSource) -> None:
        """Draw nothing yet."""
        self._setup = setup
        self._drawn: dict[TaskRange, Episode] = {}  # ahead
        self._upcoming: deque[TaskRange] = deque()  # to be drawn while no request waits

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
        scores = self._setup.engine.scores(params, episodes, request.inner_steps, self._setup.context(None))
        parts = [scores.reshape(-1)]
        if request.further:
            further = self._setup.further_scores(params, episodes, request.inner_steps)
            parts.append(further.reshape(-1).to(scores.dtype))
        return ScoresReply(request=request, buffer=to_flat(torch.cat(parts)))

    def _gradient(self, request: GradientRequest, params: Params) -> GradientReply:
        total: TreeSum[Tensor] = TreeSum(len(request.parts))
        now = self._setup.context(request.step)
        rows: list[Mapping[str, Tensor]] = []
        for number, tasks in enumerate(request.parts):
            # Shard by shard, whatever the block: the number of tasks at a time may decide bits.
            try:
                gradient, metrics = self._setup.engine.meta_gradient(params, self._episodes(tasks), now)
            except Unsupported:
                raise
            except Exception as error:
                raise ShardFailed(tasks) from error
            total.add(number, self._setup.layout.flatten(gradient))
            rows.append({name: value.clone() for name, value in metrics.items()})
        flat, names = total.total(), tuple(sorted(rows[0]))
        self._drawn.clear()
        self._upcoming = deque(shards_of(request.upcoming, request.size) if request.upcoming else ())
        return GradientReply(
            request=request,
            buffer=to_flat(torch.cat([flat, *(row[name] for name in names for row in rows)])),
            metrics=names,
            nonfinite=() if _is_finite(flat) else self._nonfinite(request, params),
        )

    def between_requests(self) -> bool:
        """Draw a shard that will most likely be asked for next, while no request waits; False: there is none."""
        if not self._upcoming:
            return False
        tasks = self._upcoming.popleft()
        try:
            self._drawn[tasks] = self._setup.training_episodes(tasks.indices)
        except Exception:  # a family's; it will be raised and named if the tasks are asked for
            self._upcoming.clear()
        return True

    def _episodes(self, tasks: TaskRange) -> Episode:
        drawn = self._drawn.pop(tasks, None)
        return self._setup.training_episodes(tasks.indices) if drawn is None else drawn

    def _nonfinite(self, request: GradientRequest, params: Params) -> tuple[int, ...]:
        """Indices of the tasks whose own meta-gradient is not finite; all, if only their sum is not."""
        indices, now = [], self._setup.context(request.step)
        for index in request.tasks.indices:
            one = self._setup.training_episodes(range(index, index + 1))
            gradient, _ = self._setup.engine.meta_gradient(params, one, now)
            if not all(bool(torch.isfinite(part).all()) for part in gradient.values()):
                indices.append(index)
        return tuple(indices) or tuple(request.tasks.indices)


def _is_finite(vector: Tensor) -> bool:
    """Whether all elements are; the sum of them, which is quick, nearly always tells."""
    return bool(torch.isfinite(vector.sum())) or bool(torch.isfinite(vector).all())
