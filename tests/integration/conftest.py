"""One real local Ray for all integration tests, and small configurations to run on it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from cluster.config import Config, parse
from cluster.sections import ClusterConfig
from cluster.session import ray_session

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A Ray session with room for three workers; its files go when it goes."""
    folder = tempfile.mkdtemp(prefix="mr")  # short: Ray puts sockets below it
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = folder
    try:
        with ray_session(ClusterConfig(workers=3)):
            yield
    finally:
        if before is None:
            os.environ.pop("RAY_TMPDIR")
        else:
            os.environ["RAY_TMPDIR"] = before
        shutil.rmtree(folder, ignore_errors=True)
    assert not ray.is_initialized()


@pytest.fixture(scope="session")
def small_settings() -> Callable[[Path], dict[str, Any]]:
    """A small training that keeps everything below a folder."""
    return lambda folder: {
        "task": {"family": "sinusoid", "shot": 5, "query": 5},
        "model": {"name": "mlp", "hidden": [20, 20], "init_std": None},
        "inner": {"lr": 0.01, "steps": 1},
        "outer": {"steps": 20},
        "meta_batch": 7,
        "shard": 2,
        "eval": {"tasks": 10, "val_tasks": 6, "steps": [0, 1], "every": 10},
        "checkpoint": {"root": str(folder / "runs"), "every": 10},
        "tracking": {"uri": f"sqlite:///{folder / 'mlflow.db'}", "every": 5},
    }


@pytest.fixture
def settings(small_settings: Callable[[Path], dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    """The small training in ``tmp_path``."""
    return small_settings(tmp_path)


@pytest.fixture
def make_config(settings: dict[str, Any]) -> Callable[..., Config]:
    """A configuration from the settings with dotted changes."""

    def make(**changes: Any) -> Config:
        raw = yaml.safe_load(yaml.safe_dump(settings))
        for dotted, value in changes.items():
            *sections, key = dotted.split("__")
            target = raw
            for section in sections:
                target = target.setdefault(section, {})
            target[key] = value
        return parse(raw)

    return make


@pytest.fixture
def config_file(settings: dict[str, Any], tmp_path: Path) -> Path:
    """The settings as a file."""
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture
def metaray(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command in ``tmp_path`` as a user would, output piped."""
    environment = dict(os.environ, PYTHONPATH=str(ROOT), RAY_TMPDIR=str(Path(tempfile.gettempdir())))

    def start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster", *arguments],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


@pytest.fixture(scope="session")
def finished() -> Callable[..., tuple[int, str, str]]:
    """Wait for a command's end: its exit status, standard output and standard error."""

    def wait(process: subprocess.Popen[str], seconds: float = 180) -> tuple[int, str, str]:
        try:
            output, errors = process.communicate(timeout=seconds)
        finally:
            process.kill()
        return process.returncode, output, errors

    return wait
