"""The guide to methods: its example is a method, and its tables name what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.components import BUILT_IN
from cluster.config.schema import parse
from cluster.setups.build import build

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


@pytest.mark.parametrize("key", ["algorithm", "inner.rule.name", "inner.derivative.name"])
def test_every_name_is_in_the_tables(key: str) -> None:
    assert [name for name in BUILT_IN[key] if f"`{name}`" not in PAGE] == []


def test_the_example_is_short() -> None:
    assert len(block("python").splitlines()) <= 30


SETTINGS: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
    "shard": 2,
    "engine": "trace",
    "cluster": {"workers": 0},
}


def test_the_yaml_is_a_configuration() -> None:
    config = parse(SETTINGS | yaml.safe_load(block("yaml")))
    assert config.algorithm.params["multi_step"] == 500
    assert parse(yaml.safe_load(config.to_yaml())) == config
    assert "inner/lr/layer0.weight" in build(config).initial_params()


@pytest.mark.parametrize("strategy", ["trace", "loop"])
def test_the_example_is_a_method(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_methods.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    own = {"algorithm": {"name": "my_methods:Proximal", "warm_up": 2}, "engine": strategy}
    setup = build(parse(SETTINGS | own))
    early, late = (setup.context(step).numbers["weight"] for step in (0, None))
    assert (float(early), float(late)) == (0.0, pytest.approx(0.1))
    params, episodes = setup.initial_params(), setup.training_episodes(range(2))
    gradients = [setup.engine.meta_gradient(params, episodes, setup.context(step)) for step in (0, 2)]
    assert gradients[0].metrics["distance"].shape == (2,)
    assert not gradients[0].gradient["layer0.weight"].equal(gradients[1].gradient["layer0.weight"])
