"""What is said about a registered model: the card that fits, its tags, and differences of scores in words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.config.schema import Config, parse
from cluster.registry import card
from cluster.registry.champion import paired
from cluster.registry.fields import Field
from cluster.runs.checkpoint import Checkpoint
from cluster.runs.folder import RunFolder
from helpers.folders import make_run
from meta.engine.choice import Choice
from meta.objectives import CROSS_ENTROPY, MSE

ROW = {"mean": 0.5, "ci95": 0.125, "median": 0.4, "diverged": 0}
EVALUATION: dict[str, Any] = {
    "algorithm": "maml",
    "metric": "mse",
    "split": "test",
    "tasks": 600,
    "shot": 10,
    "query_per_class": 10,
    "batch_norm": None,
    "inner_lr": 0.01,
    "checkpoint_step": 3,
    "best_step": None,
    "steps": {"0": ROW, "10": ROW | {"mean": None, "ci95": None, "diverged": 2}},
    "baselines": {"pretrain": {"0": ROW, "10": ROW}},
}


class Regressor:
    """As much of a model as a card shows."""

    inputs = (Field("support_inputs", "float64", ("T", "S", 1)),)
    output = Field("predictions", "float32", ("T", "Q", 1))
    inner_lr = 0.01

    def __init__(self, inner_steps: int) -> None:
        self.inner_steps = inner_steps

    def predict(self, given: Any, inner_steps: int, inner_lr: float) -> Any:
        raise NotImplementedError


def run(tmp_path: Path, **changes: Any) -> tuple[RunFolder, Checkpoint]:
    raw = {"task": {"family": "sinusoid"}, "model": {"name": "mlp"}, "outer": {"steps": 3}, "meta_batch": 2, "seed": 7}
    config: Config = parse(raw | changes)
    state = Checkpoint(
        step=3,
        skipped=0,
        engine="trace",
        data="abc",
        config={},
        best=None,
        tensors={"theta.x": torch.zeros(1)},
    )
    return make_run(config, "run", Choice("trace", "", {}), tmp_path / "run"), state


def test_a_card_says_what_a_reader_needs(tmp_path: Path):
    folder, state = run(tmp_path)
    text = card.describe(folder, state, EVALUATION, Regressor(10), "f00d", "promoted to champion: there was none")
    lines = text.splitlines()
    for line in (
        "| mse after inner steps | 0 | 10 |",
        "| maml | 0.5 ± 0.12 | not finite, 2 diverged |",
        "| pretrain | 0.5 ± 0.12 | 0.5 ± 0.12 |",
        "- 600 tasks of the test split",
        "- promoted to champion: there was none",
        "- `support_inputs [T, S, 1] float64`",
        "- task family `sinusoid`, data of fingerprint `abc`",
        "- θ SHA-256 `f00d`",
        "seed: 7",
    ):
        assert line in lines
    assert lines[-1] == "```"


def test_a_card_has_the_kinds_of_task_and_the_warnings(tmp_path: Path):
    folder, state = run(tmp_path)
    kinds = {"kinds": {"forward": {"0": ROW, "10": ROW | {"ci95": None}}}, "kind_tasks": {"forward": 3}}
    evaluation = EVALUATION | kinds | {"warnings": ["the training does not learn: …"]}
    lines = card.describe(folder, state, evaluation, Regressor(10), "f00d", None).splitlines()
    assert "| maml, forward | 0.5 ± 0.12 | 0.5 |" in lines
    assert "- mean over kinds of task (3 forward)" in lines
    assert "- warning: the training does not learn: …" in lines


def test_a_long_card_is_cut_to_what_databases_hold(tmp_path: Path):
    folder, state = run(tmp_path, inner={"adapt": ["*", *(f"layer{number}.*" for number in range(500))]})
    text = card.describe(folder, state, EVALUATION, Regressor(10), "f00d", None)
    assert len(text) == card.LONGEST
    assert text.endswith("# … the rest is in config.yaml beside the model\n```\n")


def test_a_card_keeps_secrets(tmp_path: Path):
    folder, state = run(tmp_path)
    path = folder.path / "run.json"
    path.write_text(json.dumps(folder.info | {"hardware": "s3://key:s3cret@host/x?token=s3cret"}))
    text = card.describe(folder, state, EVALUATION, Regressor(10), "f00d", "http://me:s3cret@host")
    assert "s3cret" not in text
    assert "s3://***@host/x?token=***" in text


@pytest.mark.parametrize(("inner_steps", "expected"), [(0, ("0", "0.5")), (5, ("10", None))])
def test_tags_are_those_of_the_steps_taken_by_default(tmp_path: Path, inner_steps: int, expected: tuple[str, Any]):
    folder, state = run(tmp_path)
    tags = card.tags(folder, state, EVALUATION, Regressor(inner_steps), "f00d")
    assert (tags["metaray.inner_steps"], tags.get("metaray.mean")) == expected
    assert (tags["metaray.data"], tags["metaray.theta_sha256"]) == ("abc", "f00d")


def test_a_difference_is_a_gain_only_if_its_whole_interval_is():
    champion, gain, mixed = np.full(4, 0.5), np.array([0.1, 0.2, 0.1, 0.2]), np.array([0.5, -0.2, 0.5, -0.2])
    clear = paired(champion + gain, champion, CROSS_ENTROPY)
    assert clear.is_gain
    assert str(clear) == "accuracy better by 0.15 ± 0.092 on 4 test tasks"
    assert not paired(champion + mixed, champion, CROSS_ENTROPY).is_gain
    lower = paired(champion - gain, champion, MSE)
    assert (lower.mean, lower.ci95) == pytest.approx((clear.mean, clear.ci95))
    worse = paired(champion, champion + gain, CROSS_ENTROPY)
    assert not worse.is_gain
    assert str(worse) == "accuracy worse by 0.15 ± 0.092 on 4 test tasks"
    assert not paired(champion, champion, MSE).is_gain


def test_scores_that_are_not_finite_decide_nothing():
    lost = paired(np.array([1.0, np.inf, 1.0]), np.array([np.nan, 1.0, 2.0]), MSE)
    assert (lost.mean, lost.ci95, lost.lost, lost.is_gain) == (None, None, 2, False)
    assert str(lost) == "mse not comparable on 3 test tasks, 2 of which were not finite"
