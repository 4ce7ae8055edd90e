"""Commands that are refused: status 2, one message, and not a byte on the disk is changed."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.commands.cli import app

MODULES = """
import torch
from torch import nn

class Recurrent(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__()
        self.rnn = nn.LSTM(inputs[0], 4, batch_first=True)
        self.head = nn.Linear(4, outputs)

    def forward(self, x):
        hidden, _ = self.rnn(x[:, None])
        return self.head(hidden[:, -1])
"""
INLINE = ("cluster.workers=0", "tracking.system_every=0")


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of change of every file below a folder."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def metaray_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run a command in this process, in ``tmp_path``; its status, and all it prints."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, list(words))
        return result.exit_code, result.output

    return run


@pytest.fixture
def trained(metaray_here, config_file: Path, tmp_path: Path) -> Path:
    """A finished small run."""
    status, output = metaray_here("train", str(config_file), *INLINE, "--name", "run")
    assert status == 0, output
    return tmp_path / "runs" / "run"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--resume", "RUN", "engine=loop"], "made with engine trace"),
        (["train", "--resume", "RUN", "inner.lr=0.5"], "inner.lr"),
        (["train", "--resume", "RUN", "outer.steps=yes"], "outer.steps"),
        (["train", "--resume", "RUN", "seed=010"], "leading zeros"),
        (["train", "--resume", "RUN", "cluster.gpus_per_worker=1"], "gpu"),
        (["train", "--resume", "RUN", "nothing.at=all"], "unknown key"),
        (["train", "--name", "run", "CONFIG", "inner.lr=0.5"], "inner.lr"),
        (["train", "CONFIG", "cluster.gpus_per_worker=1"], "torch sees none"),
        (["train", "CONFIG", "engine=graph"], "engine graph"),
        (["train", "CONFIG", "task.shot=0"], "shot"),
        (["evaluate", "RUN", "model.hidden=[4]"], "model"),
        (["evaluate", "RUN", "--split", "all"], "split"),
        (["evaluate", "RUN", "--steps", "5,1"], "increasing"),
        (["report", "RUN", "nothing.at=all"], "unknown key"),
        (["register", "RUN", "--name", "a/b"], "name"),
        (["tune", "CONFIG"], "search"),
    ],
)
def test_a_refused_command_changes_nothing(
    words: list[str], named: str, metaray_here, trained: Path, config_file: Path, tmp_path: Path
) -> None:
    before = contents(tmp_path)
    names = {"RUN": str(trained), "CONFIG": str(config_file)}
    status, output = metaray_here(*(names.get(word, word) for word in words), *INLINE[:0])
    assert status == 2, output
    assert named in output
    assert contents(tmp_path) == before


def test_a_run_goes_on_after_a_refused_resume(metaray_here, trained: Path) -> None:
    assert metaray_here("train", "--resume", str(trained), "engine=loop")[0] == 2
    status, output = metaray_here("train", "--resume", str(trained), "outer.steps=24")
    assert status == 0, output


def test_overrides_may_hold_slashes(metaray_here, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    status, output = metaray_here("train", "--resume", str(trained), "tracking.uri=sqlite:///else/b.db", "--json")
    assert status == 0, output
    status, output = metaray_here("train", "--resume", str(trained), "checkpoint.root=else/where")
    assert status == 0, output


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": '])
def test_a_damaged_description_gets_words(damage: str, metaray_here, trained: Path) -> None:
    (trained / "run.json").write_text(damage)
    for words in (["train", "--resume", "runs/run"], ["evaluate", "runs/run"], ["report", "runs/run"]):
        status, output = metaray_here(*words)
        assert status == 1
        assert "run.json: expected" in output
        assert "restore it from a copy" in output
        assert "Traceback" not in output


def test_a_recurrent_model_works_throughout(metaray, finished, settings, tmp_path: Path) -> None:
    """Two workers, evaluation, registration, and a prediction in a fresh process."""
    (tmp_path / "modules.py").write_text(MODULES)
    settings["model"] = {"name": "modules:Recurrent"}
    (tmp_path / "recurrent.yaml").write_text(yaml.safe_dump(settings))
    status, output, errors = finished(metaray("train", "recurrent.yaml", "--name", "run", "--json"))
    assert status == 0, errors
    trained = json.loads(output)
    status, output, errors = finished(metaray("evaluate", "runs/run", "--json", "cluster.workers=0"))
    assert status == 0, errors
    assert json.loads(output)["steps"] == trained["evaluation"]["steps"]
    uri = settings["tracking"]["uri"]
    status, output, errors = finished(metaray("register", "runs/run", "--name", "recurrent", f"tracking.uri={uri}"))
    assert status == 0, errors
    words = ("evaluate", "models:/recurrent/1", "--trust", "modules", f"tracking.uri={uri}")
    status, output, errors = finished(metaray(*words, "cluster.workers=0", "--json"))
    assert status == 0, errors
    assert json.loads(output)["steps"] == trained["evaluation"]["steps"]


def test_folders_of_the_users_own_do_not_shadow_the_product(metaray, finished, settings, tmp_path: Path) -> None:
    for name in ("tasks", "meta", "cluster", "benchmarks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this is not the product')\n")
    (tmp_path / "tasks" / "mine.py").write_text("class Family: ...\n")
    (tmp_path / "modules.py").write_text(MODULES)
    settings["model"] = {"name": "modules:Recurrent"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    script = tmp_path.parent / f"{tmp_path.name}.py"  # as an installed console script: its folder comes first
    script.write_text("from cluster.commands.cli import main\nmain()\n")
    try:
        status, _, errors = finished(started_by(script, "train", "own.yaml", "outer.steps=2"))
        assert status == 0, errors
        status, _, errors = finished(started_by(script, "train", "own.yaml", "task.family=tasks.mine:Family"))
        assert status == 2
        assert "rename your 'tasks'" in errors
    finally:
        script.unlink()


def started_by(script: Path, *words: str):
    """The command by a script of its own instead of ``python -m cluster``, which the working directory shadows."""
    import subprocess
    import sys

    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=script.with_suffix(""),
        env=dict(os.environ, PYTHONPATH=str(root)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
