"""Registered models without a registry: what is packed, that it adapts as an evaluation does, and what it refuses."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from cluster.config.schema import parse
from cluster.errors import CheckpointError
from cluster.evaluation.scores import evaluate_params
from cluster.registry.adapting import Adaptable
from cluster.registry.loading import load_adaptable
from cluster.registry.package import SPEC
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.setups.build import Setup
from cluster.setups.episodes import EpisodeSetup
from cluster.setups.policies import PolicySetup
from cluster.workers.open import open_pool
from cluster.workers.rollouts import RolloutWork
from helpers.packages import pack
from meta.params import Params
from tasks.family import TaskKey, draw_batch

EVALUATION = {"metric": "mse", "checkpoint_step": 3}
SINUSOID: Mapping[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 4},
    "model": {"name": "mlp", "hidden": [20, 20], "init_std": None},
    "inner": {"lr": 0.02, "steps": 2},
    "outer": {"steps": 3},
    "meta_batch": 6,
    "shard": 2,
    "eval": {"tasks": 5, "steps": [0, 3]},
    "cluster": {"workers": 0},
}
NAVIGATION: Mapping[str, Any] = {
    # The large radius ends some trajectories early.
    "task": {"family": "navigation", "horizon": 6, "trajectories": 4, "scale": 0.1, "radius": 0.3},
    "model": {"name": "gaussian", "hidden": [7]},
    "inner": {"lr": 0.1, "steps": 1},
    "outer": {"steps": 2, "step": "trpo"},
    "meta_batch": 4,
    "shard": 2,
    "engine": "loop",
    "eval": {"later_lr": 0.5, "select_steps": 2},
    "cluster": {"workers": 0},
}
TABULAR = {
    "task": {"family": "tabular", "horizon": 4, "trajectories": 3},
    "model": {"name": "categorical", "hidden": []},
}


def packed(raw: Mapping[str, Any], root: Path) -> tuple[Setup, Params, Path]:
    """A run that has θ and optimizer state, and its package."""
    config = parse({**raw, "checkpoint": {"root": str(root / "runs")}})
    return pack(config, root, EVALUATION, **{"optimizer.step": torch.ones(())})


@pytest.fixture
def images(make_store: Callable[..., Path]) -> dict[str, Any]:
    return {
        **SINUSOID,
        "task": {"family": "images", "root": str(make_store((8, 8, 3), 6, 6)), "way": 3, "shot": 2, "query": 2},
        "model": {"name": "conv4", "channels": 4, "blocks": 2},
        "inner": {"lr": 0.4, "steps": 1, "adapt": ["*.weight", "*.bias"]},
    }


def test_a_package_is_a_run_folder_with_theta_alone(tmp_path: Path):
    setup, params, path = packed(SINUSOID, tmp_path)
    folder = RunFolder(path)
    assert folder.config == setup.config
    name, state = checkpoints.chosen(folder.checkpoints)
    assert name == checkpoints.BEST
    assert state.step == 3
    assert all(torch.equal(state.params[key], value) for key, value in params.items())
    with safe_open(path / "checkpoints" / name, "pt") as file:
        assert set(file.keys()) == {f"theta.{key}" for key in params}
    assert json.loads((path / "evaluation.json").read_text()) == EVALUATION
    with open_pool(setup) as pool:
        assert evaluate_params(pool, setup.config, setup, state)["tasks"] == 5


def drawn(setup: EpisodeSetup, tasks: int = 5) -> tuple[dict[str, np.ndarray], Any]:
    """Test tasks as the family gives them, and as a caller gives them."""
    episodes = draw_batch(setup.family, setup.seed, "test", range(tasks), torch.float64)
    arrays = {
        "support_inputs": episodes.support.inputs.numpy(),
        "support_targets": episodes.support.targets.numpy(),
        "query_inputs": episodes.query.inputs.numpy(),
    }
    return arrays, draw_batch(setup.family, setup.seed, "test", range(tasks), setup.dtype)


def as_pixels(inputs: np.ndarray) -> np.ndarray:
    return np.round(np.moveaxis(inputs, -3, -1) * 255).astype(np.uint8)


class Normed(nn.Module):
    """A module of a user's own with running statistics, which returns a structure."""

    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(inputs[0], 4), nn.BatchNorm1d(4), nn.Linear(4, outputs)
        self.norm.get_buffer("running_var").uniform_(0.5, 2.0)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(torch.tanh(self.norm(self.first(x))))}


def normed(mode: str) -> dict[str, Any]:
    return {"model": {"name": f"{__name__}:Normed", "batch_norm": mode, "output": "logits"}}


OTHERS: dict[str, dict[str, Any]] = {
    "maml": {},
    "fomaml": {"algorithm": "fomaml"},
    "pretrain": {"algorithm": "pretrain"},
    "float64": {"dtype": "float64"},
    "recompute": {"inner": {"lr": 0.02, "steps": 2, "recompute": True}},
    "reptile": {"algorithm": "reptile"},
    "mamlpp": {
        "algorithm": {"name": "mamlpp", "multi_step": 4},
        "inner": {"lr": 0.02, "steps": 2, "rule": {"name": "learned_sgd", "per": "step"}},
    },
    "meta-sgd": {"inner": {"lr": 0.02, "steps": 2, "rule": {"name": "learned_sgd", "per": "element"}}},
    "cavia": {"algorithm": "cavia"},
    "r2d2": {"algorithm": {"name": "r2d2", "head": "layer2"}},
    "momentum": {"inner": {"lr": 0.02, "steps": 2, "rule": "momentum"}},
    "implicit": {"inner": {"lr": 0.02, "steps": 2, "derivative": "implicit"}},
    "torch module": {"model": {"name": "torch.nn:Linear", "in_features": 1, "out_features": 1}},
    **{f"{mode} module": normed(mode) for mode in ("frozen", "inductive", "transductive")},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_values_are_those_that_an_evaluation_scores(tmp_path: Path, change: dict[str, Any], steps: int, close):
    setup, params, path = packed({**SINUSOID, **change}, tmp_path)
    assert isinstance(setup, EpisodeSetup)
    arrays, episodes = drawn(setup)
    model = load_adaptable(path, ["torch", __name__])
    outputs = torch.from_numpy(model.predict(arrays, steps, 0.02))
    scores = (outputs - episodes.query.targets).square().mean(dim=(1, 2))
    assert outputs.dtype == setup.dtype
    close(scores, setup.engine.scores(params, episodes, (steps,))[:, 0])


@pytest.mark.parametrize("algorithm", ["maml", "protonet", "protomaml", "unicorn", "r2d2"])
@pytest.mark.parametrize("batch_norm", ["transductive", "inductive", None])
def test_probabilities_are_those_of_the_algorithm(
    tmp_path: Path, images: dict[str, Any], batch_norm: str | None, algorithm: str, close: Callable[..., None]
):
    head = {"head": "layer1"} if batch_norm is None and algorithm in ("protomaml", "unicorn", "r2d2") else {}
    images["algorithm"] = {"name": algorithm, **head}
    if batch_norm is None:  # what pixels are divided by shows here alone
        images["model"] = {"name": "mlp", "hidden": [8], "init_std": None}
    images["model"]["batch_norm"] = batch_norm
    setup, params, path = packed(images, tmp_path)
    assert isinstance(setup, EpisodeSetup)
    arrays, episodes = drawn(setup)
    given = {name: as_pixels(array) if "inputs" in name else array for name, array in arrays.items()}
    model = load_adaptable(path)
    found = torch.from_numpy(model.predict(given, 2, 0.4))
    for task in range(5):
        episode = type(episodes)(
            *(type(p)(*(x[task] for x in p)) if isinstance(p, tuple) else p[task] for p in episodes)
        )
        logits = setup.algorithm.predict(params, episode.support, episode.query.inputs, 2)
        close(found[task], torch.softmax(logits.detach(), dim=-1))
    hits = (found.argmax(dim=-1) == episodes.query.targets).to(setup.dtype).mean(dim=1)
    assert torch.equal(hits, setup.engine.scores(params, episodes, (2,))[:, 0])


def test_another_step_size_is_that_of_a_run_trained_with_it(tmp_path: Path, close: Callable[..., None]):
    setup, params, path = packed(SINUSOID, tmp_path / "one")
    other = packed({**SINUSOID, "inner": {"lr": 0.05, "steps": 2}}, tmp_path / "other")[0]
    assert isinstance(setup, EpisodeSetup)
    assert isinstance(other, EpisodeSetup)
    arrays, episodes = drawn(setup)
    outputs = torch.from_numpy(load_adaptable(path, ["torch"]).predict(arrays, 2, 0.05))
    close(
        (outputs - episodes.query.targets).square().mean(dim=(1, 2)), other.engine.scores(params, episodes, (2,))[:, 0]
    )


def test_learned_step_sizes_are_not_those_of_a_call(tmp_path: Path):
    model = load_adaptable(packed({**SINUSOID, **OTHERS["meta-sgd"]}, tmp_path)[2])
    arrays = {name: np.zeros((1, 3, 1)) for name in ("support_inputs", "support_targets", "query_inputs")}
    assert model.predict(arrays, 2, model.inner_lr).shape == (1, 3, 1)
    with pytest.raises(ValueError, match=r"inner_lr: expected none, or the 0\.02 of the configuration"):
        model.predict(arrays, 2, 0.05)


def test_any_number_of_tasks_and_examples(tmp_path: Path):
    model = load_adaptable(packed(SINUSOID, tmp_path)[2])
    for tasks, support, queries in ((1, 1, 1), (7, 3, 11)):
        given = {
            "support_inputs": np.zeros((tasks, support, 1)),
            "support_targets": np.ones((tasks, support, 1)),
            "query_inputs": np.zeros((tasks, queries, 1)),
        }
        assert model.predict(given, 1, 0.01).shape == (tasks, queries, 1)


def acted(setup: PolicySetup, params: Params, steps: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the policy did in test tasks after each inner step, and its distributions at the end where it was then."""
    keys = [TaskKey(setup.seed, "test", index) for index in range(3)]
    walk = [rollouts for rollouts, _ in RolloutWork(setup).walk(keys, params, steps, evaluation=True)]
    support = walk[: max(steps, 1)]
    actions = np.stack([one.actions for one in support], axis=1)
    arrays = {
        "support_observations": np.stack([one.observations for one in support], axis=1),
        "support_actions": actions[..., 0].astype(np.int64) if setup.family.spec.single else _typed(setup, actions),
        "support_rewards": np.stack([one.rewards for one in support], axis=1),
        "support_lengths": np.stack([one.taken.sum(axis=-1) for one in support], axis=1),
        "support_terminated": np.stack([one.terminated for one in support], axis=1),
        "query_observations": walk[-1].observations[:, 0, :-1],
    }
    return arrays, walk[-1].outputs[:, 0]


def _typed(setup: PolicySetup, actions: np.ndarray) -> np.ndarray:
    return actions.astype(np.int64) if setup.family.spec.discrete else actions


COURIER: dict[str, Any] = {
    "task": {
        "family": "gymnasium",
        "id": "metaray/Courier-v0",
        "kwargs": {"size": 3},
        "vary": {"column": [0, 2], "row": [0, 2]},
        "horizon": 6,
        "trajectories": 8,
    },
    "model": {"name": "multi_categorical", "hidden": [5]},
}
POLICIES: dict[str, dict[str, Any]] = {
    "gaussian": {},
    "no baseline": {"advantage": {"baseline": "none", "normalise": "none"}},
    "value network": {"advantage": {"baseline": "value"}},
    "dice": {"inner": {"lr": 0.1, "steps": 1, "estimator": "dice"}},
    "low variance": {"inner": {"lr": 0.1, "steps": 1, "estimator": "low_variance"}},
    "pretrain": {"algorithm": "pretrain"},
    "categorical": TABULAR,
    "several whole numbers": COURIER,
}


@pytest.mark.parametrize("change", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_policy_becomes_the_one_that_an_evaluation_lets_act(
    tmp_path: Path, change: dict[str, Any], steps: int, close: Callable[..., None]
):
    setup, params, path = packed({**NAVIGATION, "dtype": "float64", **change}, tmp_path)
    assert isinstance(setup, PolicySetup)
    arrays, outputs = acted(setup, params, steps)
    taken = arrays["support_lengths"]
    assert change == TABULAR or len(set(taken.ravel().tolist())) > 1
    found = torch.from_numpy(load_adaptable(path).predict(arrays, steps, setup.config.inner.lr))
    reached = (outputs != 0).any(axis=-1)  # where the last rollouts went on to
    expected = torch.from_numpy(outputs)
    if setup.family.spec.choices:
        expected = torch.cat([part.softmax(dim=-1) for part in expected.split(setup.family.spec.choices, dim=-1)], -1)
    elif setup.family.spec.discrete:
        expected = torch.softmax(expected, dim=-1)
    else:
        mean, log_std = expected.chunk(2, dim=-1)
        expected = torch.cat([mean, log_std.exp()], dim=-1)
    close(found[torch.from_numpy(reached)], expected[torch.from_numpy(reached)])


def test_any_number_of_trajectories_and_steps(tmp_path: Path):
    setup, params, path = packed({**NAVIGATION, "inner": {"lr": 0.1, "steps": 1, "estimator": "dice"}}, tmp_path)
    assert isinstance(setup, PolicySetup)
    arrays, _ = acted(setup, params, 1)
    arrays["support_lengths"] = np.minimum(arrays["support_lengths"], 5)
    given = {name: array[:, :, :3] for name, array in arrays.items()}
    given["query_observations"] = arrays["query_observations"][:, :1]
    for name, steps in {"observations": 6, "actions": 5, "rewards": 5}.items():
        given[f"support_{name}"] = given[f"support_{name}"][:, :, :, :steps]
    assert load_adaptable(path).predict(given, 1, 0.1).shape == (3, 1, 4)


def test_what_stands_behind_an_end_makes_no_difference(tmp_path: Path):
    setup, params, path = packed(NAVIGATION, tmp_path)
    assert isinstance(setup, PolicySetup)
    arrays, _ = acted(setup, params, 1)
    model = load_adaptable(path)
    before = model.predict(arrays, 1, 0.1)
    after = np.arange(6) >= arrays["support_lengths"][..., None]
    assert after.any()
    arrays["support_rewards"][after] = 7.0
    arrays["support_actions"][after] = 8.0
    arrays["support_observations"][np.arange(7) > arrays["support_lengths"][..., None]] = 9.0
    assert np.array_equal(model.predict(arrays, 1, 0.1), before)


Change = Callable[[dict[str, np.ndarray]], dict[str, Any]]
BAD: list[tuple[Change, str]] = [
    (
        lambda a: {"support_inputs": a["support_inputs"][:, :, 0]},
        r"support_inputs \[T, S, 1\] float64: received shape \[",
    ),
    (lambda a: {"support_inputs": np.zeros((5, 5, 2))}, r"received shape \[5, 5, 2\]"),
    (
        lambda a: {"support_targets": a["support_targets"][:, :3]},
        "expected 5 support examples as in support_inputs, rec",
    ),
    (
        lambda a: {"query_inputs": a["query_inputs"][:2]},
        "query_inputs .* expected 5 tasks as in support_inputs, received 2",
    ),
    (lambda a: {"query_inputs": a["query_inputs"][:, :0]}, "at least one of the queries"),
    (lambda a: {"support_targets": np.full((5, 5, 1), np.nan)}, "expected finite numbers"),
    (lambda a: {"support_targets": np.full((5, 5, 1), "x")}, "float64: received <U1"),
    (lambda a: {"support_targets": np.full((5, 5, 1), 1e30)}, r"diverged for tasks \[0, 1, 2, 3, 4\]; lower inner_lr"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_input_is_named(tmp_path: Path, change: Change, message: str):
    setup, _, path = packed(SINUSOID, tmp_path)
    assert isinstance(setup, EpisodeSetup)
    arrays, _ = drawn(setup)
    model = load_adaptable(path)
    model.predict(arrays, 2, 0.02)
    with pytest.raises(ValueError, match=message):
        model.predict(arrays | change(arrays), 2, 0.02)


def test_missing_input_and_steps_that_are_none_are_named(tmp_path: Path):
    setup, _, path = packed(SINUSOID, tmp_path)
    assert isinstance(setup, EpisodeSetup)
    arrays, _ = drawn(setup)
    model = load_adaptable(path)
    with pytest.raises(ValueError, match="inner_steps: expected 0 or more, received -1"):
        model.predict(arrays, -1, 0.02)
    with pytest.raises(ValueError, match="inner_lr: expected a finite number of at least 0, received nan"):
        model.predict(arrays, 1, float("nan"))
    del arrays["query_inputs"]
    with pytest.raises(ValueError, match="received no query_inputs"):
        model.predict(arrays, 1, 0.02)


def test_classes_that_are_none_are_named(tmp_path: Path, images: dict[str, Any]):
    setup, _, path = packed(images, tmp_path)
    assert isinstance(setup, EpisodeSetup)
    arrays, _ = drawn(setup)
    given = {name: as_pixels(array) if "inputs" in name else array for name, array in arrays.items()}
    model = load_adaptable(path)
    with pytest.raises(ValueError, match="expected classes from 0 to 2"):
        model.predict(given | {"support_targets": given["support_targets"] + 1}, 1, 0.4)
    with pytest.raises(ValueError, match=r"support_inputs \[T, S, 8, 8, 3\] uint8: received float64"):
        model.predict(given | {"support_inputs": given["support_inputs"] / 255}, 1, 0.4)


BAD_TRAJECTORIES: list[tuple[Change, int, str]] = [
    (lambda a: {}, 2, r"as many batches of trajectories as inner_steps \(2\), the support has 1"),
    (
        lambda a: {"support_observations": a["support_observations"][:, :, :, 1:]},
        1,
        "expected 3 steps as in support_obs",
    ),
    (lambda a: {"support_lengths": a["support_lengths"] + 5}, 1, "expected from 1 to the 4 steps given"),
    (lambda a: {"support_lengths": a["support_lengths"] * 0}, 1, "expected from 1 to the 4 steps given"),
    (lambda a: {"support_actions": a["support_actions"] + 2}, 1, "support_actions: expected from 0 to 2"),
]


@pytest.mark.parametrize(("change", "steps", "message"), BAD_TRAJECTORIES)
def test_bad_trajectories_are_named(tmp_path: Path, change: Change, steps: int, message: str):
    setup, params, path = packed({**NAVIGATION, **TABULAR}, tmp_path)
    assert isinstance(setup, PolicySetup)
    arrays, _ = acted(setup, params, 1)
    model = load_adaptable(path)
    with pytest.raises(ValueError, match=message):
        model.predict(arrays | change(arrays), steps, 0.1)


def spoil(path: Path, what: str) -> None:
    if what == "spec":
        (path / SPEC).unlink()
    elif what == "format":
        described = json.loads((path / SPEC).read_text())
        (path / SPEC).write_text(json.dumps(described | {"format": 99}))
    else:
        folder = RunFolder(path)
        _, state = checkpoints.chosen(folder.checkpoints)
        tensors = dict(state.tensors) | {"theta.layer0.bias": torch.zeros(3)}
        folder.checkpoints.write(checkpoints.BEST, checkpoints.encode(dataclasses.replace(state, tensors=tensors)))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("spec", "expected a model that metaray registered"),
        ("format", "expected format 1, received 99"),
        ("theta", "use the version of metaray that registered the model"),
    ],
)
def test_a_spoilt_package_is_refused(tmp_path: Path, what: str, message: str):
    path = packed(SINUSOID, tmp_path)[2]
    spoil(path, what)
    with pytest.raises(CheckpointError, match=message):
        load_adaptable(path)


def test_the_family_is_not_needed_to_adapt(tmp_path: Path):
    path = packed(SINUSOID, tmp_path)[2]
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("family: sinusoid", "family: not_installed_here:Mine"))
    model: Adaptable = load_adaptable(path, ["not_installed_here"])
    assert (model.inner_steps, model.inner_lr) == (2, 0.02)


def test_the_steps_at_which_theta_was_selected_are_the_default(tmp_path: Path):
    raw = {**SINUSOID, "eval": {"select_steps": 4}}
    assert load_adaptable(packed(raw, tmp_path)[2]).inner_steps == 4
