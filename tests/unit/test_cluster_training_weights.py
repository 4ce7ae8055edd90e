"""``model.weights``: θ from a file, what does not fit it, and a run that goes on from another file."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.schema import parse
from cluster.config.sections import ModelConfig
from cluster.errors import ConfigError
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.training.start import begin, resume
from cluster.training.weights import starting_weights
from meta.params import Params

HERE = __name__


class Network(nn.Module):
    """A batch norm with running statistics, and a buffer that is no part of θ."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 3):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(inputs[0], width), nn.BatchNorm1d(width), nn.Linear(width, outputs)
        self.register_buffer("scale", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.norm(self.body(x)))) * self.scale


class Taken(Network):
    def __init__(self, inputs: tuple[int, ...], outputs: int, weights: str = "none"):
        super().__init__(inputs, outputs)


def config(folder: Path, **model: Any) -> Any:
    return parse(
        {
            "task": {"family": "sinusoid", "shot": 5, "query": 5},
            "model": {"name": f"{HERE}:Network", "batch_norm": "frozen"} | model,
            "outer": {"steps": 2},
            "meta_batch": 2,
            "eval": {"tasks": 2, "steps": [0, 1]},
            "cluster": {"workers": 0},
            "engine": "loop",
            "checkpoint": {"root": str(folder / "runs")},
            "tracking": {"uri": f"sqlite:///{folder}/mlflow.db", "system_every": 0},
        }
    )


def pretrained(**changes: Tensor) -> Params:
    """The state_dict of a network that has seen data."""
    torch.manual_seed(5)
    module = Network((1,), 1)
    for _ in range(3):
        module(torch.randn(8, 1))
    return {**module.state_dict(), **changes}


SAVE: dict[str, Callable[[Params, Path], None]] = {
    "torch": torch.save,
    "safetensors": lambda state, path: safetensors.torch.save_file(state, str(path)),
}


@pytest.mark.parametrize("kind", SAVE)
def test_theta_begins_as_the_file_has_it_statistics_included(kind: str, tmp_path: Path) -> None:
    state, path = pretrained(), tmp_path / "net"
    SAVE[kind](state, path)
    setup = build(config(tmp_path, weights=str(path)))
    weights = starting_weights(setup)
    assert weights is not None
    assert weights.params.keys() == set(setup.layout.names) == state.keys() - {"norm.num_batches_tracked", "scale"}
    assert all(torch.equal(value, state[name]) for name, value in weights.params.items())
    assert not torch.equal(weights.params["norm.running_mean"], torch.zeros(3))
    assert weights.warnings == ()


def test_other_types_of_numbers_become_those_of_the_run(tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in pretrained().items()}, tmp_path / "net")
    weights = starting_weights(build(config(tmp_path, weights=str(tmp_path / "net"))))
    assert weights is not None
    assert {value.dtype for value in weights.params.values()} == {torch.float32}


def test_names_that_did_not_match_are_listed(tmp_path: Path) -> None:
    state = pretrained(extra=torch.ones(1))
    del state["head.bias"]
    torch.save(state, tmp_path / "net")
    setup = build(config(tmp_path, weights=str(tmp_path / "net"), batch_norm="transductive"))
    weights = starting_weights(setup)
    assert weights is not None
    missing, unused = weights.warnings
    assert "1 of 6 parameters are not in" in missing
    assert missing.endswith("begin as initialised: head.bias")
    assert unused.endswith("were not used: norm.running_mean, norm.running_var, extra")
    assert torch.equal(weights.params["head.bias"], setup.initial_params()["head.bias"])


def test_a_head_of_another_size_begins_anew_if_it_is_named(tmp_path: Path) -> None:
    state = pretrained(**{"head.weight": torch.ones(9, 3), "head.bias": torch.ones(9)})
    torch.save(state, tmp_path / "net")
    with pytest.raises(ConfigError, match=r"head.weight \[9, 3\] there, \[1, 3\] in the model; .*model.reinit"):
        starting_weights(build(config(tmp_path, weights=str(tmp_path / "net"))))
    setup = build(config(tmp_path, weights=str(tmp_path / "net"), reinit=["head.*"]))
    weights = starting_weights(setup)
    assert weights is not None
    assert weights.warnings == ()
    assert torch.equal(weights.params["head.weight"], setup.initial_params()["head.weight"])
    assert torch.equal(weights.params["body.weight"], state["body.weight"])


class Evil:
    def __reduce__(self) -> Any:
        return print, ("executed",)


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        (pickle.dumps(Evil()), "which hold tensors alone, received something else"),
        (b"", "received something else"),
        (b"12345678{}", "expected whole safetensors"),
        ({"state_dict": {}, "epoch": 3}, "received keys state_dict, epoch; save the state_dict alone"),
        ({"other.weight": torch.ones(1)}, "received none of them in .* \\(other.weight\\)"),
        (lambda: pretrained(scale=2 * torch.ones(1)), "buffer 'scale' as the module's constructor makes it"),
        (lambda: pretrained(**{"head.bias": torch.tensor([torch.nan])}), "NaN or infinity in head.bias"),
        (lambda: pretrained(**{"head.bias": torch.tensor([1])}), "received torch.int64 for head.bias"),
    ],
)
def test_files_that_are_no_weights_are_refused(
    contents: Any, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net"
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    else:
        torch.save(contents() if callable(contents) else contents, path)
    with pytest.raises(ConfigError, match=named):
        starting_weights(build(config(tmp_path, weights=str(path))))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"weights": "nowhere/net"}, "a torch state_dict, .* received 'nowhere/net'"),
        ({"weights": "nowhere://net"}, "received 'nowhere://net', where none can be read"),
        ({"reinit": ["head.*"]}, "model.reinit: expected none without model.weights"),
        ({"name": f"{HERE}:Taken"}, "a constructor without an argument 'weights'"),
        ({"name": f"{HERE}:Taken", "weights": "net"}, "rename the argument"),
    ],
)
def test_keys_that_name_nothing_are_refused(model: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        starting_weights(build(config(tmp_path, **model)))


def test_patterns_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    torch.save(pretrained(), tmp_path / "net")
    with pytest.raises(ConfigError, match=r"'fc\.\*' fits none of body.weight"):
        starting_weights(build(config(tmp_path, weights=str(tmp_path / "net"), reinit=["fc.*"])))


def test_without_the_key_a_configuration_says_nothing_of_it(tmp_path: Path) -> None:
    assert ModelConfig(name="mlp").model_dump(mode="json") == {"name": "mlp"}
    one = config(tmp_path, weights="net", reinit=["head.*"])
    assert parse(one.model_dump(mode="json")) == one
    assert one.identity["model"]["weights"] == "net"
    assert starting_weights(build(config(tmp_path))) is None


def test_a_run_goes_on_from_its_own_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "net"
    torch.save(pretrained(), path)
    one = config(tmp_path, weights=str(path))
    start = begin(one, "run", tmp_path / "runs" / "run")
    start.folder.settle("config.yaml", one.to_yaml())
    folder = RunFolder(start.folder.path)
    assert resume(one, folder).setup.layout == start.setup.layout
    torch.save(pretrained(**{"head.bias": torch.ones(1)}), path)
    with pytest.raises(ConfigError, match="the file that the run was begun with, of SHA-256"):
        resume(one, folder)
    path.unlink()
    with pytest.raises(ConfigError, match="the run has no checkpoint yet to go on from without it"):
        resume(one, folder)


def train(*words: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["train", *words, "--json"])
    assert result.exit_code == 0, result.output
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def test_training_begins_from_a_file_and_then_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = pretrained()
    torch.save({name: value for name, value in state.items() if name != "head.bias"}, tmp_path / "net")
    (tmp_path / "own.yaml").write_text(config(tmp_path).to_yaml())
    first = train("own.yaml", "model.weights=net", "--name", "first", "outer.steps=1")
    assert "begin as initialised: head.bias" in " ".join(first["warnings"])
    run = RunFolder(tmp_path / "runs" / "first")
    assert len(run.info["weights"]["sha256"]) == 64
    (tmp_path / "net").unlink()  # θ is in the checkpoint
    assert train("--resume", "first", "outer.steps=2")["steps"] == 2
    _, saved = checkpoints.chosen(run.checkpoints)
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(saved.params[name], state[name])

    train("own.yaml", "--from", "first", "--name", "second", "outer.lr=1e-30")
    train("--resume", "first", "outer.steps=3")
    assert train("--resume", "second", "outer.steps=3")["steps"] == 3  # its own θ is in its own checkpoint
    _, after = checkpoints.chosen(RunFolder(tmp_path / "runs" / "second").checkpoints)
    assert all(torch.equal(after.params[name], value) for name, value in saved.params.items())
    both = CliRunner().invoke(app, ["train", "--resume", "first", "--from", "first"])
    assert both.exit_code == 2
    assert "received both" in both.output
