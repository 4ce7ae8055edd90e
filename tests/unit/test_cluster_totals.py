"""Sums over a meta-batch: by shard number whatever the order of arrival, means over tasks, gradients that are none."""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from cluster.config.schema import parse
from cluster.training.reduction import total_gradient, total_judgement, total_vector
from cluster.workers.messages import Flat, Order, Result, gradient_orders
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
ORDERS = gradient_orders(step=2, meta_batch=7, shard=3)  # shards of 3, 3 and 1 task
rng = np.random.Generator(np.random.Philox(1))
PARTS = (10.0 ** rng.integers(-4, 5, (3, SIZE)) * rng.normal(size=(3, SIZE))).astype(np.float32)
LOSSES = [np.float32([1, 2, 3]), np.float32([4, 5, 6]), np.float32([9])]


class Arriving(Pool):
    """Answers in an order of its own."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results, self.failures = results, []

    def gather(self, ticket: Ticket) -> Iterator[Result]:
        assert ticket.orders is ORDERS
        return iter(self.results)


def results(nonfinite: Sequence[tuple[int, ...]] = ((), (), ())) -> list[Result]:
    return [
        Result(
            order=order,
            buffer=np.concatenate([PARTS[number], LOSSES[number], 2 * LOSSES[number]]),
            metrics=("loss", "twice"),
            nonfinite=nonfinite[number],
        )
        for number, order in enumerate(ORDERS)
    ]


def added(parts: Flat) -> bytes:
    """The fixed tree over three shards."""
    return np.asarray((parts[0] + parts[1]) + parts[2]).tobytes()


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_a_total_is_the_same_whatever_arrives_first(arrival):
    total = total_gradient(Ticket(ORDERS), Arriving([results()[number] for number in arrival]), SIZE)
    assert total.gradient.tobytes() == added(PARTS)
    assert total.tasks == 7
    assert total.metrics == {"loss": 30.0, "twice": 60.0}
    assert total.means == {"loss": 30 / 7, "twice": 60 / 7}
    assert total.finite
    assert total.nonfinite == []


def test_tasks_without_a_finite_gradient_are_named_in_order():
    total = total_gradient(Ticket(ORDERS), Arriving(results([(16, 14), (), (20,)])[::-1]), SIZE)
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
        total = total_gradient(Ticket(ORDERS), Arriving(huge), SIZE)
    assert total.nonfinite == []
    assert not total.finite
    assert "from the sum over the meta-batch" in str(total.diverged(0, CONFIG))


def test_metrics_are_added_in_float64():
    one = results()
    one[0].buffer[SIZE : SIZE + 3] = np.float32([1e8, 1, 1])
    total = total_gradient(Ticket(ORDERS), Arriving(one), SIZE)
    assert total.metrics["loss"] == 1e8 + 2 + 15 + 9


def asked(kind: Any, rows: Sequence[np.ndarray]) -> list[Result]:
    return [
        Result(order=Order(kind=kind, step=2, shard=number, tasks=order.tasks), buffer=row)
        for number, (order, row) in enumerate(zip(ORDERS, rows, strict=True))
    ]


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_products_and_judgements_are_added_by_shard(arrival):
    products = asked("product", list(PARTS))
    assert total_vector((products[number] for number in arrival), 3).tobytes() == added(PARTS)
    tables = [rng.normal(size=(len(order.tasks.indices), 2)).astype(np.float32) for order in ORDERS]
    judged = asked("judge", [table.reshape(-1) for table in tables])
    surrogate, kl = total_judgement((judged[number] for number in arrival), 3)
    every = np.concatenate(tables).astype(np.float64)
    assert (surrogate, kl) == (pytest.approx(every[:, 0].sum(), rel=1e-14), pytest.approx(every[:, 1].sum(), rel=1e-14))


def test_judgements_are_added_in_float64():
    judged = asked("judge", [np.float32([1e8, 1, 1, 1, 1, 1]), np.zeros(6, np.float32), np.float32([1, 0])])
    assert total_judgement(judged, 3) == (1e8 + 3, 3.0)
