"""Searches on a real Ray and a real MLflow server: found, interrupted, resumed, registered, loaded elsewhere."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from cluster.config.schema import parse
from cluster.interrupts import stop_on_signals
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.search import run as searches
from cluster.search.folder import SearchFolder
from cluster.search.points import points
from cluster.search.ranking import Result
from cluster.search.settings import Search, load
from cluster.search.tuner import Suggested
from cluster.training.run import run
from cluster.training.start import resume
from helpers.commands import kill
from helpers.folders import make_search, new_run
from helpers.waiting import wait_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def search_file(settings: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write a search over the small settings; keywords change the section ``search``."""

    def write(space: dict[str, Any], also: dict[str, Any] | None = None, **changes: Any) -> Path:
        base = settings | {"outer": {"steps": 40}, "cluster": {"workers": 0}}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        section = {"base": "base.yaml", "space": space, "metric": "val/mse_1", "confirm": 2, "confirm_tasks": 12}
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({"search": section | changes, **(also or {})}))
        return path

    return write


def searched(search: Search, folder: SearchFolder | None = None) -> Result:
    with stop_on_signals() as stop:
        return searches.run(search, folder or make_search(search, "search"), stop)


def alone(search: Search, values: dict[str, Any], tmp_path: Path) -> str:
    """θ that the configuration of a trial gives when it is trained as any other."""
    config = search.config(values)
    with stop_on_signals() as stop:
        return run(resume(config, new_run(config, "alone", tmp_path / "alone")), stop).theta_sha256


def theta_of(folder: RunFolder) -> str:
    from meta.params import Layout, fingerprint

    state = checkpoints.newest(folder.checkpoints)
    assert state is not None
    return fingerprint(Layout.of(state.params).flatten(state.params))


PREDICT = """
import json, sys
import mlflow, numpy as np
model = mlflow.pyfunc.load_model("models:/found@champion")
inputs = json.loads(sys.stdin.read())
data = {name: np.asarray(value, dtype=np.float64) for name, value in inputs.items()}
print(json.dumps(np.asarray(model.predict(data)).tolist()))
"""


def test_search_register_and_predict_elsewhere(search_file, metaray, finished, mlflow_server, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    space = {"inner.lr": {"grid": [0.001, 0.02, 1.0e6]}, "outer.lr": {"grid": [0.001, 0.01]}}
    path = search_file(
        space,
        searcher="grid",
        register_as="found",
        alias="champion",
        also={"cluster": {"workers": 1}, "tracking": {"uri": None}},
    )
    status, output, errors = finished(metaray("tune", str(path), "--json"))
    assert status == 0, errors
    result = json.loads(output)
    assert result["warnings"] == []
    assert [trial["status"] in ("finished", "stopped") for trial in result["trials"]] == [True] * 4 + [False] * 2
    assert [trial["status"] for trial in result["trials"][4:]] == ["diverged", "diverged"]
    best = result["best"]
    assert best["value"] == min(t["value"] for t in result["trials"] if str(t["trial"]) in result["confirmed"])
    assert best["config"]["inner"]["lr"] == best["values"]["inner.lr"]
    assert {Path(figure).name for figure in result["figures"]} >= {"landscape.png", "parallel_coordinates.png"}

    client = mlflow.MlflowClient(mlflow_server.uri)
    own = client.get_run(result["run_id"])
    assert own.info.status == "FINISHED"
    assert {"search.html", "result.json", "search.yaml", "figures"} <= {
        item.path for item in client.list_artifacts(result["run_id"])
    }
    below = client.search_runs([own.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result['run_id']}'")
    assert len(below) == 6
    assert sorted(kept.info.status for kept in below).count("FAILED") == 2
    assert {kept.data.params["inner.lr"] for kept in below} == {"0.001", "0.02", "1000000.0"}

    assert result["registered"]["promoted"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    inputs = {
        "support_inputs": [[[-1.0], [0.0], [1.0]]] * 2,
        "support_targets": [[[1.0], [0.0], [1.0]]] * 2,
        "query_inputs": [[[0.5], [0.2]]] * 2,
    }
    done = subprocess.run(
        [sys.executable, "-c", PREDICT],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        input=json.dumps(inputs),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    predictions = json.loads(done.stdout)
    assert len(predictions) == 2
    assert predictions[0] == predictions[1]
    assert len(predictions[0]) == 2


def test_a_search_killed_and_resumed_has_the_same_trials(search_file, metaray, finished, tmp_path):
    space = {"inner.lr": {"loguniform": [0.001, 0.1]}, "outer.lr": {"loguniform": [0.0005, 0.005]}}
    path = search_file(
        space, trials=3, searcher="quasi_random", scheduler="none", at_once=1, also={"outer": {"steps": 2000}}
    )
    search = load(path)
    process = metaray("tune", str(path))
    trials = tmp_path / "runs"
    wait_for(lambda: any(trials.glob("*/trials/001/checkpoints/step-*.safetensors")), "the second trial's checkpoint")
    kill(process)
    (folder,) = (SearchFolder(found) for found in trials.iterdir())
    before = folder.trials()
    assert before[0].over
    assert not all(trial.over for trial in before)
    first = folder.run(1).metrics_path.read_bytes()

    status, output, errors = finished(metaray("tune", "--resume", str(folder.path), "--json"))
    assert status == 0, errors
    result = json.loads(output)
    assert [trial["values"] for trial in result["trials"]] == points(search)
    assert {trial["status"] for trial in result["trials"]} == {"finished"}
    assert result["trials"][0]["value"] == before[0].value
    whole = first[: first.rfind(b"\n") + 1]
    assert folder.run(1).metrics_path.read_bytes().startswith(whole)  # went on, and repeated nothing
    assert theta_of(folder.run(1)) == alone(search, points(search)[1], tmp_path)


FRAGILE = """
import os, signal
from pathlib import Path
from tasks.sinusoid import Sinusoid

class Fragile:
    def __init__(self, shot: int = 5, query: int = 5):
        self._sinusoid = Sinusoid(shot=shot, query=query)

    @property
    def spec(self):
        return self._sinusoid.spec

    def draw(self, key):
        mark = Path(os.environ["FRAGILE"])
        if key.split == "train" and key.index == 7 * 25 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self._sinusoid.draw(key)
"""


def test_a_trial_that_dies_goes_on_from_its_checkpoint(search_file, metaray, finished, monkeypatch, tmp_path):
    (tmp_path / "fragile.py").write_text(FRAGILE)
    monkeypatch.setenv("FRAGILE", str(tmp_path / "mark"))
    space = {"inner.lr": {"choice": [0.01, 0.02]}}
    task = {"task": {"family": "fragile:Fragile"}}
    path = search_file(space, trials=1, at_once=1, scheduler="none", also=task)
    status, output, errors = finished(metaray("tune", str(path), "--json"))
    assert status == 0, errors
    (trial,) = json.loads(output)["trials"]
    assert trial["status"] == "finished"
    assert (tmp_path / "mark").exists()
    raw = yaml.safe_load((tmp_path / "base.yaml").read_text())
    search = load(search_file(space, trials=1, at_once=1, scheduler="none"))
    assert parse(raw).task == search.base.task
    assert theta_of(RunFolder(Path(trial["run_dir"]))) == alone(search, trial["values"], tmp_path)


def test_a_trial_that_cannot_run_is_reported_and_the_others_go_on(local_ray, search_file):
    # Each value is valid by itself, 13 tasks a shard are too many for a meta-batch of 7.
    space = {"shard": {"grid": [2, 7]}, "meta_batch": {"grid": [7, 4]}, "inner.lr": {"grid": [0.01]}}
    search = load(search_file(space, searcher="grid", confirm=1, also={"outer": {"steps": 20}}, scheduler="none"))
    result = searched(search)
    assert [trial.status for trial in result.trials] == ["finished", "finished", "finished", "failed"]
    failed = result.trials[3]
    assert failed.error is not None
    assert "shard: expected at most meta_batch (4)" in failed.error
    assert failed.value is None


def test_a_population_takes_over_what_the_best_have_learnt(local_ray, search_file):
    space = {"outer.lr": {"loguniform": [1.0e-6, 0.003]}}
    search = load(
        search_file(
            space, trials=4, scheduler="pbt", grace=20, at_once=3, also={"outer": {"steps": 120}, "eval": {"every": 10}}
        )
    )
    result = searched(search)
    assert {trial.status for trial in result.trials} == {"finished"}
    took_over = []
    for trial in result.trials:
        lines = result.folder.run(trial.number).metrics_path.read_text().splitlines()
        values = [json.loads(line)["values"] for line in lines]
        took_over += [value["search/outer.lr"] for value in values if "search/outer.lr" in value]
        state = checkpoints.newest(result.folder.run(trial.number).checkpoints)
        assert state is not None
        assert state.step == 120
        assert search.values_of(state.config) == trial.values
        assert search.space.holds(trial.values)
    assert took_over, "no trial took anything over"


def test_suggestions_are_interrupted_and_go_on(search_file, metaray, finished, tmp_path):
    space = {"inner.lr": {"loguniform": [0.001, 0.1]}, "algorithm": {"choice": ["maml", "fomaml"]}}
    path = search_file(space, trials=6, searcher="tpe", at_once=2, also={"outer": {"steps": 400}})
    process = metaray("tune", str(path))
    wait_for(lambda: any(f.over for f in found(tmp_path)), "the first trial's end")
    process.send_signal(signal.SIGTERM)
    status, _, errors = finished(process)
    assert status == 1
    assert "metaray tune --resume" in errors
    before = found(tmp_path)
    assert not any(trial.status == "stopped" for trial in before if trial.steps == 0)

    (folder,) = (tmp_path / "runs").iterdir()
    status, output, errors = finished(metaray("tune", "--resume", str(folder), "--json"))
    assert status == 0, errors
    result = json.loads(output)
    assert len(result["trials"]) == 6
    for one in before:
        assert result["trials"][one.number]["values"] == one.values
        if one.over:
            assert result["trials"][one.number]["value"] == one.value
    assert {trial["status"] for trial in result["trials"]} <= {"finished", "stopped", "diverged"}


def test_numbers_of_trials_are_given_once():
    # Of eight trials 0, 1 and 4 are over, 2 and 3 were under way.
    asked: list[int] = []
    searcher = Suggested({3: {"a": 3}, 2: {"a": 2}}, lambda number: asked.append(number) or {"a": number}, range(5, 8))
    given = [searcher.suggest("")["point"] for _ in range(5)]
    assert given == [{"number": number, "a": number} for number in (2, 3, 5, 6, 7)]
    assert asked == [5, 6, 7]
    assert searcher.suggest("") == searcher.FINISHED


def found(tmp_path: Path) -> list[Any]:
    runs = tmp_path / "runs"
    return [trial for folder in (runs.iterdir() if runs.exists() else ()) for trial in SearchFolder(folder).trials()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.yaml"], "expected a configuration file at 'missing.yaml'"),
        ([], "expected a search file, received none"),
        (["--resume", "nothing"], "expected a search's folder"),
        (["small.yaml", "search.metric=val/mse_7"], "expected one that trials report"),
        (["small.yaml", "search.space={iner.lr: {uniform: [0, 1]}}"], "did you mean 'inner'"),
        (["small.yaml", "search.register_as=a/b"], "a/b"),
    ],
)
def test_bad_input_leaves_nothing(arguments, said, search_file, metaray, finished, tmp_path):
    search_file({"inner.lr": {"uniform": [0, 1]}}, trials=2)
    status, output, errors = finished(metaray("tune", *arguments))
    assert status == 2
    assert said in errors
    assert output == ""
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
