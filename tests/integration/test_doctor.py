"""``metaray doctor`` on real Ray and MLflow."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.commands.cli import app


def test_the_doctor_looks_at_ray_and_mlflow(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(json.dumps(settings))
    done = CliRunner().invoke(app, ["doctor", "small.yaml", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["ok"] is True
    findings = {finding["name"]: finding for finding in result["findings"]}
    assert findings["Ray"]["text"].startswith("Ray 2.")
    assert " cores" in findings["Ray"]["text"]
    assert findings["MLflow"]["text"].endswith("mlflow.db, made by the first run")
    assert findings["data"]["text"] == "task.family sinusoid: needs no data"
    assert not list(tmp_path.glob("runs*")) + list(tmp_path.glob("*.db"))  # it makes nothing


def test_what_is_wrong_is_named_and_the_status_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["doctor", "checkpoint.root=nowhere://x", "tracking.uri=http://127.0.0.1:9"])
    assert done.exit_code == 1
    assert "error: runs: trainings do not run here until this is mended" in done.stderr
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert {tuple(line[:2]) for line in lines if line and line[0] != "ok"} >= {("error", "runs"), ("warning", "MLflow")}
