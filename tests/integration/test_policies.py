"""Meta reinforcement learning on real Ray: the same bits whoever computes, and whoever is lost on the way."""

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.schema import Config, parse
from cluster.interrupts import StopFlag
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.training.recorder import Recorder
from cluster.workers.messages import Flat, Request
from cluster.workers.pool import InlinePool, Pool, Ticket
from cluster.workers.ray_pool import RayPool
from helpers.folders import new_run

SETTINGS: dict[str, Any] = {
    "task": {"family": "navigation", "horizon": 10, "trajectories": 4, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [12]},
    "inner": {"lr": 0.1, "steps": 1},
    "outer": {"steps": 3, "step": "trpo"},
    "meta_batch": 7,
    "shard": 2,
    "eval": {"tasks": 6, "val_tasks": 4, "steps": [0, 1, 2], "later_lr": 0.5, "every": 2},
}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Config]:
    def config(workers: int, **outer: Any) -> Config:
        places = {"checkpoint": {"root": str(tmp_path / "runs")}, "cluster": {"workers": workers}}
        tracking = {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}", "every": 1}
        return parse({**SETTINGS, **places, "tracking": tracking, "outer": {**SETTINGS["outer"], **outer}})

    return config


class Silent:
    def update(self, step: int, metrics: object) -> None:
        pass


def trained(config: Config, pool: Pool) -> str:
    setup = build(config)
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    books = Recorder(config, setup, new_run(config, f"run{config.cluster.workers}"), pool, Silent())
    meta_train(config, learner, pool, books, StopFlag())
    assert learner.step == config.outer.steps
    return learner.fingerprint


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    """θ by outer step as computed without Ray; filled by the first test that needs it."""
    return {}


def expected(reference: dict[str, str], config: Config) -> str:
    name = config.outer.step
    if name not in reference:
        alone = config.model_copy(update={"cluster": config.cluster.model_copy(update={"workers": 0})})
        reference[name] = trained(alone, InlinePool(build(alone)))
        start = build(alone)
        untrained = Learner(alone.outer, start.layout, start.initial_params()).fingerprint
        assert reference[name] != untrained
    return reference[name]


@pytest.mark.parametrize(("workers", "step"), [(1, "trpo"), (2, "trpo"), (3, "trpo"), (2, "ppo"), (2, "gradient")])
def test_any_number_of_workers(local_ray, make, reference, workers, step):
    config = make(workers, step=step)
    pool = RayPool(build(config))
    try:
        assert trained(config, pool) == expected(reference, config)
    finally:
        pool.close()
    assert pool.failures == []


class Murderous:
    """A pool that loses a worker as soon as requests of a kind are submitted, while it holds the rollouts they need."""

    def __init__(self, pool: RayPool, kind: str, at: int) -> None:
        self._pool, self._kind, self._left = pool, kind, at
        self.killed = 0

    @property
    def failures(self) -> list[str]:
        return self._pool.failures

    def submit(
        self, requests: Sequence[Request], theta: Flat, second: Flat | None = None, *, background: bool = False
    ) -> Ticket:
        if requests[0].kind == self._kind:
            self._left -= 1
            if self._left == 0:
                self.killed = self._pool.pids[0]
                os.kill(self.killed, signal.SIGKILL)
        return self._pool.submit(requests, theta, second, background=background)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)


@pytest.mark.parametrize(
    ("step", "kind", "at"),
    [
        ("trpo", "fisher_product", 1),
        ("trpo", "fisher_product", 4),
        ("trpo", "surrogate_and_kl", 2),
        ("ppo", "gradient_at", 3),
    ],
    ids=["between sampling and conjugate gradient", "within conjugate gradient", "in the line search", "within ppo"],
)
def test_a_lost_worker_changes_no_bit(local_ray, make, reference, step, kind, at):
    config = make(2, step=step)
    pool = Murderous(RayPool(build(config)), kind, at)
    try:
        assert trained(config, pool) == expected(reference, config)
    finally:
        pool.close()
    assert pool.killed
    assert len(pool.failures) == 1


def test_train_resume_evaluate_and_report_from_the_command_line(metaray, finished, tmp_path):
    settings = {
        **SETTINGS,
        "eval": {**SETTINGS["eval"], "baselines": ["pretrain", "oracle"]},
        "checkpoint": {"root": str(tmp_path / "runs"), "every": 1},
        "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}", "every": 1},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    status, output, errors = finished(metaray("train", str(path), "--json"))
    assert status == 0, errors
    whole = json.loads(output)
    evaluation = whole["evaluation"]
    assert evaluation["metric"] == "return"
    assert set(evaluation["steps"]) == {"0", "1", "2"}
    assert set(evaluation["baselines"]) == {"pretrain", "oracle"}
    told = evaluation["baselines"]["oracle"]
    assert told["0"] == told["2"]
    assert {"learning_curves", "adaptation"} <= {Path(figure).stem for figure in whole["figures"]}

    # Begun for two steps and then gone on with, and without Ray: the same θ as in one piece.
    alone = ["eval.baselines=[]", "cluster.workers=0", "--json"]
    status, output, errors = finished(metaray("train", str(path), "outer.steps=2", *alone))
    assert status == 0, errors
    run = json.loads(output)["run_dir"]
    status, output, errors = finished(metaray("train", "--resume", run, "outer.steps=3", *alone))
    assert status == 0, errors
    assert json.loads(output)["theta_sha256"] == whole["theta_sha256"]

    status, output, errors = finished(metaray("evaluate", run, "--tasks", "5", "--steps", "0,3", "--json"))
    assert status == 0, errors
    assert set(json.loads(output)["steps"]) == {"0", "3"}
