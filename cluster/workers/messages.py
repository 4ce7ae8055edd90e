"""What crosses a process boundary: orders to workers, results from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
class Order:
    """One shard of work under version ``step`` of θ.

    Attributes:
        kind: ``gradient``: the sum of meta-gradients; ``scores``: query scores after inner steps. Over rollouts that a
            gradient order has sampled in the same step: ``again``: the sum of meta-gradients at another θ;
            ``product``: the sum of products of KL's Hessian with a vector; ``judge``: surrogate and KL at another θ.
        step: outer step at which θ was taken; its version.
        shard: number of the shard among those of its step or evaluation.
        tasks: the shard's tasks.
        inner_steps: for scores, the numbers of inner steps.
        upcoming: tasks this worker will most likely be asked for next, to be drawn ahead.
    """

    kind: Literal["gradient", "scores", "again", "product", "judge"]
    step: int
    shard: int
    tasks: TaskRange
    inner_steps: tuple[int, ...] = ()
    upcoming: TaskRange | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer to an order, in one flat buffer.

    Attributes:
        order: the order answered.
        buffer: for a gradient, P sums of meta-gradients and then one row of T values per metric; for a product its
            P sums; for scores the rows of a [T, K] table; for a judgement those of a [T, 2] table.
        metrics: names of the metric rows.
        nonfinite: indices of tasks whose own meta-gradient is not finite.
    """

    order: Order
    buffer: Flat
    metrics: tuple[str, ...] = ()
    nonfinite: tuple[int, ...] = ()

    def gradient(self, size: int) -> Flat:
        """The sum of the shard's meta-gradients, [P], for P = ``size``."""
        return self.buffer[:size]

    def metric_sums(self, size: int) -> Flat:
        """Sums over the shard's tasks, one per metric, in float64."""
        table = self.buffer[size:].reshape(len(self.metrics), -1).astype(np.float64)
        sums: Flat = table.sum(axis=1)
        return sums

    @property
    def scores(self) -> Flat:
        """The table [T, K] of a scores order."""
        return self.buffer.reshape(-1, len(self.order.inner_steps))

    @property
    def judgements(self) -> Flat:
        """Surrogate and KL divergence of each task of a judge order, [T, 2]."""
        return self.buffer.reshape(-1, 2)


def to_flat(tensor: Tensor) -> Flat:
    """A tensor's elements in host memory."""
    array: Flat = tensor.reshape(-1).cpu().numpy()
    return array


def shards(split: Split, start: int, count: int, size: int) -> Sequence[TaskRange]:
    """Cut ``count`` tasks from ``start`` on into consecutive shards of ``size``; the last may be smaller.

    >>> [len(shard.indices) for shard in shards("train", 0, 25, 13)]
    [13, 12]
    """
    stop = start + count
    return [TaskRange(split=split, start=at, stop=min(at + size, stop)) for at in range(start, stop, size)]


def gradient_orders(step: int, meta_batch: int, shard: int) -> list[Order]:
    """The orders of one outer step: its meta-batch in shards, each with the same shard of the next step."""
    now = shards("train", step * meta_batch, meta_batch, shard)
    following = shards("train", (step + 1) * meta_batch, meta_batch, shard)
    return [
        Order(kind="gradient", step=step, shard=number, tasks=tasks, upcoming=upcoming)
        for number, (tasks, upcoming) in enumerate(zip(now, following, strict=True))
    ]


def score_orders(
    step: int, split: Split, tasks: int, shard: int, inner_steps: tuple[int, ...], first: int = 0
) -> list[Order]:
    """The orders of one evaluation: ``tasks`` tasks of a split from number ``first`` on, always the same ones."""
    return [
        Order(kind="scores", step=step, shard=number, tasks=part, inner_steps=inner_steps)
        for number, part in enumerate(shards(split, first, tasks, shard))
    ]
