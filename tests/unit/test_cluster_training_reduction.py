"""Sums over a meta-batch: by shard number whatever the order of arrival, means over tasks, gradients that are none."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np
import pytest

from cluster.config.schema import parse
from cluster.training.reduction import sum_gradients, sum_products, sum_surrogates
from cluster.workers.messages import (
    FisherReply,
    Flat,
    GradientReply,
    Reply,
    SurrogateReply,
    gradient_requests,
)
from cluster.workers.pool import Pool, Ticket

SIZE = 3
CONFIG = parse(
    {
        "task": {"family": "sinusoid"},
        "model": {"name": "mlp"},
        "inner": {"lr": 0.25},
        "outer": {"steps": 1, "lr": 0.125},
        "meta_batch": 7,
    }
)
REQUESTS = gradient_requests(step=2, meta_batch=7, shard=3)  # shards of 3, 3 and 1 task
rng = np.random.Generator(np.random.Philox(1))
PARTS = (10.0 ** rng.integers(-4, 5, (3, SIZE)) * rng.normal(size=(3, SIZE))).astype(np.float32)
LOSSES = [np.float32([1, 2, 3]), np.float32([4, 5, 6]), np.float32([9])]


class Arriving(Pool):
    """Replies in an order of its own."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies, self.failures = replies, []

    def gather(self, ticket: Ticket) -> Iterator[Reply]:
        assert ticket.requests is REQUESTS
        return iter(self.replies)


def results(nonfinite: Sequence[tuple[int, ...]] = ((), (), ())) -> list[GradientReply]:
    return [
        GradientReply(
            request=request,
            buffer=np.concatenate([PARTS[number], LOSSES[number], 2 * LOSSES[number]]),
            metrics=("loss", "twice"),
            nonfinite=nonfinite[number],
        )
        for number, request in enumerate(REQUESTS)
    ]


def added(parts: Flat) -> bytes:
    """The fixed tree over three shards."""
    return np.asarray((parts[0] + parts[1]) + parts[2]).tobytes()


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_a_total_is_the_same_whatever_arrives_first(arrival):
    total = sum_gradients(Ticket(REQUESTS), Arriving([results()[number] for number in arrival]))
    assert total.gradient.tobytes() == added(PARTS)
    assert total.tasks == 7
    assert total.metrics == {"loss": 30.0, "twice": 60.0}
    assert total.means == {"loss": 30 / 7, "twice": 60 / 7}
    assert total.finite
    assert total.nonfinite == []


def test_tasks_without_a_finite_gradient_are_named_in_order():
    total = sum_gradients(Ticket(REQUESTS), Arriving(results([(16, 14), (), (20,)])[::-1]))
    assert total.nonfinite == [14, 16, 20]
    assert not total.finite
    said = str(total.diverged(2, CONFIG))
    for words in ("at step 2 from train tasks [14, 16, 20]", "inner.lr (0.25)", "outer.lr (0.125)"):
        assert words in said
    assert "outer.on_nonfinite=skip" in said


def test_a_sum_that_is_not_finite_is_found_where_every_task_is():
    huge = results()
    for result in huge:
        result.buffer[0] = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        total = sum_gradients(Ticket(REQUESTS), Arriving(huge))
    assert total.nonfinite == []
    assert not total.finite
    assert "from the sum over the meta-batch" in str(total.diverged(0, CONFIG))


def test_metrics_are_added_in_float64():
    one = results()
    one[0].buffer[SIZE : SIZE + 3] = np.float32([1e8, 1, 1])
    total = sum_gradients(Ticket(REQUESTS), Arriving(one))
    assert total.metrics["loss"] == 1e8 + 2 + 15 + 9


def asked(kind: type[Reply], rows: Sequence[np.ndarray]) -> list[Reply]:
    return [kind(request=request, buffer=row) for request, row in zip(REQUESTS, rows, strict=True)]


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_products_and_surrogates_are_added_by_shard(arrival):
    products = asked(FisherReply, list(PARTS))
    assert sum_products((products[number] for number in arrival), 3).tobytes() == added(PARTS)
    tables = [rng.normal(size=(len(order.tasks.indices), 2)).astype(np.float32) for order in REQUESTS]
    judged = asked(SurrogateReply, [table.reshape(-1) for table in tables])
    surrogate, kl = sum_surrogates((judged[number] for number in arrival), 3)
    every = np.concatenate(tables).astype(np.float64)
    assert (surrogate, kl) == (pytest.approx(every[:, 0].sum(), rel=1e-14), pytest.approx(every[:, 1].sum(), rel=1e-14))


def test_surrogates_are_added_in_float64():
    judged = asked(SurrogateReply, [np.float32([1e8, 1, 1, 1, 1, 1]), np.zeros(6, np.float32), np.float32([1, 0])])
    assert sum_surrogates(judged, 3) == (1e8 + 3, 3.0)
