"""Evaluation: which tasks are asked for, in which order their scores stand, and what is made of them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cluster.config.schema import Config, parse
from cluster.evaluation.scores import difference, evaluate, is_better, mean_score, start, table
from cluster.evaluation.summary import interval, summary
from cluster.setups.build import build
from cluster.workers.messages import ScoresReply, ScoresRequest, TaskRange, scores_requests
from cluster.workers.pool import InlinePool
from cluster.workers.worker import Worker
from meta.objectives import CROSS_ENTROPY, MSE, RETURN

SINUSOID: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 4, "query": 3},
    "model": {"name": "mlp", "hidden": [8], "init_std": None},
    "inner": {"lr": 0.05, "steps": 1},
    "outer": {"steps": 3},
    "meta_batch": 4,
    "shard": 3,
    "engine": "loop",
    "eval": {"tasks": 8, "val_tasks": 5, "steps": [0, 1, 3]},
    "cluster": {"workers": 0},
}
NAVIGATION: Mapping[str, Any] = {
    **SINUSOID,
    "task": {"family": "navigation", "horizon": 4, "trajectories": 3, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [5]},
    "eval": {"tasks": 8, "val_tasks": 5, "steps": [0, 1, 3], "later_lr": 0.5},
}


def theta(config: Config) -> np.ndarray:
    setup = build(config)
    return setup.layout.flatten(setup.initial_params()).numpy()


def own_scores(config: Config, split: Any, tasks: range) -> np.ndarray:
    """Scores as a worker of its own finds them in one go."""
    request = ScoresRequest(
        step=0,
        shard=0,
        tasks=TaskRange(split=split, start=tasks.start, stop=tasks.stop),
        inner_steps=config.eval.steps,
    )
    return Worker(build(config)).run(request, theta(config)).scores.astype(np.float64)


@pytest.mark.parametrize("raw", [SINUSOID, NAVIGATION], ids=["sinusoid", "navigation"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_an_evaluation_is_of_the_first_tasks_of_the_split_asked_for(raw, split):
    config = parse(raw)
    setup = build(config)
    found = evaluate(InlinePool(build(config)), config, setup, theta(config), split=split)
    scores = own_scores(config, split, range(8))
    assert list(found["steps"]) == ["0", "1", "3"]
    for column, row in enumerate(found["steps"].values()):
        assert row["mean"] == pytest.approx(scores[:, column].mean(), rel=1e-5)
        assert row["median"] == pytest.approx(np.median(scores[:, column]), rel=1e-5)
    said = {
        key: found[key] for key in ("algorithm", "metric", "split", "tasks", "way", "batch_norm", "inner_lr", "data")
    }
    assert said == {
        "algorithm": "maml",
        "metric": setup.algorithm.objective.metric,
        "split": split,
        "tasks": 8,
        "way": None,
        "batch_norm": None,
        "inner_lr": 0.05,
        "data": None,
    }
    sizes = {key: found.get(key) for key in ("shot", "query_per_class", "horizon", "later_lr")}
    assert list(sizes.values()) == ([4, 3, None, None] if raw is SINUSOID else [3, 3, 4, 0.5])


def test_the_protocol_of_a_classification_counts_by_class(make_store):
    task = {"family": "images", "root": str(make_store((8, 8, 1), 12)), "way": 3, "shot": 2, "query": 4}
    inner = {"lr": 0.4, "steps": 1, "adapt": ["*.weight", "*.bias"]}
    model = {"name": "conv4", "channels": 4, "blocks": 2}
    config = parse({**SINUSOID, "task": task, "inner": inner, "model": model})
    found = evaluate(InlinePool(build(config)), config, build(config), theta(config), split="test")
    assert (found["metric"], found["way"], found["shot"], found["query_per_class"]) == ("accuracy", 3, 2, 4)
    assert found["batch_norm"] is not None
    assert found["data"] == build(config).family.spec.data


def test_scores_stand_in_order_of_their_tasks_whatever_arrives_first():
    orders = scores_requests(0, "test", 8, 3, (0, 2))
    every = np.arange(16, dtype=np.float32).reshape(8, 2)
    replies = [ScoresReply(request=one, buffer=every[one.tasks.start : one.tasks.stop].reshape(-1)) for one in orders]
    found = table(replies[::-1])
    assert found.dtype == np.float64
    assert (found == every).all()
    assert mean_score(found, 1) == every[:, 1].mean()


def test_an_evaluation_is_background_work_on_the_tasks_from_a_number_on():
    config = parse(SINUSOID)

    class Noted(InlinePool):
        def submit(self, requests: Any, theta: Any, second: Any = None, *, background: bool = False) -> Any:
            self.background = background
            return super().submit(requests, theta, second, background=background)

    pool = Noted(build(config))
    ticket = start(pool, config, theta(config), step=4, split="val", tasks=5, steps=[1], first=20)
    assert pool.background
    ranges = [(order.tasks.split, order.tasks.start, order.tasks.stop) for order in ticket.requests]
    assert ranges == [("val", 20, 23), ("val", 23, 25)]
    assert {(order.kind, order.step, order.inner_steps) for order in ticket.requests} == {("scores", 4, (1,))}
    (first, *_) = start(pool, config, theta(config), step=4, split="val", tasks=5, steps=[1]).requests
    assert first.tasks.start == 0


@pytest.mark.parametrize(
    ("score", "best", "lower", "higher"),
    [
        (1.0, None, True, True),
        (1.0, 2.0, True, False),
        (2.0, 1.0, False, True),
        (1.0, 1.0, False, False),  # the first of equals stays
        (0.0, 1.0, True, False),
        (-1.0, 0.0, True, False),
        (0.0, 0.0, False, False),
        (math.nan, None, False, False),
        (math.inf, None, False, False),
        (-math.inf, None, False, False),
        (math.nan, 1.0, False, False),
        (-math.inf, 1.0, False, False),
        (math.inf, 1.0, False, False),
    ],
)
def test_which_of_two_scores_is_better(score, best, lower, higher):
    assert is_better(score, best, MSE) is lower
    assert is_better(score, best, CROSS_ENTROPY) is is_better(score, best, RETURN) is higher


def test_a_summary_says_what_is_not_finite():
    scores = np.array([[1.0, 1.0, 1.0], [2.0, math.inf, math.nan], [6.0, 2.0, 3.0]])
    rows = summary(scores, [0, 2, 5], MSE)
    assert list(rows) == ["0", "2", "5"]
    assert rows["0"]["mean"] == 3.0
    assert rows["0"]["ci95"] > 0
    assert rows["0"]["median"] == 2.0
    assert rows["0"]["diverged"] == 0
    assert rows["2"] == {"mean": None, "ci95": None, "median": 2.0, "diverged": 1}
    assert rows["5"] == {"mean": None, "ci95": None, "median": None, "diverged": 1}
    half = summary(np.array([[1.0, 1.0], [1.0, math.inf], [1.0, math.inf]]), [0, 1], MSE)["1"]
    assert half["median"] is None  # infinite itself


def test_an_interval_narrows_with_the_root_of_the_number_of_tasks():
    rng = np.random.Generator(np.random.Philox(3))
    values = rng.normal(size=250)
    few, many = interval(values), interval(np.tile(values, 4))
    assert few["mean"] == pytest.approx(values.mean())
    assert many["ci95"] == pytest.approx(few["ci95"] / 2, rel=0.02)
    assert interval(3 * values)["ci95"] == pytest.approx(3 * few["ci95"])
    assert few["ci95"] == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(250), rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_with_a_score_that_is_not_finite_is_none(bad, paired):
    fine, broken = np.array([1.0, 2.0, 3.0]), np.array([1.0, bad, 3.0])
    assert difference(broken, fine, paired=paired, higher_is_better=True) is None
    assert difference(fine, broken, paired=paired, higher_is_better=True) is None
    assert interval(broken) == {"mean": None, "ci95": None}


def test_a_difference_is_positive_where_the_first_is_better():
    one, other = np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 2.5, 3.0, 7.0])
    for paired in (True, False):
        lower = difference(one, other, paired=paired, higher_is_better=False)
        higher = difference(one, other, paired=paired, higher_is_better=True)
        assert lower is not None
        assert higher is not None
        assert (lower["mean"], higher["mean"]) == (0.875, -0.875)
        assert lower["ci95"] == higher["ci95"] > 0
