"""The guide to objectives: its tables name what there is, and its example trains and is scored."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.components import BUILT_IN
from cluster.config.schema import parse
from cluster.errors import ConfigError
from cluster.setups.build import build
from cluster.training.preflight import require_path

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
SETTINGS: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
    "shard": 2,
    "engine": "trace",
    "cluster": {"workers": 0},
}


def block(language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(text)


@pytest.mark.parametrize("key", ["objective.name", "eval.scores"])
def test_every_name_is_in_the_tables(key: str) -> None:
    assert [name for name in BUILT_IN[key] if f"`{name}`" not in PAGE] == []


def test_the_example_is_an_objective_and_a_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_objectives.py").write_text(block("python"))
    monkeypatch.syspath_prepend(tmp_path)
    config = parse(SETTINGS | yaml.safe_load(block("yaml")))
    assert parse(yaml.safe_load(config.to_yaml())) == config
    setup = build(config)
    require_path(setup)
    scores = setup.further_scores(setup.initial_params(), setup.held_out_episodes("test", range(3)), (0, 1))
    assert scores.shape == (3, 2, 2)
    assert (scores >= 0).all()


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "classes": ({"objective": "cross_entropy"}, "objective: expected one for targets that are numbers.*huber"),
    "no levels": ({"objective": "quantile"}, "objective.levels: missing"),
    "counts": ({"objective": "poisson"}, "before the first outer step.*poisson: expected counts"),
    "labels": ({"objective": "bce"}, "before the first outer step.*bce: expected labels"),
    "odd outputs": (
        {"objective": "gaussian_nll", "model": {"name": "torch.nn:Linear", "in_features": 1, "out_features": 1}},
        r"before the first outer step.*gaussian_nll: expected outputs \[B, 2 O\].*\(5, 1\)",
    ),
    "misspelled": ({"objective": "hubr"}, "did you mean 'huber'"),
    "out of range": ({"objective": {"name": "huber", "delta": -1.0}}, "objective: delta: expected"),
    "no objective": ({"objective": "meta.models:MLP"}, "expected a subclass of meta.objectives.Objective"),
    "scores of classes": ({"eval": {"scores": ["auroc"]}}, "eval.scores: expected scores of targets that are numbers"),
    "twice": ({"eval": {"scores": ["r2", "r2"]}}, "scores: expected each score once"),
    "acting": (
        {"task": {"family": "navigation"}, "model": {"name": "gaussian"}, "objective": "mse", "engine": "auto"},
        "objective: expected none for RL tasks",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_combinations_that_cannot_work_are_refused_before_the_first_step(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        require_path(build(parse(SETTINGS | change)))


def test_families_of_other_objectives_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "\n".join(
        (
            "from tasks.sinusoid import Sinusoid",
            "from tasks.family import FamilySpec",
            "class Odd(Sinusoid):",
            "    @property",
            "    def spec(self):",
            "        return FamilySpec(input_shape=(1,), outputs=1, objective='odd')",
        )
    )
    (tmp_path / "odd_family.py").write_text(lines)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"expected a spec whose objective is one of bce.*received 'odd'"):
        build(parse(SETTINGS | {"task": {"family": "odd_family:Odd"}}))
