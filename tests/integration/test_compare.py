"""Comparisons on a real Ray and a real MLflow: the guide's example, interrupted and resumed, under each budget."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml

from cluster.compare import folder as folders
from cluster.compare import run as comparisons
from cluster.compare.folder import CompareFolder
from cluster.compare.picture import draw
from cluster.compare.result import Result, gather
from cluster.compare.settings import Comparison, load
from cluster.compare.trial import train_row
from cluster.interrupts import stop_on_signals
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder, beginning
from cluster.search.trials import Trial
from cluster.training.run import run
from cluster.training.start import resume
from helpers.folders import new_run
from helpers.pages import Page
from helpers.waiting import HANGS_AFTER, wait_for
from meta.params import Layout, fingerprint

ROOT = Path(__file__).parents[2]
(EXAMPLE,) = re.findall(r"```yaml\n(compare:.*?)```", (ROOT / "docs" / "compare.md").read_text(), re.DOTALL)
ROWS = {"maml": {}, "first order": {"algorithm": "fomaml"}}


@pytest.fixture
def compare_file(settings: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Write a comparison over the small settings; keywords change the section ``compare``."""

    def write(also: dict[str, Any] | None = None, **changes: Any) -> Path:
        base = settings | {"outer": {"steps": 40}, "cluster": {"workers": 0}}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        section = {"base": "base.yaml", "budget": {"steps": 30}, "seeds": 2, "rows": ROWS} | changes
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump({"compare": section, **(also or {})}, sort_keys=False))
        return path

    return write


def compared(comparison: Comparison, folder: CompareFolder | None = None) -> Result:
    with stop_on_signals() as stop:
        return comparisons.run(comparison, folder or folders.plan(comparison, "small"), stop)


def theta_of(folder: RunFolder) -> str:
    state = checkpoints.newest(folder.checkpoints)
    assert state is not None
    return fingerprint(Layout.of(state.params).flatten(state.params))


def table(rows: list[dict[str, Any]]) -> list[Any]:
    """A result's rows without what depends on the clock or the place."""
    runs = [[run[key] for key in ("seed", "steps", "mean", "ci95")] for row in rows for run in row["runs"]]
    return [[row["name"], row["steps"], row["evaluation"], row["difference"]] for row in rows] + runs


def undisturbed(comparison: Comparison, path: Path) -> Result:
    """The result of trials that run one after another in this process, without Ray."""
    folder = CompareFolder(path, beginning("whole"))
    folder.settle(folders.SETTINGS, comparison.to_yaml())
    for number, values in enumerate(comparison.points()):
        status, error = train_row(comparison, values, "whole", folder.run(number).path, None, lambda *_: None)
        folder.write(Trial(number=number, values=values, status=status, error=error))
    return gather(comparison, folder)


@pytest.mark.timeout(4 * HANGS_AFTER)
def test_the_example_of_the_guide_is_interrupted_and_gives_the_same_table(metaray, finished, tmp_path):
    shutil.copy(ROOT / "tune_configs" / "sinusoid_demo.yaml", tmp_path)
    (tmp_path / "example.yaml").write_text(EXAMPLE)
    words = ["compare.at_once=1", "eval.tasks=40", "eval.val_tasks=20"]
    process = metaray("compare", "example.yaml", *words, "--name", "cut")
    trials = tmp_path / "runs" / "cut" / "trials"
    wait_for(
        lambda: any(trials.glob("001/checkpoints/step-*.safetensors")), "the second run's checkpoint", 2 * HANGS_AFTER
    )
    process.send_signal(signal.SIGTERM)
    status, output, errors = finished(process)
    assert (status, output) == (1, "")
    assert "metaray compare --resume" in errors
    assert not (tmp_path / "runs" / "cut" / "result.json").exists()

    status, output, errors = finished(metaray("compare", "--resume", "runs/cut", "--json"), 2 * HANGS_AFTER)
    assert status == 0, errors
    cut = json.loads(output)
    assert table(cut["rows"]) == table(undisturbed(load(tmp_path / "example.yaml", words), tmp_path / "whole").rows)
    assert {"name", "steps", "seconds", "peak_memory_mb", "evaluation"} <= cut["rows"][0].keys()
    assert [row["name"] for row in cut["rows"]] == ["maml", "two inner steps"]
    for row in cut["rows"]:
        assert row["steps"] == 400
        assert row["seconds"] > 0
        assert row["peak_memory_mb"] > 100
        assert row["parameters"] == 1761
        assert [run["status"] for run in row["runs"]] == ["finished", "finished"]
        figures = row["evaluation"]["steps"]["5"]
        assert figures["mean"] == pytest.approx(np.mean([run["mean"] for run in row["runs"]]))
    assert cut["rows"][0]["difference"] is None
    mean = [row["evaluation"]["steps"]["5"]["mean"] for row in cut["rows"]]
    assert cut["rows"][1]["difference"]["mean"] == pytest.approx(mean[0] - mean[1])  # an error: less is better

    assert [Path(path).name for path in cut["figures"]] == ["comparison.png"]
    page = Page(Path(cut["page"]).read_text())
    assert [row[0] for row in page.tables[0]] == ["row", "maml", "two inner steps"]
    assert len(page.tables[1]) == 1 + 4

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    own = client.get_run(cut["run_id"])
    assert own.info.status == "FINISHED"
    assert own.data.metrics["row_1/mse"] == pytest.approx(mean[1])
    assert {"compare.html", "compare.yaml", "compare.json", "result.json", "figures"} <= {
        item.path for item in client.list_artifacts(cut["run_id"])
    }
    below = client.search_runs([own.info.experiment_id], f"tags.`mlflow.parentRunId` = '{cut['run_id']}'")
    assert sorted((one.data.params["compare.row"], one.data.params["seed"]) for one in below) == sorted(
        (row["name"], str(seed)) for row in cut["rows"] for seed in (0, 1)
    )
    assert {one.info.status for one in below} == {"FINISHED"}


def test_a_run_of_a_comparison_is_a_run_like_any_other(local_ray, compare_file, tmp_path):
    comparison = load(compare_file(also={"cluster": {"workers": 1}}, seeds=[1]))
    result = compared(comparison)
    assert result.warnings == []
    point = {"row": "first order", "seed": 1}
    folder = result.folder.run(comparison.points().index(point))
    config = comparison.config(point)
    with stop_on_signals() as stop:
        alone = run(resume(config, new_run(config, "alone", tmp_path / "alone")), stop)
    assert theta_of(folder) == alone.theta_sha256
    # Scored on the tasks of the base's seed, not of its own.
    assert folder.config.seed == 1
    evaluation = json.loads((folder.path / "evaluation.json").read_text())
    assert evaluation["steps"]["1"]["mean"] != alone.evaluation["steps"]["1"]["mean"]
    assert result.rows[1]["runs"][0]["mean"] == evaluation["steps"]["1"]["mean"]

    # Gone through again it trains nothing and says the same; another seed is added to it.
    before = {path: path.stat().st_mtime_ns for path in result.folder.path.glob("trials/*/checkpoints/*")}
    again = compared(comparison, folders.find(str(result.folder.path)))
    assert again.rows == result.rows
    longer = compared(load(compare_file(also={"cluster": {"workers": 1}}, seeds=[1, 2])), again.folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [len(row["runs"]) for row in longer.rows] == [2, 2]
    assert [row["runs"][:1] for row in longer.rows] == [row["runs"] for row in result.rows]


def test_a_budget_of_seconds_ends_with_the_step_after_them(compare_file, tmp_path):
    comparison = load(compare_file(budget={"seconds": 1.0}, seeds=1, also={"outer": {"steps": 10**6}}))
    result = undisturbed(comparison, tmp_path / "whole")
    assert result.warnings == []
    for row in result.rows:
        assert 0 < row["steps"] < 10**6
        assert 1.0 <= row["seconds"] < 60.0
        state = checkpoints.newest(RunFolder(Path(row["runs"][0]["run_dir"])).checkpoints)
        assert state is not None
        assert state.step == row["steps"]
        assert row["evaluation"]["steps"]["1"]["ci95_seeds"] is None
    assert not result.rows[1]["difference"]["sure"]  # of one seed


def test_a_row_that_diverges_has_no_score_and_the_others_do(compare_file, tmp_path):
    rows = ROWS | {"wild": {"inner.lr": 1.0e30}}
    result = undisturbed(load(compare_file(rows=rows, seeds=1)), tmp_path / "whole")
    draw(result)
    maml, _, wild = result.rows
    assert maml["evaluation"] is not None
    assert (wild["evaluation"], wild["difference"]) == (None, None)
    assert wild["runs"][0]["status"] == "diverged"
    assert len(result.warnings) == 1
    assert "wild, seed 0: diverged" in result.warnings[0]
    assert "no score" in (result.folder.path / "compare.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.yaml"], "expected a configuration file at 'missing.yaml'"),
        ([], "expected a comparison file, received none"),
        (["--resume", "nothing"], "expected a comparison's folder"),
        (["small.yaml", "compare.budgt.steps=3"], "did you mean 'budget'"),
        (["small.yaml", "compare.rows={maml: {inner.lrr: 1}}"], "did you mean 'lr'"),
        (["small.yaml", "compare.rows={maml: {}, b: {task.shot: 6}}"], "expected the test tasks of the first row"),
    ],
)
def test_bad_input_leaves_nothing(arguments, said, compare_file, metaray, finished, tmp_path):
    compare_file()
    status, output, errors = finished(metaray("compare", *arguments))
    assert status == 2
    assert said in errors
    assert output == ""
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "mlflow.db").exists()
