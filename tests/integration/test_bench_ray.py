"""``metaray bench --workers``: a suite through pool and learner, and through processes with the engine alone."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from benchmarks.suites import SUITES
from cluster.bench import training as bench_ray
from cluster.commands.cli import app


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("name", ["sinusoid", "omniglot"])
def test_both_ways_are_measured(monkeypatch, name):
    changes = {"tasks": 3} if name == "sinusoid" else {"tasks": 2, "model": replace(SUITES[name].model, channels=4)}
    monkeypatch.setitem(SUITES, name, replace(SUITES[name], **changes))
    monkeypatch.setattr(bench_ray, "MOST_STEPS", 3)
    done = CliRunner().invoke(app, ["bench", name, "--workers", "2", "--pairs", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["suite"], found["workers"], found["tasks"], found["pairs"]) == (name, 2, changes["tasks"], 2)
    for way in ("ray", "alone"):
        assert found[way]["tasks_per_second"] * found[way]["milliseconds"] == pytest.approx(1e3 * changes["tasks"])
    assert found["ratio"] > 0
