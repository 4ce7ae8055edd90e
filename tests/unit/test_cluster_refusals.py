"""What is refused or fails at the start changes no byte on disk; damaged files and full disks get words."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.commands.tune import _chosen
from cluster.config import strict_yaml
from cluster.errors import ConfigError, MetarayError
from cluster.runs.folder import find
from cluster.runs.metrics import MetricsLog
from cluster.runs.storage import write_file
from cluster.workers import session
from helpers.folders import make_search

ROOT = Path(__file__).parents[2]
BASE: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
    "eval": {"tasks": 4, "steps": [0, 1], "every": 2, "val_tasks": 4},
    "checkpoint": {"every": 2},
    "cluster": {"workers": 0},
    "tracking": {"system_every": 0, "every": 1},
}
SEARCH: dict[str, Any] = {
    "search": {"base": "base.yaml", "space": {"inner.lr": {"choice": [0.1, 0.2]}}, "metric": "val/mse_1", "trials": 2},
    "cluster": {"workers": 1, "address": "127.0.0.1:1"},
}


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Contents and time of change of everything below a folder."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in sorted(folder.rglob("*"))
    }


def metaray(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, a search and a finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "base.yaml").write_text(strict_yaml.write(BASE))
    (folder / "search.yaml").write_text(strict_yaml.write(SEARCH))
    before = Path.cwd()
    os.chdir(folder)
    try:
        status, output = metaray("train", "base.yaml", "--name", "one", "eval.baselines=[pretrain]")
    finally:
        os.chdir(before)
    assert status == 0, output
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working directory."""
    folder = Path(shutil.copytree(finished, tmp_path / "here"))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


NOBODY = ("cluster.workers=1", "cluster.address=127.0.0.1:1")
REFUSED: dict[str, tuple[list[str], int, str]] = {
    "another engine": (["train", "--resume", "one", "engine=loop"], 2, "was made with engine trace, received loop"),
    "another θ": (["train", "--resume", "one", "inner.lr=0.5"], 2, "inner.lr: 0.01 there, 0.5 here"),
    "another baseline": (["train", "--resume", "one", "eval.baselines=[orakle]"], 2, "did you mean 'oracle'?"),
    "a name that is taken": (["train", "base.yaml", "--name", "one", "seed=3"], 2, "seed: 0 there, 3 here"),
    "no cluster for a new run": (["train", "base.yaml", *NOBODY], 1, "nothing answers at '127.0.0.1:1'"),
    "no cluster for a named run": (["train", "base.yaml", "--name", "two", *NOBODY], 1, "nothing answers"),
    "no cluster to go on": (["train", "--resume", "one", "outer.steps=6", *NOBODY], 1, "nothing answers"),
    "no cluster for a search": (["tune", "search.yaml"], 1, "nothing answers"),
    "no cluster for a named search": (["tune", "search.yaml", "--name", "s"], 1, "nothing answers"),
    "no cluster to evaluate": (["evaluate", "one", *NOBODY], 1, "nothing answers"),
    "no GPU": (["train", "base.yaml", "cluster.workers=1", "cluster.gpus_per_worker=1"], 2, "torch sees none here"),
    "no GPU to go on": (["train", "--resume", "one", "cluster.gpus_per_worker=1"], 2, "gpu"),
    "one GPU and a half": (["train", "base.yaml", "cluster.gpus_per_worker=1.5"], 2, "or a whole number of them"),
    "no registry": (["register", "one", "--name", "m", "tracking.uri=sqlite:///no/where.db"], 2, "found none"),
    "no model": (["evaluate", "models:/m@a", "tracking.uri=sqlite:///no/where.db"], 2, "found none"),
    "other tasks for a report": (["report", "one", "task.inputs=[1, 0]"], 2, "inputs"),
    "no run to send": (["tracking", "replay", "two"], 2, "two"),
    "no suite": (["bench", "nothing"], 2, "nothing"),
    "a rule for a suite": (["bench", "mlp", "--fit"], 2, "--fit: expected no SUITE"),
    "no source": (["data", "prepare", "folder", "--root", "store", "--source", "nowhere"], 2, "nowhere"),
}


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="cases are of a machine without a GPU")
@pytest.mark.parametrize(("words", "status", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_changes_no_byte(words: list[str], status: int, said: str, here: Path) -> None:
    before = tree(here)
    found, output = metaray(*words)
    assert (found, said in output) == (status, True), output
    assert tree(here) == before


def test_a_run_goes_on_after_a_refused_resume(here: Path) -> None:
    assert metaray("train", "--resume", "one", "engine=loop")[0] == 2
    status, output = metaray("train", "--resume", "one", "tracking.uri=sqlite:///else/b.db", "outer.steps=8", "--json")
    assert status == 0, output
    assert find("one").config.tracking.uri == "sqlite:///else/b.db"


def test_a_run_is_refused_whose_checkpoint_or_metrics_are_damaged(here: Path) -> None:
    run = here / "runs" / "one"
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    for path, text, said in (
        (newest, b"", "expected a whole checkpoint"),
        (run / "metrics.jsonl", b"{}\n{}\n", "metrics.jsonl, line 1: expected a JSON object"),
        (run / "baselines" / "pretrain" / "metrics.jsonl", b"[1]\n", "pretrain/metrics.jsonl, line 1"),
    ):
        kept = path.read_bytes()
        path.write_bytes(text)
        before = tree(here)
        status, output = metaray("train", "--resume", "one", "outer.steps=6")
        assert (status, said in output) == (1, True), output
        assert tree(here) == before
        path.write_bytes(kept)


FILES = ("run.json", "config.yaml", "evaluation.json", "metrics.jsonl", "checkpoints/best.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_truncated_file_of_a_run_is_named(name: str, share: float, here: Path) -> None:
    path = here / "runs" / "one" / name
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    for words in (["evaluate", "one", "--tasks", "4"], ["report", "one"], ["register", "one", "--name", "m"]):
        status, output = metaray(*words)  # which fails on any other exception than those that are in words
        if status != 0:
            assert status in (1, 2)
            assert Path(name).name in output, output


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"name": "one"}', "null", "\xff"])
def test_a_damaged_description_is_named(text: str, here: Path) -> None:
    (here / "runs" / "one" / "run.json").write_bytes(text.encode("latin-1"))
    for words in (["train", "--resume", "one"], ["evaluate", "one"], ["report", "one"]):
        status, output = metaray(*words)
        assert (status, "run.json: expected" in output) == (1, True), output


def test_a_damaged_run_does_not_hide_others(here: Path) -> None:
    (here / "runs" / "a").mkdir()
    (here / "runs" / "a" / "run.json").write_text("")
    run_id = find("one").info["mlflow_run_id"]
    assert find(run_id).path == Path("runs/one")


def test_a_full_disk_names_file_and_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log._file.close()
    with (
        Path("/dev/full").open("wb", buffering=0) as log._file,
        pytest.raises(MetarayError, match=r"metrics.jsonl: expected room"),
    ):
        log.write(1, {"a": 1.0})

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "new" / "file"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MetarayError, match=r"file: expected room .* No space left on device; free some") as raised:
        write_file(path, b"1")
    assert raised.value.exit_status == 1
    assert list(path.parent.iterdir()) == []


def test_a_long_folder_for_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    with pytest.raises(ConfigError, match=r"^TMPDIR: expected a path of at most \d+ bytes"):
        session._require_room()
    monkeypatch.setenv("TMPDIR", "/tmp")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    with pytest.raises(ConfigError, match="/dev/shm: expected at least"):
        session._require_room()


def test_a_search_goes_on_with_an_override_that_holds_slashes(here: Path) -> None:
    from cluster.search.settings import load

    folder = make_search(load(here / "search.yaml"), "s")
    search, found = _chosen("tracking.uri=sqlite:////a//b.db", ["tracking.experiment=x"], "s", None)
    assert (search.base.tracking.uri, search.base.tracking.experiment) == ("sqlite:////a//b.db", "x")
    assert found.path == folder.path


@pytest.mark.parametrize("kind", ["folder", "module"])
def test_the_products_packages_come_before_the_users(kind: str, tmp_path: Path) -> None:
    for name in ("tasks", "meta", "benchmarks"):
        if kind == "folder":
            (tmp_path / name).mkdir()
        path = tmp_path / name / "__init__.py" if kind == "folder" else tmp_path / f"{name}.py"
        path.write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "own.py").write_text("from tasks.sinusoid import Sinusoid\n\nclass Family(Sinusoid):\n    pass\n")
    (tmp_path / "base.yaml").write_text(
        strict_yaml.write(BASE | {"task": {"family": "own:Family"}, "outer": {"steps": 1}})
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster", "train", "base.yaml", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    asked = run("task.family=tasks:Mine")
    named = "tasks" if kind == "folder" else "tasks.py"
    assert asked.returncode == 2
    assert f"'tasks' is a package of metaray's own: rename your '{named}'" in asked.stderr
    done = run("--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 1
