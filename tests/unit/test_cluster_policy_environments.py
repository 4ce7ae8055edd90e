"""From a configuration of environments as they are to a run: the policy that fits, and what a result says of them."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from cluster.config.schema import Config, parse
from cluster.errors import ConfigError
from cluster.evaluation.protocol import conditions
from cluster.interrupts import stop_on_signals
from cluster.setups.build import build
from cluster.training import run as training
from cluster.training.recorder import OUTSIDE
from cluster.training.start import resume
from helpers.folders import new_run
from helpers.learning import Untracked

COURIER = {
    "family": "gymnasium",
    "id": "metaray/Courier-v0",
    "vary": {"column": [0, 4], "row": [0, 4]},
    "via": "options",
}


class Drifting(gymnasium.Env[Any, Any]):
    """Observations that leave their space after two steps."""

    observation_space = spaces.Box(0.0, 2.0, (1,), np.float64)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = self.np_random.random(1)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        self.place = self.place + 0.8
        return self.place.copy(), float(action), False, False, {}


gymnasium.register("metaray-test/Drifting-v0", Drifting)


def changed(tmp_path: Path, task: dict[str, Any], model: dict[str, Any], **sections: Any) -> Config:
    return parse(
        {
            "task": {"horizon": 4, "trajectories": 3, **task},
            "model": {"hidden": [3], **model},
            "inner": {"lr": 0.1},
            "outer": {"steps": 2, "step": "trpo"},
            "meta_batch": 2,
            "shard": 1,
            "engine": "loop",
            "eval": {"tasks": 2, "steps": [0, 1]},
            "cluster": {"workers": 0},
            "tracking": {"uri": f"sqlite:///{tmp_path / 'mlflow.db'}"},
            "checkpoint": {"root": str(tmp_path)},
            **sections,
        }
    )


@pytest.mark.parametrize("name", ["gaussian", "categorical"])
def test_the_policy_of_several_whole_numbers_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"actions of 2 whole numbers \(3, 3 values\) .* model.name=multi_categorical"
    ):
        build(changed(tmp_path, COURIER, {"name": name}))


def test_a_policy_of_several_whole_numbers_is_not_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"3 discrete actions .* set model.name=categorical"):
        build(changed(tmp_path, {"family": "tabular"}, {"name": "multi_categorical"}))


def test_the_protocol_says_how_observations_became_numbers(tmp_path: Path) -> None:
    setup = build(changed(tmp_path, COURIER, {"name": "multi_categorical"}))
    described = setup.describe("test") | {"tasks": 2, "split": "test", "metric": "return"}
    assert (
        "as 13 numbers by gymnasium's FlattenObservation, which writes whole numbers one-hot"
        in conditions(described)[2]
    )
    setup = build(changed(tmp_path, {"family": "tabular"}, {"name": "categorical"}))
    assert "encoding" not in setup.describe("test")


@pytest.mark.parametrize("outside", ["pass", "clip"])
def test_a_run_says_that_observations_left_their_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], outside: str
) -> None:
    monkeypatch.setattr(training, "_Tracking", Untracked)
    monkeypatch.setattr(training, "draw", lambda folder: [])
    task = {"family": "gymnasium", "id": "metaray-test/Drifting-v0", "outside": outside}
    config = changed(tmp_path, task, {"name": "categorical"})
    folder = new_run(config, "run")
    with stop_on_signals() as stop:
        outcome = training.run(resume(config, folder), stop)
    assert OUTSIDE in outcome.warnings
    assert capfd.readouterr().err.count(OUTSIDE) == 1
    assert OUTSIDE in json.loads((folder.path / "run.json").read_text())["warnings"]
