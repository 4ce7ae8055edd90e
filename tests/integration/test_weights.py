"""A pretrained module with running statistics: from a file through Ray workers, resumption and registry, and on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder

MODULE = """
import torch
from torch import nn


class Network(nn.Sequential):
    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__(nn.Linear(inputs[0], 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, outputs))
"""


@pytest.fixture
def place(settings: dict[str, Any], tmp_path: Path) -> Path:
    """A folder with the module, its configuration, and weights of which the head has another size."""
    (tmp_path / "my_network.py").write_text(MODULE)
    settings["model"] = {"name": "my_network:Network", "batch_norm": "frozen", "weights": "net.pt", "reinit": ["3.*"]}
    settings |= {"outer": {"steps": 4}, "checkpoint": {"root": "runs", "every": 2}, "engine": "loop"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(settings))
    torch.manual_seed(3)
    trained = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 5))
    for _ in range(5):
        trained(torch.randn(16, 1))
    torch.save(trained.state_dict(), tmp_path / "net.pt")
    return tmp_path


def test_pretrained_weights_travel(place: Path, metaray: Callable[..., Any], finished: Callable[..., Any]) -> None:
    def run(*words: str) -> dict[str, Any]:
        status, output, errors = finished(metaray(*words, "--json"))
        assert status == 0, errors
        shown: dict[str, Any] = json.loads(output)
        return shown

    state = torch.load(place / "net.pt", weights_only=True)
    alone = run("train", "own.yaml", "--name", "alone", "cluster.workers=0")
    together = run("train", "own.yaml", "--name", "together", "cluster.workers=2", "outer.steps=2")
    assert together["evaluation"]["batch_norm"] == "frozen"
    assert together["frozen"] == ["1.running_mean", "1.running_var"]
    (place / "net.pt").unlink()  # neither a run that goes on nor a registered model needs it
    again = run("train", "--resume", "together", "outer.steps=4", "cluster.workers=2")
    assert again["theta_sha256"] == alone["theta_sha256"]

    run("register", "together", "--name", "net", "--alias", "champion")
    where = f"tracking.uri=sqlite:///{place / 'mlflow.db'}"
    scored = run("evaluate", "models:/net@champion", "--trust", "my_network", "cluster.workers=0", where)
    assert scored["steps"] == again["evaluation"]["steps"]

    run("train", "own.yaml", "--from", "models:/net@champion", "--name", "next", "cluster.workers=0", "outer.lr=1e-30")
    folders = [RunFolder(place / "runs" / name) for name in ("together", "next")]
    one, other = (checkpoints.chosen(folder.checkpoints)[1].params for folder in folders)
    assert yaml.safe_load((folders[1].path / "config.yaml").read_text())["model"]["weights"] == "models:/net/1"
    kept = [name for name in one if not name.startswith("3.")]
    assert all(torch.equal(one[name], other[name]) for name in kept)
    assert torch.equal(one["1.running_mean"], state["1.running_mean"])
