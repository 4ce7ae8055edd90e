"""The commands as a user runs them: results, exit statuses, one clear message an error, nothing half-written."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.schema import load
from cluster.interrupts import stop_on_signals
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.training import run as training
from cluster.training.start import resume
from helpers.folders import new_run
from helpers.waiting import free_ports, wait_for

INLINE = ("cluster.workers=0",)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, small_settings) -> Path:
    """A folder that holds a finished small run; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    path = root / "small.yaml"
    path.write_text(yaml.safe_dump(small_settings(root)))
    config = load(path, INLINE)
    with stop_on_signals() as stop:
        training.run(resume(config, new_run(config, "run")), stop)
    return root / "runs" / "run"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of it, under the same configuration as ``config_file``."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / "run"))


def test_train_evaluate_and_report(metaray, finished, config_file, tmp_path):
    baselines = "eval.baselines=[pretrain, oracle]"
    status, output, errors = finished(metaray("train", str(config_file), baselines, "--json", "--verbose"))
    assert status == 0, errors
    assert "engine trace: vectorised over tasks\n" in errors
    assert "engine native passed over: compiling pays from 20000 training tasks on, this run has 140\n" in errors
    result = json.loads(output)
    assert {"run_id", "run_dir", "checkpoint", "steps", "seconds", "theta_sha256", "failures"} <= result.keys()
    evaluation = result["evaluation"]
    assert (evaluation["metric"], evaluation["split"], evaluation["tasks"]) == ("mse", "test", 10)
    for figures in (evaluation["steps"], *(evaluation["baselines"][name] for name in ("pretrain", "oracle"))):
        assert list(figures) == ["0", "1"]
        assert all({"mean", "ci95", "median", "diverged"} == set(row) for row in figures.values())
    folder = tmp_path / result["run_dir"]
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "learning_curves.png",
        "adaptation.png",
        "regression.png",
    }
    assert (folder / "report.html").is_file()
    assert json.loads((folder / "evaluation.json").read_text()) == evaluation

    # The same figures again, found by the MLflow run id; then another protocol.
    again = metaray("evaluate", result["run_id"], "--json", *INLINE)
    status, output, errors = finished(again)
    assert status == 0, errors
    assert json.loads(output) == evaluation
    other = metaray("evaluate", str(folder), "task.shot=3", "--tasks", "4", "--steps", "0,2", "--json", *INLINE)
    status, output, errors = finished(other)
    assert status == 0, errors
    assert (json.loads(output)["shot"], list(json.loads(output)["steps"])) == (3, ["0", "2"])

    (folder / "report.html").unlink()
    status, output, errors = finished(metaray("report", str(folder), "--json"))
    assert status == 0, errors
    assert Path(tmp_path, json.loads(output)["page"]).is_file()


USAGE_ERRORS = [
    (["task.shots=3"], "did you mean 'shot'"),
    (["task.shot=many"], "task.shot: expected a valid integer"),
    (["inner.lr=-0.1"], "inner.lr: expected greater than or equal to 0"),
    (["task.shot=100000"], "a sinusoid gives 1 to 10000 points per task, received 100000"),
    (["model.name=mpl"], "did you mean 'mlp'"),
    (["nonsense"], "section.key=value"),
]


@pytest.mark.parametrize(("overrides", "message"), USAGE_ERRORS)
def test_wrong_usage(config_file, tmp_path, monkeypatch, overrides, message):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["train", str(config_file), *overrides])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [config_file.name]


def test_a_missing_file_names_the_nearest(metaray, finished, config_file):
    status, _, errors = finished(metaray("train", str(config_file.with_name("smal.yaml"))))
    assert status == 2
    assert f"did you mean '{config_file}'" in errors


def test_an_address_that_does_not_answer(metaray, finished, config_file, unused_tcp_port):
    address = f"127.0.0.1:{unused_tcp_port}"
    status, output, errors = finished(metaray("train", str(config_file), f"cluster.address={address}"))
    assert (status, output) == (1, "")
    assert f"nothing answers at '{address}'" in errors
    assert "Traceback" not in errors


def test_a_diverging_run_stops_and_names_the_tasks(metaray, finished, config_file, tmp_path):
    status, output, errors = finished(
        metaray("train", str(config_file), "inner.lr=1e6", "inner.steps=5", "outer.lr=10", *INLINE)
    )
    assert (status, output) == (1, "")
    assert re.search(r"at step \d+ from train tasks \[\d+", errors)
    assert "Lower inner.lr" in errors
    assert "Traceback" not in errors


FAMILY = '''
from dataclasses import dataclass
from tasks.sinusoid import Sinusoid


@dataclass(frozen=True, kw_only=True)
class Mine:
    """Sinusoids of which one task may not be drawable."""

    bad: int = -1

    @property
    def spec(self):
        return Sinusoid().spec

    def draw(self, key):
        if key.split == "train" and key.index == self.bad:
            raise RuntimeError("no such curve")
        return Sinusoid().draw(key)
'''


def test_a_family_of_ones_own_in_the_working_directory(metaray, finished, config_file, tmp_path):
    (tmp_path / "my_tasks.py").write_text(FAMILY)
    config_file.write_text(config_file.read_text().replace("query: 5", "").replace("shot: 5", ""))
    mine = ("task.family=my_tasks:Mine", "cluster.workers=1")
    status, _, errors = finished(metaray("train", str(config_file), *mine, "task.bad=16"))
    assert status == 1
    # Two steps were computed by a worker process that found the module; the third names the task.
    assert "a worker failed at step 2 on train tasks 16 to 17: RuntimeError: no such curve" in errors
    assert "Traceback" not in errors


def test_auto_computes_small_work_alone_with_the_same_bits(metaray, finished, finished_run, config_file):
    status, output, errors = finished(metaray("train", str(config_file), "cluster.workers=auto", "--json"))
    assert status == 0, errors
    assert re.search(r"^cluster\.workers: 0 \(a shard takes .* in this process, .* and their start\)$", errors, re.M)
    result = json.loads(output)
    learned = checkpoints.newest(RunFolder(finished_run).checkpoints)
    alone = checkpoints.newest(RunFolder(Path(config_file.parent) / result["run_dir"]).checkpoints)
    assert {name: value.tolist() for name, value in alone.tensors.items()} == {
        name: value.tolist() for name, value in learned.tensors.items()
    }
    status, output, errors = finished(metaray("evaluate", str(config_file.parent / result["run_dir"]), "--json"))
    assert status == 0, errors
    assert json.loads(output)["tasks"] == 10


def test_debug_shows_the_trace(metaray, finished, config_file):
    status, _, errors = finished(metaray("train", str(config_file), "inner.lr=-1", "--debug"))
    assert status != 0
    assert "Traceback" in errors


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_checkpoint(metaray, finished, run, damage):
    folder = RunFolder(run)
    path = Path(folder.checkpoints.root) / checkpoints.step_name(20)
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data[:-10]) if damage == "cut" else bytes(data[:-10]) + bytes([data[-10] ^ 1]) + data[-9:])
    before = sorted(run.rglob("*"))
    status, output, errors = finished(metaray("train", "--resume", str(run), *INLINE))
    assert (status, output) == (1, "")
    assert path.name in errors
    assert "remove it" in errors
    assert "Traceback" not in errors
    assert sorted(run.rglob("*")) == before


def test_resuming_another_configuration(metaray, finished, run, config_file):
    status, _, errors = finished(metaray("train", str(config_file), "inner.lr=0.5", "--resume", str(run), *INLINE))
    assert status == 2
    assert "inner.lr: 0.01 there, 0.5 here" in errors


def test_evaluating_with_another_model(metaray, finished, run):
    status, _, errors = finished(metaray("evaluate", str(run), "model.hidden=[3]", *INLINE))
    assert status == 2
    assert "a run is evaluated with the model it was trained with" in errors


def test_a_run_that_does_not_exist(metaray, finished):
    status, _, errors = finished(metaray("evaluate", "nothing-here"))
    assert status == 2
    assert "expected a run's folder or an MLflow run id, received 'nothing-here'" in errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(metaray, finished, config_file, tmp_path, number):
    overrides = ["outer.steps=1000000", "checkpoint.every=1000000", "eval.every=0", "cluster.workers=2"]
    process = metaray("train", str(config_file), *overrides, start_new_session=True)
    metrics = wait_for_metrics(tmp_path)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: Ctrl-C reaches Ray's processes too
    else:
        process.send_signal(number)
    status, output, errors = finished(process)
    assert (status, output) == (1, ""), errors
    assert number.name in errors
    assert "metaray train --resume" in errors
    assert "Traceback" not in errors
    folder = RunFolder(metrics.parent)
    saved = checkpoints.newest(folder.checkpoints)
    assert saved is not None
    assert saved.step > 0


def wait_for_metrics(folder: Path) -> Path:
    def recorded() -> Path | None:
        return next((path for path in folder.glob("runs/*/metrics.jsonl") if path.stat().st_size), None)

    path = wait_for(recorded, "a step that is recorded")
    assert path is not None
    return path


@pytest.fixture
def unused_tcp_port() -> int:
    return free_ports(1)[0]


def test_help_is_there_without_ray(metaray, finished):
    status, output, _ = finished(metaray("--help"))
    assert status == 0
    assert all(command in output for command in ("train", "evaluate", "report"))
