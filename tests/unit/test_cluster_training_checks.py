"""``metaray check``: configurations and classes of one's own, before anything is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.commands.cli import app

PARTS = """
import torch
from torch import nn

from meta.algorithms import MAML
from meta.context import FIXED
from meta.inner import SGD


class Net(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int, hidden: int = 4) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs[-1], hidden, batch_first=True)
        self.drop = nn.Dropout(0.2)
        self.norm = nn.BatchNorm1d(hidden, track_running_stats=False)
        self.still = nn.Linear(hidden, hidden).requires_grad_(False)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x):
        hidden = self.lstm(x if x.dim() == 3 else x[:, None])[0][:, -1]
        return self.head(self.still(self.norm(self.drop(hidden))))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(1, 1), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


class Rule(SGD):
    pass


class Rooted(SGD):
    def update(self, gradient, state, params, rule_params):
        return {name: value - gradient[name].square().sqrt() for name, value in params.items()}, state


class Method(MAML):
    pass


class Cut(MAML):
    def meta_loss(self, params, episode, context=FIXED):
        return super().meta_loss({name: value.detach() for name, value in params.items()}, episode, context)


class Old(MAML):
    def meta_loss(self, params, episode):
        return super().meta_loss(params, episode)


class Nothing:
    def sing(self): ...
"""


@pytest.fixture(autouse=True)
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))


def checked(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["check", *words, "--json"])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, ["check", *words])
    assert result.exit_code == 2, result.output
    return result.stderr


def test_a_configuration_is_built_and_tried() -> None:
    found = checked("tune_configs/sinusoid.yaml", "outer.steps=5", "inner.lr=0.02")
    assert found["kind"] == "configuration"
    assert "α 0.02" in found["facts"]["inner loop"]
    assert found["facts"]["engine"].startswith("trace")
    assert "native" in found["engines"]


def test_a_model_is_listed_by_its_layers() -> None:
    found = checked("checked_parts:Net", "hidden=3", "--inputs", "6,2", "--outputs", "2")
    handled = {layer["name"]: layer["handled"] for layer in found["layers"]}
    assert found["kind"] == "model"
    assert "elementary" in handled["lstm"]
    assert "keyed" in handled["drop"]
    assert "transductive" in handled["norm"]
    assert "frozen" in handled["still"]
    assert handled["head"] == "as it is"
    assert found["engines"]["trace"] == ""
    assert "random layers" in found["facts"]


def test_a_model_is_tried_on_the_tasks_of_a_configuration() -> None:
    found = checked("checked_parts:Net", "--config", "tune_configs/sinusoid.yaml")
    assert found["engines"]["loop"] == ""


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["checked_parts:Rule"], "inner rule"),
        (["checked_parts:Method"], "algorithm"),
        (["meta.inner:Implicit", "strength=2.0"], "derivative"),
        (["tasks.sinusoid:Sinusoid", "shot=3"], "family"),
        (["tasks.environments.navigation:Navigation"], "environment family"),
    ],
)
def test_other_contracts_are_told_by_their_members(words: list[str], kind: str) -> None:
    assert checked(*words)["kind"] == kind


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["checked_parts:Counting"], "attribute 'calls' changes"),
        (["checked_parts:Rooted"], "finite first derivative"),
        (["checked_parts:Cut"], "not zero everywhere"),
        (["checked_parts:Old"], "TypeError: Old.meta_loss() takes 3 positional arguments"),
        (["checked_parts:Nothing"], "received one with sing"),
        (["checked_parts:Missing"], "has no 'Missing'"),
        (["no_such_module:Net"], "cannot import 'no_such_module'"),
        (["checked_parts:Net", "--inputs", "3,x"], "sizes above 0"),
        (["checked_parts:Net", "--inputs", "3", "--config", "tune_configs/sinusoid.yaml"], "received both"),
        (["checked_parts:Net", "hiden=3", "--inputs", "6,2"], "hiden"),
        (["meta.algorithms:ProtoNet"], "tasks have classes"),
        (["tune_configs/sinusoid.yaml", "--inputs", "3"], "expected none beside a configuration"),
        (["tune_configs/sinusoid.yaml", "inner.lr=x"], "inner.lr"),
    ],
)
def test_faults_are_named(words: list[str], fault: str) -> None:
    assert fault in refused(*words)


def test_the_printed_form_names_layers_and_engines() -> None:
    result = CliRunner().invoke(app, ["check", "checked_parts:Net", "--inputs", "6,2", "--outputs", "2"])
    assert result.exit_code == 0, result.output
    assert "BatchNorm1d" in result.stdout
    assert "engine trace" in result.stdout
    assert "model: nothing wrong" in result.stdout
