"""From a CSV file to a model that answers requests, as a user goes there; θ the same whatever happens on the way."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from cluster.commands.cli import app
from helpers.commands import kill_after_checkpoint
from helpers.waiting import wait_for
from tasks.family import TaskKey, draw_batch
from tasks.table import Table

ROOT = Path(__file__).parents[2]
STEPS = 80
Start = Callable[..., subprocess.Popen[str]]
Finish = Callable[..., tuple[int, str, str]]
INLINE = "cluster.workers=0"
PREPARE = ("--group", "shop", "--inputs", "day,price,kind", "--categorical", "kind", "--targets", "sold")


@pytest.fixture
def sales(tmp_path: Path, write_csv: Callable[..., Path]) -> Path:
    """Shops that sell by price, each in its own way: sold = level + slope · price + noise."""
    rng = np.random.Generator(np.random.Philox(key=[5, 0]))
    rows = []
    for shop in range(40):
        level, slope = rng.normal(size=2)
        for day, price in enumerate(rng.normal(size=30)):
            sold = 50 + 10 * (level + slope * price) + rng.normal()
            gap = "" if day == 7 else f"{price:.4f}"
            rows.append((f"shop{shop:02}", day, gap, "ab"[day % 2], f"{sold:.3f}", "many" if sold > 50 else "few"))
    return write_csv(
        tmp_path / "sales.csv",
        ("shop", "day", "price", "kind", "sold", "level"),
        [rows[i] for i in rng.permutation(1200)],
    )


@pytest.fixture
def table_file(settings: dict[str, Any], tmp_path: Path) -> Path:
    """A small training on the table."""
    changed = settings | {
        "task": {"family": "table", "root": "data/sales", "shot": 5, "query": 10},
        "inner": {"lr": 0.05, "steps": 2},
        "outer": {"steps": STEPS, "lr": 0.003},
        "eval": settings["eval"] | {"every": 40, "baselines": ["pretrain", "ridge"]},
        "checkpoint": settings["checkpoint"] | {"every": 5},
    }
    (tmp_path / "sales.yaml").write_text(yaml.safe_dump(changed))
    return tmp_path / "sales.yaml"


FRESH = """
import sys
import mlflow
import numpy as np

model = mlflow.pyfunc.load_model(sys.argv[1])
np.save(sys.argv[3], model.predict(dict(np.load(sys.argv[2])), params={"inner_steps": 2}))
"""


def test_train_kill_resume_evaluate_register_predict_and_serve(
    metaray: Start, finished: Finish, sales: Path, table_file: Path, tmp_path: Path
) -> None:
    def done(*arguments: str) -> Any:
        status, output, errors = finished(metaray(*arguments, "--json"))
        assert status == 0, errors
        return json.loads(output)

    prepare = ("data", "prepare", "table", "--source", "sales.csv", "--root", "data/sales", *PREPARE)
    prepared = done(*prepare, "--missing", "impute")
    assert {split: info["groups"] for split, info in prepared["splits"].items()} == {"train": 26, "val": 6, "test": 8}
    assert [column["missing"] for column in prepared["inputs"]] == [0, 26, 0]

    alone = done("train", "sales.yaml", INLINE, "eval.baselines=[]", "tracking.experiment=alone")
    assert alone["steps"] == STEPS
    assert alone["warnings"] == []

    run = kill_after_checkpoint(metaray("train", "sales.yaml", "checkpoint.root=killed"), tmp_path / "killed")
    result = done("train", "sales.yaml", "checkpoint.root=killed", "--resume", str(run))
    assert result["theta_sha256"] == alone["theta_sha256"]
    scored = result["evaluation"]
    assert (scored["metric"], scored["way"], scored["shot"], scored["query_per_class"]) == ("mse", None, 5, 10)
    assert scored["data"] == prepared["fingerprint"]
    for scores in (scored["steps"], *scored["baselines"].values()):
        assert scores["1"]["ci95"] > 0
    assert scored["baselines"].keys() == {"pretrain", "ridge"}
    assert scored["baselines"]["ridge"]["0"] == scored["baselines"]["ridge"]["1"]

    evaluated = done("evaluate", str(run), "--steps", "0,2", "task.eval_shot=12", INLINE)
    assert evaluated["shot"] == 12
    assert evaluated["steps"].keys() == {"0", "2"}

    done("register", str(run), "--name", "sales", "--alias", "champion", INLINE)
    family = Table(root=str(tmp_path / "data" / "sales"), shot=5, query=10)
    drawn = draw_batch(family, 0, "test", range(3), torch.float64)
    arrays = {"support_inputs": drawn.support.inputs, "support_targets": drawn.support.targets}
    arrays |= {"query_inputs": drawn.query.inputs}
    np.savez(tmp_path / "asked.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    fresh = subprocess.run(
        [sys.executable, "-c", FRESH, "models:/sales@champion", tmp_path / "asked.npz", tmp_path / "predicted.npy"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=False,
    )
    assert fresh.returncode == 0, fresh.stderr
    predicted = np.load(tmp_path / "predicted.npy")
    assert predicted.shape == (3, 10, 1)

    lists = {name: tensor.tolist() for name, tensor in arrays.items()}
    served = _served(metaray, uri, {"inputs": lists, "params": {"inner_steps": 2}}, tmp_path / "serving.log")
    np.testing.assert_allclose(served, predicted, rtol=1e-5, atol=1e-6)

    adapted = done("adapt", "models:/sales@champion", f"tracking.uri={uri}", "--support", "asked.npz", "--steps", "2")
    np.testing.assert_allclose(adapted["predictions"], predicted, rtol=1e-5, atol=1e-6)
    (tmp_path / "asked.json").write_text(json.dumps({"inputs": lists, "params": {"inner_steps": 2}}))
    of_run = done("adapt", str(run), "--support", "asked.json", "--out", "answers.json")
    assert of_run["predictions"] == adapted["predictions"]
    assert json.loads((tmp_path / "answers.json").read_text())["predictions"] == adapted["predictions"]


def _served(metaray: Start, uri: str, question: dict[str, Any], log: Path) -> Any:
    """The answer of ``metaray serve`` to one question."""
    with log.open("w") as stream:
        command = [
            sys.executable,
            "-m",
            "cluster",
            "serve",
            "models:/sales@champion",
            f"tracking.uri={uri}",
            "--port",
            "0",
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=log.parent, env=environment, stderr=stream)
    try:
        place = re.compile(r"^serving .* at (https?://127\.0\.0\.1:\d+)$", re.MULTILINE)
        found = wait_for(lambda: place.search(log.read_text()), "the server")
        request = urllib.request.Request(
            f"{found[1]}/invocations", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())["predictions"]
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.parametrize(
    ("options", "task", "metric"),
    [
        (("--targets", "sold", "--time", "day", "--inputs", "price,sold"), {"family": "series", "window": 4}, "mse"),
        (("--labels", "level", "--inputs", "price"), {"family": "table"}, "accuracy"),
    ],
    ids=["series", "labels"],
)
def test_series_and_labels_are_learned_from(
    metaray: Start,
    finished: Finish,
    sales: Path,
    table_file: Path,
    options: tuple[str, ...],
    task: dict[str, Any],
    metric: str,
) -> None:
    prepare = ("data", "prepare", "table", "--source", sales.name, "--root", "data/sales", "--group", "shop", *options)
    status, output, errors = finished(metaray(*prepare, "--missing", "impute"))
    assert status == 0, errors
    assert "columns of sales.csv, in the training groups" in output
    plain = yaml.safe_load(table_file.read_text())
    plain["task"] = {"root": "data/sales", "shot": 4, "query": 6} | task
    plain["eval"] |= {"baselines": []}
    table_file.write_text(yaml.safe_dump(plain))
    status, output, errors = finished(metaray("train", table_file.name, "outer.steps=40", INLINE, "--json"))
    assert status == 0, errors
    result = json.loads(output)
    evaluation = result["evaluation"]
    assert (evaluation["metric"], evaluation["way"], evaluation["shot"]) == (metric, None, 4)
    assert Path(result["run_dir"], "report.html").exists()


def test_groups_that_are_too_small_are_named(
    metaray: Start, finished: Finish, sales: Path, table_file: Path, tmp_path: Path
) -> None:
    lines = sales.read_text().splitlines()
    few = [line for line in lines[1:] if not (line.startswith("shop11,") and int(line.split(",")[1]) > 5)]
    sales.write_text("\n".join([lines[0], *few]))
    prepare = ("data", "prepare", "table", "--source", "sales.csv", "--root", "data/sales", *PREPARE)
    status, _, errors = finished(metaray(*prepare, "--missing", "drop"))
    assert status == 0, errors
    assert "warning: 39 left out, rows without an input: sales.csv, row" in errors
    status, output, errors = finished(
        metaray("train", "sales.yaml", INLINE, "eval.baselines=[]", "outer.steps=2", "--json")
    )
    assert status == 0, errors
    warning = json.loads(output)["warnings"][0]
    assert re.match(
        r"1 of \d+ (train|val|test) groups of 'data/sales' have fewer than 15 rows and are left out: shop11;", warning
    )
    assert f"warning: {warning}" in errors


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["data", "prepare", "table", *arguments])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return str(result.stderr.splitlines()[-1])


def test_what_the_command_refuses(sales: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sales.parent)
    place = ("--source", "sales.csv", "--root", "store")
    roles = ("--group", "shop", "--targets", "sold")
    assert "expected a column 'pricee' (did you mean 'price'?)" in refused(*place, *roles, "--inputs", "pricee, day")
    assert "column 'price': expected a value, received none" in refused(*place, *roles, "--inputs", "price")
    assert "column 'kind': expected a number, received '" in refused(*place, *roles, "--inputs", "kind")
    assert "expected --group COLUMN" in refused(*place, "--inputs", "day", "--targets", "sold")
    assert "'table' takes no --size; it takes --seed, --ratio" in refused(
        *place, *roles, "--inputs", "day", "--size", "8"
    )
    assert "takes no --skip-broken; it takes --missing drop" in refused(
        *place, *roles, "--inputs", "day", "--skip-broken"
    )
    assert not Path("store").exists()


def test_show_and_verify(sales: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sales.parent)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["data", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    prepare = (
        "prepare",
        "table",
        "--source",
        "sales.csv",
        "--root",
        "store",
        *PREPARE,
        "--missing",
        "impute",
        "--json",
    )
    made = json.loads(run(*prepare))
    assert made.pop("seconds") > 0
    shown = json.loads(run("show", "store", "--verify", "--json"))
    assert made.items() <= shown.items()
    assert shown["verified"]
    assert made["inputs"][2] == {"name": "kind", "kind": "category", "missing": 0, "categories": ["a", "b"]}
    text = run("show", "store")
    for part in (
        "sales.csv, by shop",
        "smallest group",
        "price",
        "a, b",
        made["fingerprint"],
        "ratio 0.64,0.16,0.2, seed 0",
    ):
        assert part in text
    assert Table(root="store").draw(TaskKey(0, "test", 0)).support.inputs.shape == (10, 5)


def commands() -> list[list[str]]:
    """The commands of the guide, in their order."""
    lines = (ROOT / "docs" / "data.md").read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line.startswith(("    metaray ", "    python "))]


# What makes the guide's trainings short: fewer steps and tasks, and no compiling.
SHORT = ("engine=trace", "outer.steps=4", "eval.tasks=4", "eval.val_tasks=4", "eval.every=2", INLINE)


def test_the_guides_commands(metaray: Start, finished: Finish, tmp_path: Path, write_csv: Callable[..., Path]) -> None:
    (tmp_path / "tune_configs").symlink_to(ROOT / "tune_configs")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    rows = [(f"shop{shop}", day, (shop + 1) * np.sin(day)) for shop in range(12) for day in range(60)]
    write_csv(tmp_path / "data" / "sales.csv", ("shop", "day", "sold"), rows)
    asked, runs = commands(), tmp_path / "runs"
    assert [words[:2] for words in asked].count(["metaray", "train"]) == 2
    for program, *words in asked:
        if program == "python":
            subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
            continue
        words = [str(max(runs.iterdir(), key=os.path.getmtime)) if word == "RUN" else word for word in words]
        short = {"train": SHORT, "evaluate": ("eval.tasks=4", INLINE), "register": (INLINE,)}.get(words[0], ())
        status, _, errors = finished(metaray(*words, *short))
        assert status == 0, (words, errors)
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(encoding="utf-8"), re.DOTALL)[0]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    printed = subprocess.run(
        [sys.executable, "-c", snippet], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert len(re.findall(r"-?\d+\.\d+", printed.stdout)) == 2, printed.stdout
