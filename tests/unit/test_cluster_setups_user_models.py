"""Modules of a user's own through configuration, builder, workers and learner."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cluster.config.outer_sections import OuterConfig
from cluster.config.schema import parse
from cluster.errors import ConfigError
from cluster.runs import checkpoint as checkpoints
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup
from cluster.training.learner import Learner
from cluster.training.recorder import Recorder
from cluster.workers.messages import Flat, gradient_requests
from cluster.workers.pool import InlinePool
from cluster.workers.worker import Worker
from helpers.folders import new_run
from helpers.learning import update
from meta.episode import Episode, Examples
from meta.params import Layout
from tasks.environments.contract import EnvironmentSpec, Numbers, RolloutError, Step
from tasks.environments.rollout import roll
from tasks.family import FamilySpec, TaskKey, draw_batch

HERE = __name__


class Frozen(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__()
        self.backbone = nn.Linear(inputs[0], 4).requires_grad_(False)
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.backbone(x)))


class Dropping(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs[0], 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Squeezed(Dropping):
    def forward(self, x: Tensor) -> Tensor:
        return self.body[0](x).sum(dim=-1)


def config(model: type[nn.Module] | str, **changes: Any) -> Any:
    name = model if isinstance(model, str) else f"{HERE}:{model.__name__}"
    raw: dict[str, Any] = {
        "task": {"family": "sinusoid", "shot": 5, "query": 5},
        "model": {"name": name} | ({"hidden": [4]} if model == "mlp" else {}),
        "outer": {"steps": 3, "lr": 0.01} | changes.pop("outer", {}),
        "meta_batch": 4,
        "cluster": {"workers": 0},
        "engine": "loop",
    }
    return parse(raw | changes)


def theta_after(config: Any, steps: int = 3) -> tuple[Flat, Flat, EpisodeSetup]:
    """θ before and after some outer steps, computed by two workers in this process."""
    setup = build(config)
    assert isinstance(setup, EpisodeSetup)
    learner = Learner(config.outer, setup.layout, setup.initial_params(), setup.frozen)
    workers, before = [Worker(build(config)), Worker(build(config))], learner.theta
    for step in range(steps):
        requests = gradient_requests(step, config.meta_batch, config.shard_size)
        replies = [workers[number % 2].run(request, learner.theta) for number, request in enumerate(requests)]
        update(learner, sum(reply.gradient for reply in replies), config.meta_batch)
    return before, learner.theta, setup


def moved(before: Flat, after: Flat, layout: Layout) -> set[str]:
    one, other = layout.unflatten(torch.from_numpy(before)), layout.unflatten(torch.from_numpy(after))
    return {name for name in layout.names if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_what_the_constructor_froze_stays_frozen(optimizer: str) -> None:
    before, after, setup = theta_after(config(Frozen, outer={"optimizer": optimizer}))
    assert moved(before, after, setup.layout) == {"head.weight", "head.bias"}
    assert set(setup.frozen) == {"backbone.bias", "backbone.weight"}


def test_the_inner_loop_leaves_frozen_parameters_alone() -> None:
    setup = build(config(Frozen))
    assert isinstance(setup, EpisodeSetup)
    params = setup.initial_params()
    episode = setup.family.draw(TaskKey(0, "train", 0))
    *_, (adapted, _) = setup.algorithm.path(params, Examples(*(part.float() for part in episode.support)), 3)  # type: ignore[attr-defined]
    assert {name for name in params if not torch.equal(params[name], adapted[name])} == {"head.weight", "head.bias"}


def test_patterns_freeze_from_the_configuration() -> None:
    before, after, setup = theta_after(config("mlp", outer={"freeze": ["layer0.*"]}))
    assert moved(before, after, setup.layout) == {"layer1.weight", "layer1.bias"}
    assert setup.algorithm.inner.adapt == ("*", "!layer0.bias", "!layer0.weight")  # type: ignore[attr-defined]


def test_patterns_of_the_inner_loop_stand_beside_those_of_the_outer() -> None:
    """A head that starts every task from the same numbers and is adapted from there."""
    one = config("mlp", outer={"freeze": ["layer1.*"]}, inner={"adapt": ["layer1.*"]})
    before, after, setup = theta_after(one)
    assert moved(before, after, setup.layout) == {"layer0.weight", "layer0.bias"}
    assert setup.algorithm.inner.adapt == ("layer1.*",)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"outer": {"freeze": ["head.*"]}}, "'head.\\*' fits none of layer0"),
        ({"outer": {"freeze": ["*"]}}, "leave parameters to train|leave parameters to adapt"),
        ({"outer": {"freeze": ["layer0.*"]}, "inner": {"adapt": ["!layer0.*"]}}, "leave parameters to adapt"),
    ],
)
def test_patterns_that_make_no_sense_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        build(config("mlp", **changes))


def test_a_trust_region_step_stays_within_what_is_free() -> None:
    params = {"a": torch.ones(2), "b": torch.ones(1)}
    learner = Learner(OuterConfig(steps=1), Layout.of(params), params, ["a"])
    assert learner.without_frozen(torch.tensor([1.0, 2.0, 3.0])).tolist() == [0.0, 0.0, 3.0]


@pytest.mark.parametrize("engine", ["loop", "trace", "vmap"])
def test_dropout_gives_the_same_bits_again(engine: str) -> None:
    (_, first, _), (_, second, _) = (theta_after(config(Dropping, engine=engine)) for _ in range(2))
    assert np.array_equal(first, second)
    _, other, _ = theta_after(config(Dropping, engine=engine, seed=1))
    assert not np.array_equal(first, other)


def test_random_layers_do_not_depend_on_what_a_worker_did_before() -> None:
    one = config(Dropping)
    setup = build(one)
    theta = setup.layout.flatten(setup.initial_params()).numpy()
    fresh, used = Worker(build(one)), Worker(build(one))
    orders = gradient_requests(5, one.meta_batch, one.shard_size)
    used.run(gradient_requests(0, one.meta_batch, one.shard_size)[0], theta)
    torch.rand(3)
    for order in orders:
        assert np.array_equal(fresh.run(order, theta).buffer, used.run(order, theta).buffer)


def test_losses_of_other_shapes_name_both() -> None:
    one = config(Squeezed)
    setup = build(one)
    theta = setup.layout.flatten(setup.initial_params()).numpy()
    with pytest.raises(Exception, match=r"outputs \(5,\) and targets \(5, 1\)"):
        Worker(build(one)).run(gradient_requests(0, 4, 2)[0], theta)


# ---- keys beside the constructor's --------------------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int = 4):
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(inputs[0], width), nn.BatchNorm1d(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.tanh(self.norm(self.first(x)))
        return {"hidden": hidden, "logits": self.head(hidden)}


class Own(Normed):
    """A constructor that has arguments of these names itself."""

    def __init__(self, inputs: tuple[int, ...], outputs: int, batch_norm: bool = True, output: float = 1.0):
        super().__init__(inputs, outputs)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False) if batch_norm else nn.Identity()
        self._scale = output

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return self._scale * super().forward(x)["logits"]


def with_keys(model: type[nn.Module] | str, **keys: Any) -> Any:
    name = model if isinstance(model, str) else f"{HERE}:{model.__name__}"
    return parse(config("mlp").model_dump(mode="json") | {"model": {"name": name} | keys})


@pytest.mark.parametrize("mode", ["transductive", "inductive", "frozen"])
def test_a_module_is_normalised_by_the_mode_that_results_state(mode: str) -> None:
    one = with_keys(Normed, batch_norm=mode, output="logits", width=3)
    before, after, setup = theta_after(one)
    statistics = {"norm.running_mean", "norm.running_var"}
    assert setup.describe("test")["batch_norm"] == setup.sampling()["batch norm"] == mode
    assert moved(before, after, setup.layout) == set(setup.layout.names) - statistics
    assert set(setup.frozen) == (statistics if mode == "frozen" else set())
    assert parse(one.model_dump(mode="json")) == one


def test_a_constructors_own_arguments_come_first() -> None:
    setup = build(with_keys(Own, batch_norm=False, output=2.0))
    assert setup.sampling() == {"batch norm": "none", "metric": "mse"}
    assert build(with_keys(Own)).sampling() == {"batch norm": "transductive", "metric": "mse"}


@pytest.mark.parametrize(
    ("model", "keys", "named"),
    [
        (Normed, {"output": "logits"}, "model.batch_norm in a configuration.*received BatchNorm1d at 'norm'"),
        (Normed, {"batch_norm": "running"}, "model.batch_norm: expected 'transductive', 'inductive' or 'frozen'"),
        (Normed, {"batch_norm": "frozen"}, "model.output in a configuration.*: hidden, logits"),
        (Normed, {"batch_norm": "frozen", "output": "logit"}, r"Normed returns \(hidden, logits\), received 'logit'"),
        (Dropping, {"batch_norm": "frozen"}, "Dropping, which has no layer of batch normalisation"),
        (Normed, {"batch_nrm": "frozen"}, "model.batch_nrm: unknown key; did you mean 'batch_norm'"),
        ("mlp", {"batch_norm": "frozen"}, "model.batch_norm: expected 'transductive' or 'inductive'"),
        ("mlp", {"output": 0}, "model.output: unknown key"),
    ],
)
def test_keys_that_do_not_suit_the_model_are_refused(
    model: type[nn.Module] | str, keys: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        build(with_keys(model, **keys))


# ---- families ----------------------------------------------------------------------------------------------------


class Family:
    """A family of two classes whose support targets are what the test says."""

    def __init__(self, targets: Any, inputs: Any = None) -> None:
        self._targets, self._inputs = targets, torch.zeros(3, 2) if inputs is None else inputs

    @property
    def spec(self) -> FamilySpec:
        return FamilySpec(input_shape=(2,), outputs=2, objective="cross_entropy")

    def draw(self, key: TaskKey) -> Episode:
        del key
        good = Examples(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
        return Episode(Examples(self._inputs, self._targets), good, torch.zeros(0))


@pytest.mark.parametrize(
    ("targets", "inputs", "named"),
    [
        (torch.tensor([0, 1, 2]), None, "train tasks from 4 on: support targets: expected class numbers from 0 to 1"),
        (torch.tensor([0, 1, -1]), None, "received some from -1 to 1"),
        (torch.zeros(3), None, "of type torch.int64, received torch.float32"),
        (np.zeros(3, dtype=np.int64), None, "train task 4: support targets: expected a torch.Tensor, received ndarray"),
        (torch.zeros(2, dtype=torch.int64), None, "support targets: expected 3, one for each input"),
        (torch.zeros(3, dtype=torch.int64), torch.zeros(3, 4), r"support inputs: expected shape \[B, 2\]"),
        (torch.zeros(3, dtype=torch.int64), np.zeros((3, 2)), "support inputs: expected a torch.Tensor"),
    ],
)
def test_episodes_that_do_not_fit_the_spec_get_words(targets: Any, inputs: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        draw_batch(Family(targets, inputs), 0, "train", range(4, 6), torch.float32)


class Environments:
    """One step of two trajectories whose answer the test changes."""

    spec = EnvironmentSpec(input_shape=(3,), outputs=1, horizon=1, trajectories=2)

    def __init__(self, **answer: Any) -> None:
        self._answer = answer

    def start(self, keys: Any, inner_step: int) -> "Environments":
        del keys, inner_step
        return self

    def reset(self) -> Numbers:
        return np.zeros((1, 2, 3))

    def step(self, actions: Numbers) -> Step:
        del actions
        flags = np.zeros((1, 2), dtype=bool)
        good = Step(np.zeros((1, 2, 3)), np.zeros((1, 2)), flags, ~flags)
        return good._replace(**self._answer)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (
            {"rewards": np.zeros((1, 1))},
            r"rewards \[T, N\]: expected an array of shape \(1, 2\), received shape \(1, 1\)",
        ),
        ({"rewards": 0.0}, "received float"),
        ({"terminated": np.zeros(2, dtype=bool)}, "terminated"),
        ({"observations": np.zeros((1, 2, 1))}, "observations"),
    ],
)
def test_an_environments_answer_is_never_broadcast(answer: dict[str, Any], named: str) -> None:
    def act(observations: Numbers, noise: Numbers) -> tuple[Numbers, Numbers]:
        return noise, np.zeros((*observations.shape[:2], 2))

    with pytest.raises(RolloutError, match=named):
        roll(Environments(**answer), [TaskKey(0, "train", 0)], 0, act)  # type: ignore[arg-type]


def test_actions_are_never_broadcast() -> None:
    def act(observations: Numbers, noise: Numbers) -> tuple[Numbers, Numbers]:
        return noise[:, :1], np.zeros((*observations.shape[:2], 2))

    with pytest.raises(RolloutError, match="the policy's actions"):
        roll(Environments(), [TaskKey(0, "train", 0)], 0, act)  # type: ignore[arg-type]


def test_run_and_checkpoint_name_what_is_frozen(tmp_path: Path) -> None:
    one = config(
        Frozen,
        checkpoint={"root": str(tmp_path)},
        tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db", "system_every": 0},
        eval={"tasks": 2, "steps": [0, 1]},
    )
    folder = new_run(one, "frozen", tmp_path / "run")
    setup = build(one)
    state = Learner(one.outer, setup.layout, setup.initial_params(), setup.frozen)
    assert set(folder.info["frozen"]) == {"backbone.weight", "backbone.bias"}
    Recorder(one, setup, folder, InlinePool(build(one)), _Silent()).finish(state)  # type: ignore[arg-type]
    saved = checkpoints.newest(folder.checkpoints)
    assert saved is not None
    assert set(saved.frozen) == {"backbone.weight", "backbone.bias"}


class _Silent:
    def update(self, step: int, metrics: Any) -> None: ...
