"""The worker as a plain class, and the pool without Ray."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config.schema import Config, parse
from cluster.errors import MetarayError
from cluster.setups.build import build
from cluster.training.reduction import sum_gradients
from cluster.workers.messages import TaskRange, gradient_requests, scores_requests
from cluster.workers.pool import InlinePool, level_of
from cluster.workers.worker import Worker
from tasks.family import draw_batch

RAW: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 4, "query": 3},
    "model": {"name": "mlp", "hidden": [8], "init_std": None},
    "outer": {"steps": 3},
    "meta_batch": 5,
    "shard": 2,
}

FAULTY = '''
from dataclasses import dataclass
import torch
from meta.episode import Episode
from tasks.sinusoid import Sinusoid


@dataclass(frozen=True, kw_only=True)
class Faulty:
    """Sinusoids of which one task has a NaN target."""

    bad: int

    @property
    def spec(self):
        return Sinusoid().spec

    def draw(self, key):
        episode = Sinusoid().draw(key)
        if key.index == self.bad:
            episode.query.targets[0] = torch.nan
        return episode
'''


@pytest.fixture
def config() -> Config:
    return parse(RAW)


def theta(config: Config) -> np.ndarray:
    setup = build(config)
    return setup.layout.flatten(setup.initial_params()).numpy()


def test_a_shard_is_the_engines_sum_over_its_tasks(config):
    setup, worker = build(config), Worker(build(config))
    for order in gradient_requests(4, config.meta_batch, config.shard_size):
        result = worker.run(order, theta(config))
        tasks = order.tasks.indices
        episodes = draw_batch(setup.family, config.seed, "train", tasks, setup.dtype)
        gradient, metrics = setup.engine.meta_gradient(setup.initial_params(), episodes)
        assert torch.equal(torch.from_numpy(result.gradient), setup.layout.flatten(gradient))
        sums = dict(zip(result.metrics, result.metric_sums, strict=True))
        assert sums["loss"] == pytest.approx(metrics["loss"].double().sum().item())


def test_workers_agree_whatever_they_did_before(config):
    one, other = Worker(build(config)), Worker(build(config))
    orders = gradient_requests(0, 5, 2) + gradient_requests(1, 5, 2)
    first = [one.run(order, theta(config)).buffer.tobytes() for order in orders]
    second = [other.run(order, theta(config)).buffer.tobytes() for order in reversed(orders)]
    assert first == second[::-1]


def test_scores_come_in_order_of_tasks_and_steps(config):
    setup, worker = build(config), Worker(build(config))
    (order, *_) = scores_requests(0, "test", 6, 4, (0, 2))
    result = worker.run(order, theta(config))
    episodes = draw_batch(setup.family, config.seed, "test", range(4), setup.dtype)
    assert torch.equal(
        torch.from_numpy(result.scores.copy()), setup.engine.scores(setup.initial_params(), episodes, (0, 2))
    )


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch) -> Callable[[int], Config]:
    (tmp_path / "faulty_family.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda bad: parse({**RAW, "task": {"family": "faulty_family:Faulty", "bad": bad}})


@pytest.mark.parametrize(("bad", "named"), [(5, (5,)), (7, (7,)), (99, ())])
def test_a_task_without_a_finite_gradient_is_named(faulty, bad, named):
    config = faulty(bad)
    (order,) = gradient_requests(1, 5, 5)
    assert order.tasks == TaskRange(split="train", start=5, stop=10)
    assert Worker(build(config)).run(order, theta(config)).nonfinite == named


def test_tasks_drawn_ahead_give_the_bits_of_tasks_drawn_when_asked_for(faulty):
    config = faulty(99)
    first, second = (gradient_requests(step, 5, 5)[0] for step in (0, 1))
    ahead = Worker(build(config))
    ahead.run(first, theta(config))
    fresh = Worker(build(config)).run(second, theta(config))
    assert ahead.run(second, theta(config)).buffer.tobytes() == fresh.buffer.tobytes()


@pytest.mark.parametrize("level", [1, 2, 3])
def test_blocks_of_shards_give_the_bits_of_single_ones(config, level):
    def total(level: int, pool: InlinePool) -> tuple[bytes, dict[str, float]]:
        requests = gradient_requests(4, 5, 1, level)
        result = sum_gradients(pool.submit(requests, theta(config)), pool)
        return result.gradient.tobytes(), result.metrics

    assert len(gradient_requests(4, 5, 1, level)) == -(-5 // 2**level)
    assert total(level, InlinePool(build(config))) == total(0, InlinePool(build(config)))


def test_a_worker_that_prepares_between_requests_gives_the_same_bits(config):
    first, second = (gradient_requests(step, 5, 2, 2)[0] for step in (0, 1))
    ahead = Worker(build(config))
    ahead.run(first, theta(config))
    assert [ahead.between_requests() for _ in range(4)] == [True, True, True, False]
    fresh = Worker(build(config)).run(second, theta(config))
    assert ahead.run(second, theta(config)).buffer.tobytes() == fresh.buffer.tobytes()


def test_a_task_that_cannot_be_drawn_is_an_error_when_it_is_asked_for_and_not_before(tmp_path, monkeypatch):
    text = FAULTY.replace("episode.query.targets[0] = torch.nan", "raise RuntimeError('no such curve')")
    (tmp_path / "faulty_family.py").write_text(text.replace("Faulty", "Broken"))
    monkeypatch.delitem(sys.modules, "faulty_family", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    config = parse({**RAW, "task": {"family": "faulty_family:Broken", "bad": 7}, "shard": 1, "engine": "loop"})
    worker = Worker(build(config))
    first, second = (gradient_requests(step, 5, 1, 3)[0] for step in (0, 1))
    worker.run(first, theta(config))
    while worker.between_requests():
        pass
    with pytest.raises(MetarayError, match=r"^a worker failed at step 1 on train tasks 7 to 7: RuntimeError: no such"):
        worker.run(second, theta(config))


@pytest.mark.parametrize(
    ("workers", "shards", "level"),
    [
        *((1, 1, 0), (1, 13, 4), (1, 16, 4)),
        *((2, 2, 0), (2, 12, 1), (2, 13, 3), (2, 16, 3)),
        *((3, 16, 1), (4, 1, 0), (8, 40, 0), (8, 64, 3), (16, 16, 0), (64, 16, 0)),
    ],
)
def test_blocks_are_as_large_as_keeps_all_workers_busy(config, workers, shards, level):
    many = config.model_copy(update={"meta_batch": shards, "shard": 1})
    assert level_of(build(many), workers, workers) == level


@pytest.mark.parametrize("threads", [1, 2])
def test_a_worker_fixes_the_arithmetic_of_its_process(threads):
    Worker(build(parse({**RAW, "cluster": {"threads": threads}})))
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled()


def test_the_pool_answers_every_order_once(config):
    pool = InlinePool(build(config))
    orders = gradient_requests(0, 5, 2)
    background = pool.submit(scores_requests(0, "val", 5, 2, (0,)), theta(config), background=True)
    ticket = pool.submit(orders, theta(config))
    assert [reply.request for reply in pool.gather(ticket)] == orders
    assert background.complete
    assert len(list(pool.gather(background))) == 3
