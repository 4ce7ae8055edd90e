"""The schema for editors agrees with the checks of the command, and ``config show`` says where values come from."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from cluster.commands.cli import app
from cluster.config.json_schema import json_schema
from cluster.config.schema import load, parse, read_yaml
from cluster.errors import ConfigError

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "tune_configs").rglob("*.yaml") if path.name != "reproduce.yaml")
DEMO = ROOT / "tune_configs" / "sinusoid_demo.yaml"


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_configuration_passes(validator: Any, path: Path) -> None:
    assert [error.message for error in validator.iter_errors(read_yaml(path))] == []


def test_weights_may_stand_beside_the_keys_of_any_model(validator: Any) -> None:
    raw = read_yaml(DEMO) | {"model": {"name": "mlp", "hidden": [3], "weights": "net.pt", "reinit": ["layer1.*"]}}
    assert parse(raw).model.weights == "net.pt"
    assert validator.is_valid(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"inner": {"lrr": 0.1}},
        {"inner": {"lr": -1}},
        {"inner": {"rule": {"name": "adam", "beta": 0.5}}},
        {"inner": {"derivative": "exakt"}},
        {"model": {"name": "mlp", "hiden": [3]}},
        {"model": {"hidden": [3]}},
        {"model": {"name": "mlp", "weights": 3}},
        {"task": {"family": "sinusoid", "shots": 3}},
        {"algorithm": "mamll"},
        {"algorithm": {"name": "mamlpp", "multi_step": "x"}},
        {"outer": {"steps": 3, "optimizer": {"name": "sgd", "momentun": 0.5}}},
        {"outer": {"steps": 3, "schedule": {"name": "linear", "finall": 0.5}}},
        {"meta_batch": 0},
        {"cluster": {"workers": "many"}},
        {"sed": 3},
    ],
    ids=str,
)
def test_what_the_command_refuses_the_schema_refuses(validator: Any, change: dict[str, Any]) -> None:
    raw = read_yaml(DEMO) | change
    with pytest.raises(ConfigError):
        parse(raw)
    assert not validator.is_valid(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"inner": {"rule": {"name": "adam", "beta1": 0.5}}},
        {"algorithm": {"name": "mamlpp", "multi_step": 5}},
        {"outer": {"steps": 3, "optimizer": {"name": "sgd", "momentum": 0.5, "groups": {"a": {"patterns": "head.*"}}}}},
        {"outer": {"steps": 3, "optimizer": "SGD", "schedule": "cosine"}},
        {"cluster": {"workers": 3}},
    ],
    ids=str,
)
def test_what_the_command_takes_the_schema_takes(validator: Any, change: dict[str, Any]) -> None:
    raw = read_yaml(DEMO) | change
    parse(raw)
    assert [error.message for error in validator.iter_errors(raw)] == []


def test_classes_by_import_path_may_have_any_keys(validator: Any) -> None:
    raw = read_yaml(DEMO) | {"model": {"name": "my_models:Net", "layers": 3}}
    assert validator.is_valid(raw)
    assert not validator.is_valid(raw | {"model": {"name": "my models", "layers": 3}})


def shown(*words: str) -> str:
    result = CliRunner().invoke(app, ["config", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_configuration_is_shown_whole_and_loads_again(tmp_path: Path) -> None:
    words = ("inner.lr=0.02", "inner.rule=adam", "outer.optimizer.weight_decay=0.1")
    text = shown("show", str(DEMO), *words)
    (tmp_path / "whole.yaml").write_text(text)
    assert load(tmp_path / "whole.yaml") == load(DEMO, words)
    origin = {line.split("#")[0].strip(): line.split("# ")[1] for line in text.splitlines() if "#" in line}
    assert origin["lr: 0.02"] == "command line"
    assert origin["beta1: 0.9"] == "default"
    assert origin["weight_decay: 0.1"] == "command line"
    assert origin["meta_batch: 25"] == "file"
    assert origin["keep: 3"] == "default"


def test_origins_as_json() -> None:
    found = json.loads(shown("show", str(DEMO), "seed=4", "--json"))
    assert found["config"]["seed"] == 4
    assert found["origins"]["seed"] == "command line"
    assert found["origins"]["task.shot"] == "file"
    assert found["origins"]["inner.rule"] == "default"


def test_the_schema_is_printed() -> None:
    assert json.loads(shown("schema")) == json_schema()


def test_values_with_special_letters_stay_on_one_line(tmp_path: Path) -> None:
    raw = read_yaml(DEMO) | {"tracking": {"experiment": "a: b # c, {d}"}}
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(raw))
    (tmp_path / "again.yaml").write_text(shown("show", str(path)))
    assert load(tmp_path / "again.yaml") == load(path)
