"""Several inputs by name: packed as a registered model, read by the server, adapted, saved; and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import metaray
from cluster.commands.cli import app
from cluster.config.schema import parse
from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable, vectorised
from cluster.registry.loading import load_adaptable
from cluster.registry.pyfunc import example_of, signature_of
from cluster.serving.compiled import Compiler, Compiling
from cluster.serving.forms import JSON
from cluster.serving.limits import Limits, Refused
from cluster.serving.requests import read
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from helpers.packages import pack
from meta.episode import Episode, Examples, unstack
from tasks.checker import FamilyError, check_family
from tasks.family import FamilySpec, TaskKey
from tasks.inputs import InputSpec

HERE, WORDS, LENGTH, CLASSES = __name__, 7, 4, 3
SPECS = {
    "tokens": InputSpec((LENGTH,), "int64", vocabulary=WORDS),
    "mask": InputSpec((LENGTH,), "bool"),
    "level": InputSpec((2,)),
}


class Sentences:
    """Sentences whose class is that of their first word, under a numbering of the task's own."""

    def __init__(self, fault: str = "") -> None:
        self._fault = fault

    @property
    def spec(self) -> FamilySpec:
        return FamilySpec(inputs=SPECS, outputs=CLASSES, objective="cross_entropy", by_class=False)

    def draw(self, key: TaskKey) -> Episode:
        rng = key.rng()
        classes = rng.integers(CLASSES, size=WORDS)

        def examples() -> Examples:
            words = torch.from_numpy(rng.integers(WORDS, size=(6, LENGTH)))
            mask = torch.arange(LENGTH) < torch.from_numpy(rng.integers(1, LENGTH + 1, size=(6, 1)))
            level = torch.from_numpy(rng.normal(size=(6, 2)))
            inputs = {"tokens": words, "mask": mask, "level": level}
            if self._fault == "no mask":
                del inputs["mask"]
            elif self._fault == "numbers":
                inputs["mask"] = mask.double()
            elif self._fault == "unknown":
                inputs["tokens"] = words + 1
            elif self._fault == "short":
                inputs["level"] = level[:5]
            return Examples(inputs, torch.from_numpy(classes)[words[:, 0]])

        return Episode(examples(), examples(), torch.zeros(0))


class Reader(nn.Module):
    def __init__(self, inputs: dict[str, tuple[int, ...]], outputs: int):
        super().__init__()
        self.embed = nn.Embedding(WORDS, 5)
        self.head = nn.Linear(5 * inputs["tokens"][0] + inputs["level"][0], outputs)

    def forward(self, tokens: Tensor, mask: Tensor, level: Tensor) -> Tensor:
        words = torch.tanh(self.embed(tokens)) * mask.unsqueeze(-1)
        return self.head(torch.cat([words.flatten(1), level], dim=1))


class Deaf(Reader):
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(tokens, mask, mask[:, :2])


class Real(Reader):
    def forward(self, tokens: Tensor, mask: Tensor, level: Tensor) -> Tensor:
        return super().forward(tokens * level[:, :1], mask, level)


def config(folder: Path, **sections: Any) -> Any:
    return parse(
        {
            "task": {"family": f"{HERE}:Sentences"},
            "model": {"name": f"{HERE}:Reader"},
            "inner": {"lr": 0.1, "steps": 1},
            "outer": {"steps": 2},
            "meta_batch": 2,
            "engine": "loop",
            "cluster": {"workers": 0},
            "checkpoint": {"root": str(folder / "runs")},
        }
        | sections
    )


@pytest.fixture
def packed(tmp_path: Path) -> tuple[EpisodeSetup, Adaptable]:
    setup, _, package = pack(config(tmp_path), tmp_path, {"metric": "accuracy"})
    assert isinstance(setup, EpisodeSetup)
    return setup, load_adaptable(package, [HERE])


def arrays_of(episodes: Episode) -> dict[str, Any]:
    halves = {"support": episodes.support.inputs, "query": episodes.query.inputs}
    arrays = {f"{half}_{name}": one.numpy() for half, inputs in halves.items() for name, one in inputs.items()}
    return arrays | {"support_targets": episodes.support.targets.numpy()}


def expected(setup: EpisodeSetup, episodes: Episode, steps: int) -> Tensor:
    rows = []
    for task in range(len(episodes.description)):
        one = unstack(episodes, task)
        rows.append(setup.algorithm.predict(setup.initial_params(), one.support, one.query.inputs, steps))
    return torch.stack(rows).detach().softmax(dim=-1)


def test_the_family_keeps_its_contract() -> None:
    check_family(Sentences(), tasks=3)


def test_a_registered_model_has_an_array_for_each_input(packed: tuple[EpisodeSetup, Adaptable]) -> None:
    setup, model = packed
    episodes = setup.held_out_episodes("test", range(2))
    assert [str(field) for field in model.inputs] == [
        "support_level [T, S, 2] float64",
        "support_mask [T, S, 4] bool",
        "support_tokens [T, S, 4] int64",
        "support_targets [T, S] int64",
        "query_level [T, Q, 2] float64",
        "query_mask [T, Q, 4] bool",
        "query_tokens [T, Q, 4] int64",
    ]
    predicted = torch.from_numpy(model.predict(arrays_of(episodes), 2, 0.1))
    torch.testing.assert_close(predicted, expected(setup, episodes, 2), rtol=1e-5, atol=1e-6)
    assert signature_of(model).inputs.input_names() == [field.name for field in model.inputs]
    assert model.predict(example_of(model), 1, 0.1).shape == (1, 1, CLASSES)


def test_compiled_programs_take_them(packed: tuple[EpisodeSetup, Adaptable]) -> None:
    setup, model = packed
    arrays = model.check(arrays_of(setup.held_out_episodes("test", range(2))), 2, 0.1)
    compiler = Compiler(due=0.0)
    try:
        run = Compiling(vectorised(2), compiler)
        first = model.adapted(arrays, 2, 0.1, run)
        assert compiler.settle(240)
        again = model.adapted(arrays, 2, 0.1, run)
    finally:
        compiler.close()
    np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-5)


def test_a_server_reads_them_by_name(packed: tuple[EpisodeSetup, Adaptable]) -> None:
    setup, model = packed
    arrays = arrays_of(setup.held_out_episodes("test", range(1)))

    def asked(**changes: Any) -> bytes:
        lists = {name: array.tolist() for name, array in arrays.items()} | changes
        return json.dumps({"inputs": {name: value for name, value in lists.items() if value is not None}}).encode()

    question = read(asked(), JSON, model, Limits())
    assert question.arrays["query_mask"].dtype == bool
    np.testing.assert_array_equal(question.arrays["query_tokens"], arrays["query_tokens"])
    with pytest.raises(Refused, match="query_tokens: expected symbols from 0 to 6, received some from 7 to 7"):
        read(asked(query_tokens=np.full((1, 6, 4), 7).tolist()), JSON, model, Limits())
    with pytest.raises(Refused, match=r"support_mask.* inputs are support_level \[T, S, 2\] float64"):
        read(asked(support_mask=None), JSON, model, Limits())
    with pytest.raises(Refused, match=r"query_mask \[T, Q, 4\] bool: expected 6 queries as in query_level, received 2"):
        read(asked(query_mask=[[[True] * 4] * 2]), JSON, model, Limits())


def test_adapt_takes_arrays_and_saves_a_program(packed: tuple[EpisodeSetup, Adaptable], tmp_path: Path) -> None:
    setup, model = packed
    episodes = setup.held_out_episodes("test", range(1))
    np.savez(tmp_path / "task.npz", **arrays_of(episodes))
    words = [str(tmp_path / "package"), "--trust", HERE, "--support", str(tmp_path / "task.npz"), "--json"]
    done = CliRunner().invoke(app, ["adapt", *words, "--steps", "2", "--save", str(tmp_path / "own.pt2")])
    assert done.exit_code == 0, done.output
    predicted = model.predict(arrays_of(episodes), 2, 0.1)
    np.testing.assert_allclose(json.loads(done.stdout)["predictions"], predicted, rtol=1e-5, atol=1e-6)
    program = torch.export.load(str(tmp_path / "own.pt2")).module()
    outputs = program({name: one[0, :3] for name, one in episodes.query.inputs.items()})
    torch.testing.assert_close(outputs, torch.from_numpy(predicted[0, :3]), rtol=1e-5, atol=1e-6)
    table = CliRunner().invoke(
        app, ["adapt", *words[:3], "--support", __file__.replace(".py", ".csv"), "--query", __file__]
    )
    assert table.exit_code == 2


def test_python_adapts_and_differentiates_modules_of_several_inputs() -> None:
    torch.manual_seed(0)
    module = Reader({"tokens": (LENGTH,), "level": (2,)}, CLASSES)
    one = Sentences().draw(TaskKey(0, "train", 0))
    mean = metaray.meta_gradient(module, "cross_entropy", [(one.support, one.query)], steps=1, lr=0.1)
    assert all(bool(torch.isfinite(value).all()) for value in mean.gradient.values())
    adapted = metaray.adapt(module, "cross_entropy", (one.support.inputs, one.support.targets), steps=30, lr=0.3)
    floats = {name: value.float() if value.is_floating_point() else value for name, value in one.support.inputs.items()}
    before, after = (
        nn.functional.cross_entropy(net(**floats), one.support.targets).item() for net in (module, adapted)
    )
    assert after < 0.5 * before


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("no mask", "support inputs: expected level, mask, tokens as in the family's spec, received level, tokens"),
        ("numbers", r"inputs mask: expected truth values of type torch.bool \(spec.inputs\), received torch.float64"),
        ("unknown", r"inputs tokens: expected symbols from 0 to 6 \(spec.inputs is 7\), received some from 1 to 7"),
    ],
)
def test_episodes_that_are_not_those_of_the_spec_are_refused(fault: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        build(config(tmp_path, task={"family": f"{HERE}:Sentences", "fault": fault}))
    with pytest.raises(FamilyError, match=named):
        check_family(Sentences(fault), tasks=3)


def test_inputs_of_other_lengths_are_refused() -> None:
    with pytest.raises(FamilyError, match="inputs level: expected 6 examples as in tokens, received 5"):
        check_family(Sentences("short"), tasks=3)


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {"name": f"{HERE}:Deaf"}}, r"declares \(tokens, mask\), received 'level'"),
        ({"model": {"name": f"{HERE}:Real"}}, r"tokens \[6, 4\] torch.int64: .* see dtype and shape"),
        ({"model": {"name": "mlp"}}, "model mlp: expected a family of inputs in one tensor, received several: "),
        ({"algorithm": "cavia"}, "algorithm cavia: expected a family of inputs in one tensor"),
    ],
)
def test_what_takes_other_inputs_is_refused(sections: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        build(config(tmp_path, **sections))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"inputs": {"targets": InputSpec((1,))}}, "other than 'targets', received 'targets'"),
        ({"inputs": {"a mask": InputSpec((1,))}}, "expected names of arguments of forward"),
        ({"inputs": {"mask": (1,)}}, "expected an InputSpec for 'mask', received tuple"),
        ({"inputs": SPECS, "input_shape": (1,)}, "either input_shape and vocabulary, .* or inputs"),
    ],
)
def test_specs_that_cannot_be_are_refused(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        FamilySpec(outputs=1, objective="mse", **keys)
    with pytest.raises(ValueError, match="expected none beside dtype float; symbols are int64"):
        InputSpec((1,), vocabulary=3)
    with pytest.raises(ValueError, match=r"InputSpec\.dtype: expected one of float, int64, bool, received 'real'"):
        InputSpec((1,), "real")  # type: ignore[arg-type]
