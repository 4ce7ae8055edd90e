"""A new project's first minutes: its tests, a training on two workers, the registry, answers of its own model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_new_project_trains_and_is_served_from_the_registry(
    metaray: Callable[..., Any], finished: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    lab = tmp_path / "wave_lab"
    status, _, errors = finished(metaray("init", str(lab)))
    assert status == 0, errors
    own = subprocess.run([sys.executable, "-m", "pytest", "-q"], cwd=lab, capture_output=True, text=True, check=False)
    assert own.returncode == 0, own.stdout + own.stderr
    assert "2 passed" in own.stdout
    short = ("outer.steps=20", "eval.every=10", "eval.tasks=10", "checkpoint.every=10", "cluster.workers=2")
    status, output, errors = finished(metaray("train", "config.yaml", *short, "--json", cwd=lab))
    assert status == 0, errors
    trained = json.loads(output)
    assert trained["steps"] == 20
    registered = ("register", trained["run_dir"], "--name", "waves", "--alias", "champion", "--json")
    status, _, errors = finished(metaray(*registered, cwd=lab))
    assert status == 0, errors
    tested = ("evaluate", "models:/waves@champion", "--tasks", "5", "--json")
    status, _, errors = finished(metaray(*tested, cwd=lab))
    assert status == 2
    assert "wave_lab" in errors
    status, output, errors = finished(metaray(*tested, "--trust", "wave_lab", cwd=lab))
    assert status == 0, errors
    assert json.loads(output)["tasks"] == 5
