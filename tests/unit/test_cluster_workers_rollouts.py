"""The worker where tasks are acted in: pure rollouts, kept or sampled again, and errors that name the task."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from cluster.config.schema import Config, parse
from cluster.errors import ConfigError, DivergedError, MetarayError
from cluster.interrupts import StopFlag
from cluster.setups.build import build
from cluster.setups.policies import PolicySetup
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.workers.messages import (
    FisherProduct,
    GradientAt,
    GradientRequest,
    ScoresRequest,
    SurrogateAndKL,
    TaskRange,
)
from cluster.workers.pool import InlinePool
from cluster.workers.rollouts import RolloutWork
from cluster.workers.worker import Worker
from meta.episode import Examples, leaves
from meta.policy.advantages import AdvantageSettings, Trajectories
from meta.policy.distributions import GaussianPolicy
from meta.policy.samples import as_examples, step_of, unpack
from tasks.environments.navigation import Navigation
from tasks.environments.rollout import roll
from tasks.environments.tabular import Tabular
from tasks.family import TaskKey

RAW: Mapping[str, Any] = {
    "task": {"family": "navigation", "horizon": 6, "trajectories": 3, "scale": 0.1},
    "model": {"name": "gaussian", "hidden": [7]},
    "inner": {"lr": 0.1, "steps": 2},
    "outer": {"steps": 2, "step": "trpo"},
    "meta_batch": 4,
    "shard": 2,
    "engine": "loop",
    "cluster": {"workers": 0},
}
TABULAR = {"family": "tabular", "horizon": 4, "trajectories": 3}


def changed(**sections: Any) -> Config:
    return parse({**RAW, **sections})


def made(config: Config) -> tuple[PolicySetup, RolloutWork, np.ndarray]:
    setup = build(config)
    assert isinstance(setup, PolicySetup)
    return setup, RolloutWork(setup), setup.layout.flatten(setup.initial_params()).numpy()


def tasks(start: int, stop: int) -> TaskRange:
    return TaskRange(split="train", start=start, stop=stop)


@pytest.mark.parametrize("baseline", ["none", "linear", "value"])
@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"task": TABULAR, "model": {"name": "categorical", "hidden": []}},
        {"algorithm": "oracle"},
        {"dtype": "float64"},
    ],
    ids=["navigation", "tabular", "oracle", "float64"],
)
def test_a_task_is_the_same_alone_or_among_others(baseline, sections):
    setup, work, _ = made(changed(advantage={"baseline": baseline}, **sections))
    params, steps = setup.initial_params(), setup.algorithm.trained_steps
    together = work.sample(tasks(3, 8), params, steps)
    for index in (3, 5):
        alone = work.sample(tasks(index, index + 1), params, steps)
        for one, many in zip(leaves(alone.episodes), leaves(together.episodes), strict=True):
            assert torch.equal(one[0], many[index - 3])


def test_each_inner_step_samples_anew_and_from_the_adapted_policy():
    setup, work, _ = made(changed())
    sampled = work.sample(tasks(0, 2), setup.initial_params(), 2)
    support = sampled.episodes.support.inputs
    assert support.shape == (2, 2, 18, 2)
    assert not torch.equal(support[:, 0], support[:, 1])
    assert not torch.equal(support[:, 0], sampled.episodes.query.inputs)
    assert len(sampled.returns) == 3
    assert sampled.environment_steps.tolist() == [54, 54]


@pytest.mark.parametrize("family", [Navigation(horizon=5, trajectories=3), Tabular(horizon=5, trajectories=3)])
def test_the_noise_of_actions_is_each_tasks_and_each_inner_steps_own(family):
    keys, noises = [TaskKey(0, "train", index) for index in range(3)], []
    for number in range(3):
        drawn: list[np.ndarray] = []

        def act(observations: np.ndarray, noise: np.ndarray, drawn: list[np.ndarray] = drawn) -> Any:
            drawn.append(noise.copy())
            return np.zeros((*observations.shape[:2], noise.shape[-1])), np.zeros((*observations.shape[:2], 1))

        roll(family, keys, number, act)
        noises.append(np.stack(drawn))  # [H, T, N, A]
    every = np.stack(noises)
    assert len(np.unique(every)) == every.size


def test_actions_are_drawn_anew_before_and_after_adaptation():
    """Under α = 0 all policies of a task are one; what differs between inner steps is the noise alone."""
    task = {"family": "navigation", "horizon": 50, "trajectories": 4}
    setup, work, theta = made(changed(eval={"steps": [0, 1, 2]}, inner={"lr": 0.0, "steps": 2}, task=task))
    episodes = work.sample(tasks(0, 2), setup.initial_params(), 2).episodes
    policy = setup.algorithm.model
    packed = [step_of(Examples(*(part[0] for part in episodes.support)), number) for number in (0, 1)]
    rollouts = [unpack(one, policy) for one in (*packed, Examples(*(part[0] for part in episodes.query)))]
    for one, other in combinations(rollouts, 2):
        assert not torch.equal(one.actions, other.actions)
        noise = [(each.actions - each.outputs[:, :2]) * torch.exp(-each.outputs[:, 2:]) for each in (one, other)]
        assert abs(float((noise[0] * noise[1]).mean())) < 0.2  # 400 pairs: four standard errors
    scores = Worker(setup).run(scores_request(0, 1, 2), theta).scores
    assert len(np.unique(scores)) == scores.size


def test_the_step_sizes_of_an_evaluation_change_nothing_in_training():
    """``eval.later_lr`` is for evaluations: rollouts, gradient and outer step are the same bits whatever it is."""
    sampled, gradients, thetas = [], [], []
    for later in (1.0, 0.25):
        config = changed(inner={"lr": 0.1, "steps": 3}, eval={"later_lr": later}, outer={"steps": 1})
        setup, work, theta = made(config)
        sampled.append(leaves(work.sample(tasks(0, 2), setup.initial_params(), 3).episodes))
        gradients.append(Worker(build(config)).run(gradient_request(), theta).gradient.tobytes())
        thetas.append(train(config).fingerprint)
    assert all(torch.equal(*pair) for pair in zip(*sampled, strict=True))
    assert gradients[0] == gradients[1]
    assert thetas[0] == thetas[1]


def test_steps_after_an_end_have_no_weight():
    """Two trajectories of a task end early: what stands behind counts for nothing, the rest counts alike."""
    lengths = [[3, 1, 5], [5, 5, 5]]
    taken = torch.arange(5) < torch.tensor(lengths)[..., None]
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(2, 3, *shape, dtype=torch.float64, generator=generator)

    seen = Trajectories(drawn(6, 2), drawn(5) * taken, taken, torch.ones(2, 3, dtype=torch.bool))
    policy = GaussianPolicy(inputs=(2,), outputs=1, hidden=(4,))
    packed = as_examples(policy, AdvantageSettings(0.9, 1.0, "linear", "standardise"), seen, drawn(5, 1), drawn(5, 2))
    for task, steps in enumerate(map(sum, lengths)):
        samples = unpack(Examples(packed.inputs[task], packed.targets[task]), policy)
        expected = taken[task].flatten().double() / steps
        torch.testing.assert_close(samples.weights, expected, rtol=1e-15, atol=0)
        assert (samples.advantages[~taken[task].flatten()] == 0).all()


def test_a_worker_gives_no_weight_to_steps_after_an_end():
    """The same, sampled: within the large radius some trajectories are over early."""
    setup, work, _ = made(changed(task={**RAW["task"], "radius": 0.3}))
    sampled = work.sample(tasks(0, 4), setup.initial_params(), 2)
    weights = torch.cat(
        [
            unpack(examples, setup.algorithm.model).weights.flatten(1)
            for examples in (sampled.episodes.support, sampled.episodes.query)
        ],
        dim=1,
    )
    real = (weights > 0).sum(dim=1)
    assert (real < weights.shape[1]).any()
    assert real.tolist() == sampled.environment_steps.tolist()
    assert weights.sum(dim=1).tolist() == pytest.approx([3.0] * 4)  # one for each of three batches of rollouts


def gradient_request(step: int = 0) -> GradientRequest:
    return GradientRequest(step=step, shard=0, tasks=tasks(0, 2))


def scores_request(*inner_steps: int) -> ScoresRequest:
    return ScoresRequest(step=0, shard=0, tasks=tasks(0, 2), inner_steps=inner_steps)


@pytest.mark.parametrize("kind", [GradientAt, FisherProduct, SurrogateAndKL])
def test_a_worker_without_the_rollouts_samples_the_same_ones(kind):
    config = changed()
    _, _, theta = made(config)
    other = theta + np.float32(0.01)
    keeps, fresh = Worker(build(config)), Worker(build(config))
    keeps.run(gradient_request(), theta)
    request = kind(step=0, shard=0, tasks=tasks(0, 2))
    kept, again = keeps.run(request, theta, other), fresh.run(request, theta, other)
    assert np.isfinite(kept.buffer).all()
    if kind is not GradientAt:  # whose metrics say how long sampling took
        assert kept.buffer.tobytes() == again.buffer.tobytes()
    assert kept.buffer[: len(theta)].tobytes() == again.buffer[: len(theta)].tobytes()


def test_rollouts_of_a_step_that_is_over_are_let_go():
    config = changed()
    setup, work, _ = made(config)
    params = setup.initial_params()
    for step in range(3):
        for shard in (tasks(4 * step, 4 * step + 2), tasks(4 * step + 2, 4 * step + 4)):
            work.run(dataclasses.replace(gradient_request(step), tasks=shard), params)
    assert {step for step, _ in work._kept} == {2}
    assert len(work._kept) == 2


def test_evaluation_takes_smaller_steps_after_the_first():
    scores = {}
    for later in (1.0, 0.5):
        config = changed(eval={"later_lr": later, "steps": [0, 1, 2, 3]})
        _, _, theta = made(config)
        scores[later] = Worker(build(config)).run(scores_request(0, 1, 2, 3), theta).scores
    assert (scores[1.0][:, :2] == scores[0.5][:, :2]).all()
    assert (scores[1.0][:, 2:] != scores[0.5][:, 2:]).any()


def train(config: Config) -> Learner:
    setup, pool = build(config), InlinePool(build(config))
    learner = Learner(config.outer, setup.layout, setup.initial_params())

    class Recorder:
        def after_step(self, learner: Learner, metrics: Mapping[str, float]) -> None:
            self.metrics = metrics

        def finish(self, learner: Learner) -> None:
            pass

    books = Recorder()
    meta_train(config, learner, pool, books, StopFlag())  # type: ignore[arg-type]
    learner.metrics = books.metrics
    return learner


def test_a_trust_region_step_stays_within_its_bound_and_lowers_the_surrogate():
    learner = train(changed())
    metrics = learner.metrics
    assert 0 < metrics["kl"] <= 0.01
    assert metrics["surrogate_after"] < metrics["surrogate"]
    assert metrics["environment_steps"] == 4 * 3 * 3 * 6


@pytest.mark.parametrize(
    ("outer", "sections"),
    [({"step": "ppo"}, {}), ({"step": "gradient", "estimator": "dice"}, {}), ({}, {"algorithm": "pretrain"})],
)
def test_other_outer_steps_move_too(outer, sections):
    config = changed(outer={**RAW["outer"], **outer}, **sections)
    setup = build(config)
    learner = train(config)
    before = setup.layout.flatten(setup.initial_params())
    assert not torch.equal(torch.from_numpy(learner.theta), before)


class Breaking(gymnasium.Env[np.ndarray, np.ndarray]):
    """Goes wrong in the way asked for at its third step."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float64)

    def __init__(self, how: str, task: float = 0.0) -> None:
        self.how, self.task, self.steps = how, task, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        seen, reward = np.zeros(2), 1.0
        if self.steps == 3 and self.task > 0.3:
            if self.how == "raises":
                raise RuntimeError("the motor burnt")
            reward = {"nan": np.nan, "explodes": np.inf}.get(self.how, reward)
            seen = seen + (np.nan if self.how == "blind" else 0.0)
        return seen, reward, False, False, {}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Any:
    gymnasium.register("metaray-tests/Breaking-v0", entry_point=Breaking)
    yield
    del gymnasium.registry["metaray-tests/Breaking-v0"]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("raises", ["the motor burnt", "environment step 3"]),
        ("nan", ["finite", "environment step 3", "mend"]),
        ("explodes", ["finite", "environment step 3", "mend"]),
        ("blind", ["finite observation", "environment step 3"]),
    ],
)
def test_an_environment_that_breaks_names_its_task(how: str, words: Sequence[str]):
    task = {"family": "gymnasium", "id": "metaray-tests/Breaking-v0", "horizon": 5, "trajectories": 2}
    config = changed(task={**task, "kwargs": {"how": how}, "vary": {"task": [0.0, 1.0]}})
    setup = build(config)
    assert isinstance(setup, PolicySetup)
    values = [float(setup.family.describe([TaskKey(0, "train", index)])[0, 0]) for index in range(4)]
    bad = next(index for index, value in enumerate(values) if value > 0.3)
    with pytest.raises(MetarayError) as raised:
        train(config)
    for word in [f"train task {bad}", *words]:
        assert word in str(raised.value)


def test_a_policy_that_explodes_names_its_task():
    with pytest.raises((MetarayError, DivergedError), match=r"train tasks? \[?\d.*lower inner.lr|Lower inner.lr"):
        train(changed(inner={"lr": 1e30, "steps": 2}))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"task": TABULAR}, ["model.name", "discrete actions", "tabular", "set model.name=categorical"]),
        ({"model": {"name": "categorical"}}, ["model.name", "real numbers", "navigation", "set model.name=gaussian"]),
        ({"model": {"name": "mlp"}}, ["model.name", "policy", "navigation"]),
        ({"outer": {**RAW["outer"], "estimator": "dice"}}, ["outer.estimator", "trpo", "outer.step=gradient"]),
        ({"algorithm": "fomaml"}, ["algorithm", "maml, oracle, pretrain"]),
        ({"inner": {"adapt": ["nothing*"]}}, ["inner.adapt", "nothing*"]),
    ],
)
def test_parts_that_do_not_fit_say_which_would(sections, words):
    with pytest.raises(ConfigError) as raised:
        build(changed(**sections))
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    ("key", "sections"),
    [
        ("outer.step", {"outer": {"steps": 2, "step": "trpo"}}),
        ("outer.trpo", {"outer": {"steps": 2, "trpo": {"kl": 0.5}}}),
        ("inner.estimator", {"inner": {"estimator": "dice"}}),
        ("eval.later_lr", {"eval": {"later_lr": 0.5}}),
        ("advantage", {"advantage": {"discount": 0.5}}),
    ],
)
def test_settings_of_policies_are_refused_where_examples_are_drawn(key, sections):
    plain = {"task": {"family": "sinusoid"}, "model": {"name": "mlp"}, "outer": {"steps": 2}, "meta_batch": 2}
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        build(parse({**plain, **sections}))
