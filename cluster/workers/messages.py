"""Messages between processes: requests to workers, replies from them.

Shapes: P parameters, T tasks of a shard, K numbers of inner steps, M metrics.

A request names one shard of tasks and a version of θ. θ, and for some requests a second vector of its size, travel
beside it as flat arrays: they are the same for all shards of a batch of requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from meta.reduce import tree_sum
from tasks.family import Split

Flat = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class TaskRange:
    """Tasks ``start`` … ``stop - 1`` of a split."""

    split: Split
    start: int
    stop: int

    def __str__(self) -> str:
        """As in messages to the user: ``train tasks 25 to 37``."""
        return f"{self.split} tasks {self.start} to {self.stop - 1}"

    @property
    def indices(self) -> range:
        """The task indices."""
        return range(self.start, self.stop)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One shard of work under version ``step`` of θ.

    Attributes:
        kind: name of the request's class in a message.
        step: outer step at which θ was taken; its version.
        shard: number of the shard among those of its step or evaluation.
        tasks: the shard's tasks.
    """

    kind: ClassVar[str]

    step: int
    shard: int
    tasks: TaskRange


@dataclass(frozen=True, kw_only=True)
class GradientRequest(Request):
    """The sum of meta-gradients at θ, of one shard or of a block of 2^level consecutive ones.

    Attributes:
        shard: number of the shard, or of the block among the blocks.
        tasks: of the whole block.
        size: tasks of one shard; None: there is one.
        level: the block's level in the tree along which shards are added up; the last block may have fewer shards.
        upcoming: tasks that the worker will most likely be asked for next, to be drawn ahead.
    """

    kind = "gradient"

    size: int | None = None
    level: int = 0
    upcoming: TaskRange | None = None

    @property
    def parts(self) -> Sequence[TaskRange]:
        """The tasks of each shard."""
        return shards_of(self.tasks, self.size)


@dataclass(frozen=True, kw_only=True)
class ScoresRequest(Request):
    """Query scores after each of ``inner_steps`` numbers of inner steps from θ.

    Attributes:
        inner_steps: the K numbers.
        further: whether the scores of ``eval.scores`` are asked for too.
    """

    kind = "scores"

    inner_steps: tuple[int, ...]
    further: bool = False


@dataclass(frozen=True, kw_only=True)
class RolloutRequest(Request):
    """A request about the rollouts that a gradient request has sampled under θ in the same outer step.

    A second vector [P] travels with it. It goes to the worker that has kept the rollouts; any other worker
    samples them again.
    """


@dataclass(frozen=True, kw_only=True)
class GradientAt(RolloutRequest):
    """The sum of meta-gradients at other parameters, the second vector."""

    kind = "gradient_at"


@dataclass(frozen=True, kw_only=True)
class FisherProduct(RolloutRequest):
    """The sum over tasks of the Hessian of KL, the Fisher matrix at θ, times the second vector."""

    kind = "fisher_product"


@dataclass(frozen=True, kw_only=True)
class SurrogateAndKL(RolloutRequest):
    """Surrogate objective and KL divergence of each task at other parameters, the second vector."""

    kind = "surrogate_and_kl"


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to a request, in one flat buffer whose layout its class knows.

    Attributes:
        request: the request answered.
        buffer: the numbers.
    """

    request: Request
    buffer: Flat


@dataclass(frozen=True, kw_only=True)
class GradientReply(Reply):
    """P sums of meta-gradients, then one row of T values per metric.

    Attributes:
        metrics: names of the metric rows.
        nonfinite: indices of tasks whose own meta-gradient is not finite.
    """

    metrics: tuple[str, ...] = ()
    nonfinite: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The number of parameters P."""
        return len(self.buffer) - len(self.metrics) * len(self.request.tasks.indices)

    @property
    def gradient(self) -> Flat:
        """The sum of the shard's meta-gradients, [P]."""
        return self.buffer[: self.size]

    @property
    def metric_sums(self) -> Flat:
        """Sums over the tasks, one per metric, in float64: each shard's, added up along the tree."""
        table = self.buffer[self.size :].reshape(len(self.metrics), -1).astype(np.float64)
        assert isinstance(self.request, GradientRequest | GradientAt)
        size = self.request.size if isinstance(self.request, GradientRequest) else None
        step = size or max(table.shape[1], 1)
        sums: Flat = tree_sum([table[:, at : at + step].sum(axis=1) for at in range(0, table.shape[1], step)])
        return sums


@dataclass(frozen=True, kw_only=True)
class SummedReply(GradientReply):
    """The answer to several gradient requests: the sum of a node of the tree. The buffer is the gradient, [P].

    Attributes:
        request: of the node, as if one worker had been asked for it.
        sums: of each metric over the node's tasks.
    """

    sums: tuple[float, ...] = ()

    @property
    def size(self) -> int:
        """The number of parameters P."""
        return len(self.buffer)

    @property
    def metric_sums(self) -> Flat:
        """Sums over the tasks, one per metric, in float64: each shard's, added up along the tree."""
        return np.array(self.sums, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class ScoresReply(Reply):
    """The rows of a table of scores, then those of the further scores, if they were asked for."""

    request: ScoresRequest

    @property
    def scores(self) -> Flat:
        """Scores of each task after each number of inner steps, [T, K]."""
        tasks, steps = self._shape
        return self.buffer[: tasks * steps].reshape(tasks, steps)

    @property
    def further(self) -> Flat:
        """The further scores of each task after each number of inner steps, [T, K, number of scores]."""
        tasks, steps = self._shape
        return self.buffer[tasks * steps :].reshape(tasks, steps, -1)

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.request.tasks.indices), len(self.request.inner_steps)


@dataclass(frozen=True, kw_only=True)
class FisherReply(Reply):
    """The sum of the shard's products, [P]."""

    @property
    def product(self) -> Flat:
        """The sum over the shard's tasks, [P]."""
        return self.buffer


@dataclass(frozen=True, kw_only=True)
class SurrogateReply(Reply):
    """The rows of a table of surrogates and KL divergences."""

    @property
    def sums(self) -> Flat:
        """Sums over the shard's tasks of surrogate and KL divergence, [2], float64."""
        sums: Flat = self.buffer.reshape(-1, 2).astype(np.float64).sum(axis=0)
        return sums


REQUESTS: dict[str, type[Request]] = {
    cls.kind: cls for cls in (GradientRequest, ScoresRequest, GradientAt, FisherProduct, SurrogateAndKL)
}
REPLIES: dict[str, type[Reply]] = {
    GradientRequest.kind: GradientReply,
    ScoresRequest.kind: ScoresReply,
    GradientAt.kind: GradientReply,
    FisherProduct.kind: FisherReply,
    SurrogateAndKL.kind: SurrogateReply,
}


class ShardFailed(Exception):  # noqa: N818 - says where; its cause is the error
    """A shard of a block could not be computed."""

    def __init__(self, tasks: TaskRange) -> None:
        """Keep the shard's tasks."""
        super().__init__(str(tasks))
        self.tasks = tasks


def to_flat(tensor: Tensor) -> Flat:
    """A tensor's elements in host memory."""
    array: Flat = tensor.reshape(-1).cpu().numpy()
    return array


def shards(split: Split, start: int, count: int, size: int) -> Sequence[TaskRange]:
    """Cut ``count`` tasks from ``start`` on into consecutive shards of ``size``; the last may be smaller.

    Args:
        split: of the tasks.
        start: index of the first task.
        count: number of tasks.
        size: tasks per shard.

    >>> [len(shard.indices) for shard in shards("train", 0, 25, 13)]
    [13, 12]
    """
    stop = start + count
    return [TaskRange(split=split, start=at, stop=min(at + size, stop)) for at in range(start, stop, size)]


def shards_of(tasks: TaskRange, size: int | None) -> Sequence[TaskRange]:
    """The shards of a block.

    Args:
        tasks: of the block.
        size: tasks per shard; None: the block is one.
    """
    count = len(tasks.indices)
    return shards(tasks.split, tasks.start, count, size or count)


def gradient_requests(step: int, meta_batch: int, shard: int, level: int = 0) -> list[GradientRequest]:
    """The requests of one outer step: its meta-batch in blocks of shards, each with the same block of the next step.

    Args:
        step: the outer step, from 0 on.
        meta_batch: tasks per outer step.
        shard: tasks per shard.
        level: a request asks for 2^level shards. No bit of the sum depends on it.
    """
    now = shards("train", step * meta_batch, meta_batch, shard << level)
    following = shards("train", (step + 1) * meta_batch, meta_batch, shard << level)
    return [
        GradientRequest(step=step, shard=number, tasks=tasks, size=shard, level=level, upcoming=upcoming)
        for number, (tasks, upcoming) in enumerate(zip(now, following, strict=True))
    ]


def scores_requests(
    step: int,
    split: Split,
    tasks: int,
    shard: int,
    inner_steps: tuple[int, ...],
    first: int = 0,
    *,
    further: bool = False,
) -> list[ScoresRequest]:
    """The requests of one evaluation: ``tasks`` tasks of a split from number ``first`` on, always the same ones.

    Args:
        step: version of θ.
        split: of the tasks.
        tasks: number of tasks.
        shard: tasks per shard.
        inner_steps: numbers of inner steps to score after, K of them.
        first: index of the first task.
        further: whether the scores of ``eval.scores`` are asked for too.
    """
    return [
        ScoresRequest(step=step, shard=number, tasks=part, inner_steps=inner_steps, further=further)
        for number, part in enumerate(shards(split, first, tasks, shard))
    ]
