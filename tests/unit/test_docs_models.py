"""The guide to models: its examples are a network that trains, and configurations."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cluster.config.schema import parse
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from cluster.training.weights import starting_weights
from meta.models import TorchModel
from tasks.checker import check_family

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_bert_is_a_configuration_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.vision import torchvision

    assert torchvision
    pytest.importorskip("transformers", reason="needs the package transformers, which metaray does not")
    (tmp_path / "my_bert.py").write_text(next(text for text in blocks("python") if "my_bert.py" in text))
    monkeypatch.syspath_prepend(tmp_path)
    from my_bert import TinyBert  # type: ignore[import-not-found]

    model = TorchModel(lambda: TinyBert(3), output="logits")
    params = model.init(torch.Generator().manual_seed(0), torch.float32)
    assert model.apply(params, torch.randint(100, (4, 6))).shape == (4, 3)


def test_the_family_of_several_inputs_keeps_its_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_text.py").write_text(next(text for text in blocks("python") if "my_text.py" in text))
    monkeypatch.syspath_prepend(tmp_path)
    from my_text import Text  # type: ignore[import-not-found]

    check_family(Text(), tasks=2)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    from grammar import Grammar  # type: ignore[import-not-found]

    check_family(Grammar(shot=1, query=1), tasks=2)


@pytest.fixture
def settings(make_store: Any) -> dict[str, Any]:
    return {
        "task": {"family": "images", "root": str(make_store((32, 32, 3), 6, 6)), "way": 5, "shot": 1, "query": 1},
        "outer": {"steps": 1},
        "meta_batch": 1,
        "cluster": {"workers": 0},
        "engine": "eager",
    }


def test_torchvisions_network_trains_from_weights(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(text for text in blocks("python") if "my_models.py" in text)
    (tmp_path / "my_models.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    from my_models import ResNet18  # type: ignore[import-not-found]

    plain, with_weights = (yaml.safe_load(text) for text in blocks("yaml"))
    torch.manual_seed(1)
    torch.save(ResNet18(1000).state_dict(), with_weights["model"]["weights"])
    config = parse(settings | plain | with_weights)
    setup = build(config)
    assert isinstance(setup, EpisodeSetup)
    weights = starting_weights(setup)
    assert weights is not None
    assert weights.warnings == ()
    assert setup.describe("test")["batch_norm"] == "frozen"
    assert sum(name.endswith("running_var") for name in setup.frozen) == 20
    gradient, metrics = setup.engine.meta_gradient(weights.params, setup.training_episodes(range(1)), setup.context(0))
    assert all(bool(torch.isfinite(value).all()) for value in (*gradient.values(), *metrics.values()))
    assert bool(gradient["conv1.weight"].any())
