"""What is kept beside a training: validation on validation tasks alone, the best θ, metrics, checkpoints."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config.schema import Config, parse
from cluster.errors import MetarayError
from cluster.interrupts import StopFlag
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.recorder import Recorder, Validated
from cluster.training.run import learn
from cluster.workers.messages import ScoresRequest, TaskRange
from cluster.workers.open import open_pool
from cluster.workers.worker import Worker
from helpers.folders import make_run
from tasks.family import SPLITS, Split

SINUSOID: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 4, "query": 3},
    "model": {"name": "mlp", "hidden": [8], "init_std": None},
    "inner": {"lr": 0.05, "steps": 1},
    # Steps so large that θ is now better, now worse.
    "outer": {"steps": 6, "lr": 0.3},
    "meta_batch": 4,
    "shard": 2,
    "engine": "loop",
    "eval": {"every": 1, "val_tasks": 5, "tasks": 5, "steps": [0, 2]},
    "checkpoint": {"every": 1, "keep": 100},
    "tracking": {"every": 1},
    "cluster": {"workers": 0},
}
NAVIGATION: Mapping[str, Any] = {
    **SINUSOID,
    "task": {"family": "navigation", "horizon": 4, "trajectories": 3, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [5]},
    "inner": {"lr": 0.1, "steps": 1},
    "outer": {"steps": 6, "lr": 0.5},
}
FAMILIES = pytest.mark.parametrize("raw", [SINUSOID, NAVIGATION], ids=["lower_is_better", "higher_is_better"])


class Quiet:
    def update(self, step: int, metrics: object) -> None:
        pass


class Run:
    """A training in this process, with all that it has left in its folder."""

    def __init__(self, raw: Mapping[str, Any], path: Path, **sections: Any) -> None:
        self.config: Config = parse({**raw, **sections})
        self.setup = build(self.config)
        if not (path / "run.json").exists():
            make_run(self.config, "run", self.setup.choice, path)
        self.folder = RunFolder(path)
        self.validated: list[Validated] = []
        self.stop, self.last = StopFlag(), math.inf

    def on_validation(self, validated: Validated) -> None:
        self.validated.append(validated)
        if validated.state.step >= self.last:
            self.stop.reason = "a test"

    def go(self) -> Learner:
        """Train on from the newest checkpoint, until the end or the validation of step ``last``."""
        saved = checkpoints.newest(self.folder.checkpoints)
        with open_pool(build(self.config)) as pool:
            recorder = Recorder(self.config, self.setup, self.folder, pool, Quiet(), self.on_validation)
            return learn(pool, self.config, self.setup, recorder, saved, self.stop)

    def state(self, step: int) -> Checkpoint:
        return checkpoints.load(self.folder.checkpoints, checkpoints.step_name(step))

    @property
    def metrics(self) -> dict[int, dict[str, float]]:
        """What is recorded, by step."""
        found: dict[int, dict[str, float]] = {}
        for line in self.folder.metrics_path.read_text().splitlines():
            record = json.loads(line)
            found.setdefault(record["step"], {}).update(record["values"])
        return found

    def column(self, steps: int) -> dict[int, float]:
        """Validation scores after a number of inner steps, by outer step."""
        name = f"val/{self.setup.algorithm.objective.metric}_{steps}"
        return {step: values[name] for step, values in self.metrics.items() if name in values}

    def best(self, until: int) -> tuple[float, int]:
        """The best validation score up to an outer step, and where it was reached first."""
        sign = -1 if self.setup.algorithm.objective.higher_is_better else 1
        scores = self.column(self.config.select_steps)
        step = min((step for step in scores if step <= until), key=lambda step: (sign * scores[step], step))
        return scores[step], step

    def score(self, state: Checkpoint, split: Split, steps: int) -> float:
        """The mean score of a state's θ on the first tasks of a split, as a worker of its own finds it."""
        tasks = TaskRange(split=split, start=0, stop=self.config.eval.val_tasks)
        request = ScoresRequest(step=state.step, shard=0, tasks=tasks, inner_steps=(steps,))
        theta = self.setup.layout.flatten(state.params).numpy()
        return float(Worker(build(self.config)).run(request, theta).scores.astype(np.float64).mean())


@FAMILIES
def test_validation_scores_the_validation_tasks_and_no_others(tmp_path, raw):
    run = Run(raw, tmp_path / "run", outer={**raw["outer"], "steps": 2})
    run.go()
    for steps in (0, 1, 2):  # those asked for, and those that pick the best
        recorded = run.column(steps)
        assert recorded.keys() == {1, 2}
        for step, value in recorded.items():
            of = {split: run.score(run.state(step), split, steps) for split in SPLITS}
            assert value == pytest.approx(of["val"], rel=1e-5)
            assert all(value != pytest.approx(of[split], rel=1e-3) for split in SPLITS if split != "val")


@FAMILIES
def test_the_theta_of_the_best_validation_is_kept(tmp_path, raw, same_bits):
    run = Run(raw, tmp_path / "run")
    run.go()
    scores = run.column(run.config.select_steps)
    assert len(set(scores.values())) == 6
    value, step = run.best(6)
    worst = max(scores, key=lambda one: abs(scores[one] - value))
    assert step not in (6, worst)  # neither the last one nor the other end
    name, best = checkpoints.chosen(run.folder.checkpoints)
    assert name == checkpoints.BEST
    assert (best.step, best.best) == (step, (pytest.approx(value), step))
    assert same_bits(best.tensors, run.state(step).tensors)
    assert not same_bits(best.params, run.state(worst).params)


def test_a_checkpoint_knows_every_validation_up_to_its_step(tmp_path):
    run = Run(SINUSOID, tmp_path / "run")
    run.go()
    for step in range(1, 7):
        assert run.state(step).best == run.best(step)


def test_validations_are_told_once_each_with_their_state(tmp_path):
    run = Run(SINUSOID, tmp_path / "run", eval={**SINUSOID["eval"], "every": 2})
    run.go()
    assert [one.state.step for one in run.validated] == [2, 4, 6]
    for one in run.validated:
        step = one.state.step
        assert one.means == {steps: run.column(steps)[step] for steps in (0, 1, 2)}
        assert one.state.best == run.best(step)
        assert torch.equal(one.state.params["layer0.weight"], run.state(step).params["layer0.weight"])


def test_the_share_of_diverged_tasks_is_that_after_the_steps_that_pick_the_best(tmp_path):
    for lr, expected in ((0.001, 0.0), (50.0, 1.0)):
        run = Run(
            SINUSOID,
            tmp_path / str(lr),
            inner={"lr": lr, "steps": 0},
            eval={**SINUSOID["eval"], "steps": [0, 2], "select_steps": 2},
            outer={"steps": 1},
        )
        run.go()
        assert [one.diverged for one in run.validated] == [expected]
    run = Run(SINUSOID, tmp_path / "none", inner={"lr": 50.0, "steps": 0}, outer={"steps": 1})
    run.go()  # here θ is picked before any inner step
    assert [one.diverged for one in run.validated] == [0.0]


def test_a_score_that_is_not_finite_is_never_the_best(tmp_path):
    run = Run(
        SINUSOID,
        tmp_path / "run",
        inner={"lr": 1e30, "steps": 0},
        eval={**SINUSOID["eval"], "select_steps": 9},
    )
    run.go()
    assert list(run.column(9).values()) == [None] * 6
    assert checkpoints.BEST not in run.folder.checkpoints.names()
    assert all(run.state(step).best is None for step in (1, 6))


def test_a_run_that_goes_on_keeps_its_best_and_repeats_no_line(tmp_path, same_bits):
    whole, parts = Run(SINUSOID, tmp_path / "whole"), Run(SINUSOID, tmp_path / "parts")
    last = whole.go()
    parts.last = 4
    assert parts.go().step < 6
    again = Run(SINUSOID, tmp_path / "parts")
    assert again.go().fingerprint == last.fingerprint
    assert again.best(6) == whole.best(6)
    for name in (checkpoints.BEST, checkpoints.step_name(6)):
        one, other = (checkpoints.load(each.folder.checkpoints, name) for each in (whole, again))
        assert (one.step, one.best) == (other.step, other.best)
        assert same_bits(one.tensors, other.tensors)
    records = map(json.loads, again.folder.metrics_path.read_text().splitlines())
    recorded = [(record["step"], name) for record in records for name in record["values"]]
    assert len(recorded) == len(set(recorded))
    assert again.column(2) == whole.column(2)


@pytest.mark.parametrize(
    ("every", "keep", "expected"), [(2, 100, [2, 4, 5]), (2, 2, [4, 5]), (9, 1, [5]), (5, 3, [5]), (1, 3, [3, 4, 5])]
)
def test_checkpoints_are_written_when_due_and_at_the_end(tmp_path, every, keep, expected):
    run = Run(
        SINUSOID,
        tmp_path / "run",
        outer={**SINUSOID["outer"], "steps": 5},
        eval={**SINUSOID["eval"], "every": 0},
        checkpoint={"every": every, "keep": keep},
    )
    learner = run.go()
    assert run.folder.checkpoints.names() == [checkpoints.step_name(step) for step in expected]
    assert not run.validated
    state = run.state(5)
    assert (state.step, state.skipped, state.engine, state.best) == (5, 0, "loop", None)
    assert parse(state.config) == run.config
    assert all(torch.equal(value, state.params[name]) for name, value in learner.params.items())


def test_the_last_theta_is_validated_whatever_the_rhythm(tmp_path):
    run = Run(SINUSOID, tmp_path / "run", eval={**SINUSOID["eval"], "every": 4})
    run.go()
    assert run.column(0).keys() == {4, 6}


def test_training_metrics_are_means_over_the_steps_since_the_last_line(tmp_path):
    run = Run(SINUSOID, tmp_path / "run", tracking={"every": 2}, eval={"every": 0}, checkpoint={"every": 9})
    learner = Learner(run.config.outer, run.setup.layout, run.setup.initial_params())
    with open_pool(build(run.config)) as pool:
        recorder = Recorder(run.config, run.setup, run.folder, pool, Quiet())
        for loss in (1.0, 3.0, 10.0, 20.0, 7.0):
            learner.skip()
            recorder.after_step(learner, {"loss": loss, "half": loss / 2})
        recorder.close()
    found = run.metrics
    assert found.keys() == {2, 4}
    assert [(one["train/loss"], one["train/half"]) for one in found.values()] == [(2.0, 1.0), (15.0, 7.5)]
    assert all(0 < one["train/steps_per_second"] < math.inf for one in found.values())


def test_the_rate_is_steps_by_seconds(tmp_path, monkeypatch):
    clock = iter([100.0, 104.0, 105.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    run = Run(SINUSOID, tmp_path / "run", tracking={"every": 2}, eval={"every": 0}, checkpoint={"every": 9})
    learner = Learner(run.config.outer, run.setup.layout, run.setup.initial_params())
    with open_pool(build(run.config)) as pool:
        recorder = Recorder(run.config, run.setup, run.folder, pool, Quiet())
        for _ in range(4):
            learner.skip()
            recorder.after_step(learner, {})
        monkeypatch.undo()
        recorder.close()
    assert [one["train/steps_per_second"] for one in run.metrics.values()] == [0.5, 2.0]


def test_a_checkpoint_that_cannot_be_written_is_not_passed_over(tmp_path, monkeypatch):
    run = Run(SINUSOID, tmp_path / "run", eval={**SINUSOID["eval"], "every": 0})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MetarayError, match=r"step-000000001\.safetensors: .*No space left"):
        run.go()
