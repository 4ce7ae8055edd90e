"""``metaray bench --rollouts``: how fast workers sample, beside the environment alone."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.commands.cli import app

SETTINGS = {
    "task": {"family": "gymnasium", "id": "Pendulum-v1", "vary": {"g": [8.0, 12.0]}, "horizon": 5, "trajectories": 2},
    "model": {"name": "gaussian", "hidden": [4]},
    "outer": {"steps": 1, "step": "trpo"},
    "meta_batch": 4,
}


def bench(path: Path, settings: object, *options: str) -> tuple[int, str]:
    path.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(app, ["bench", "--rollouts", str(path), "--pairs", "2", *options])
    return done.exit_code, done.stdout or done.output


@pytest.mark.usefixtures("local_ray")
def test_both_rates_are_measured(tmp_path):
    status, output = bench(tmp_path / "pendulum.yaml", SETTINGS, "--workers", "1", "--json")
    assert status == 0, output
    found = json.loads(output)
    assert (found["family"], found["workers"], found["pairs"]) == ("gymnasium", 1, 2)
    assert found["steps_per_second"] > 0
    assert found["bare_steps_per_second"] > 0
    assert found["ratio"] > 0


@pytest.mark.parametrize("family", ["navigation", "sinusoid"])
def test_what_cannot_be_stepped_alone_is_refused(tmp_path, family):
    models = {"navigation": {"name": "gaussian"}, "sinusoid": {"name": "mlp"}}
    plain = {"task": {"family": family}, "model": models[family], "outer": {"steps": 1}, "meta_batch": 4}
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(plain))
    done = CliRunner().invoke(app, ["bench", "--rollouts", str(path)])
    assert done.exit_code == 2
    assert re.search(r"--rollouts: .*expected", done.output)
