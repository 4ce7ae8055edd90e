"""Tokens as inputs: drawn, trained, packed as a registered model, and read by the server as whole numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cluster.config.schema import parse
from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable
from cluster.registry.loading import load_adaptable
from cluster.serving.forms import JSON
from cluster.serving.limits import Limits, Refused
from cluster.serving.requests import read
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from helpers.packages import pack
from meta.episode import Episode, Examples, unstack
from tasks.checker import FamilyError, check_family
from tasks.family import FamilySpec, TaskKey

HERE, WORDS, LENGTH, CLASSES = __name__, 7, 4, 3


class Tokens:
    """Sentences whose class is that of their first word, under a numbering of the task's own."""

    def __init__(self, vocabulary: int = WORDS, kind: str = "int64") -> None:
        self._vocabulary, self._kind = vocabulary, getattr(torch, kind)

    @property
    def spec(self) -> FamilySpec:
        shape, symbols = (LENGTH,), self._vocabulary
        return FamilySpec(
            input_shape=shape, outputs=CLASSES, objective="cross_entropy", by_class=False, vocabulary=symbols
        )

    def draw(self, key: TaskKey) -> Episode:
        rng = key.rng()
        classes = rng.integers(CLASSES, size=WORDS)

        def examples() -> Examples:
            words = rng.integers(WORDS, size=(6, LENGTH))
            return Examples(torch.from_numpy(words).to(self._kind), torch.from_numpy(classes[words[:, 0]]))

        return Episode(examples(), examples(), torch.zeros(0))


class Reader(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, 5), nn.Linear(5 * LENGTH, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(ids)).flatten(1))


def config(folder: Path, **task: Any) -> Any:
    return parse(
        {
            "task": {"family": f"{HERE}:Tokens"} | task,
            "model": {"name": f"{HERE}:Reader"},
            "inner": {"lr": 0.1, "steps": 1},
            "outer": {"steps": 2},
            "meta_batch": 2,
            "engine": "loop",
            "cluster": {"workers": 0},
            "checkpoint": {"root": str(folder / "runs")},
        }
    )


@pytest.fixture
def packed(tmp_path: Path) -> tuple[EpisodeSetup, Adaptable]:
    setup, _, package = pack(config(tmp_path), tmp_path, {"metric": "accuracy"})
    assert isinstance(setup, EpisodeSetup)
    return setup, load_adaptable(package, [HERE])


def test_the_family_keeps_its_contract() -> None:
    check_family(Tokens(), tasks=3)


def test_a_registered_model_predicts_as_the_algorithm_does(packed: tuple[EpisodeSetup, Adaptable]) -> None:
    setup, model = packed
    episodes = setup.held_out_episodes("test", range(2))
    gradient = setup.engine.meta_gradient(setup.initial_params(), episodes).gradient
    assert bool(gradient["embed.weight"].any())
    arrays = {
        "support_inputs": episodes.support.inputs.numpy(),
        "support_targets": episodes.support.targets.numpy(),
        "query_inputs": episodes.query.inputs.numpy(),
    }
    assert str(model.inputs[0]) == "support_inputs [T, S, 4] int64"
    predicted = torch.from_numpy(model.predict(arrays, 2, 0.1))
    for task in range(2):
        episode = unstack(episodes, task)
        logits = setup.algorithm.predict(setup.initial_params(), episode.support, episode.query.inputs, 2)
        torch.testing.assert_close(predicted[task], logits.detach().softmax(dim=-1), rtol=1e-5, atol=1e-6)


def asked(**changes: Any) -> bytes:
    inputs = {"support_inputs": [[[0, 1, 2, 3]]], "support_targets": [[1]], "query_inputs": [[[6, 5, 4, 3]]]} | changes
    return json.dumps({"inputs": inputs}).encode()


def test_a_server_reads_whole_numbers(packed: tuple[EpisodeSetup, Adaptable]) -> None:
    question = read(asked(), JSON, packed[1], Limits())
    assert question.arrays["query_inputs"].dtype == np.int64
    with pytest.raises(Refused, match="query_inputs: expected symbols from 0 to 6, received some from -1 to 7"):
        read(asked(query_inputs=[[[7, -1, 0, 0]]]), JSON, packed[1], Limits())
    with pytest.raises(Refused, match=r"support_inputs"):
        read(asked(support_inputs=[[[0.5, 1, 2, 3]]]), JSON, packed[1], Limits())


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ({"vocabulary": 0}, "support inputs: expected real numbers, received torch.int64; .* vocabulary=…"),
        ({"vocabulary": 5}, r"expected symbols from 0 to 4 \(spec.vocabulary is 5\), received some from 0 to 6"),
        ({"kind": "float32"}, "expected symbols of type torch.int64 .*, received torch.float32"),
    ],
)
def test_inputs_of_another_kind_are_refused(task: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        build(config(tmp_path, **task))
    with pytest.raises(FamilyError, match=named):
        check_family(Tokens(**task), tasks=3)
