"""Gymnasium's environments as tasks: the same as stepping them one by one, and sound errors for unsound ones."""

import gc
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from tasks import TaskKey, check_environment_family
from tasks.environments.contract import RolloutError
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.environments.varied import Range, parse
from tasks.environments.vectors import Pool, together

KEYS = [TaskKey(7, "train", index) for index in range(3)]
NAN = float("nan")


class Walk(gymnasium.Env[Any, Any]):
    """A walk in a plane, drifting as the task says, that breaks in a way that can be chosen."""

    def __init__(self, drift: float = 0.0, name: str = "none", broken: str = "", length: int = 5) -> None:
        self.observation_space = spaces.Box(-9.0, 9.0, (2, 1), np.float64)
        self.action_space = spaces.Box(np.array([[-1.0, -2.0]]), np.array([[1.0, 2.0]]), dtype=np.float64)
        self.drift, self.name, self.broken, self.length = drift, name, broken, length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.taken, options = 0, options or {}
        self.drift, self.name = options.get("drift", self.drift), options.get("name", self.name)
        if self.broken == "reset":
            raise RuntimeError("no reset today")
        self.place = self.np_random.uniform(-1, 1, (2, 1))
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        assert self.taken < self.length, "stepped after its end"
        assert action.shape == (1, 2)
        self.taken += 1
        self.place = self.place + action.T + self.drift
        if self.broken == "step" and self.taken == 3:
            raise RuntimeError("tired")
        reward = NAN if self.broken == "reward" and self.taken == 2 else float(self.place.sum())
        return self.seen(), reward, self.taken == self.length, False, {"large": np.zeros(3)}

    def seen(self) -> Any:
        wrong = {"nan": NAN, "outside": 9.5}.get(self.broken)
        if self.broken == "shape" and self.taken:
            return np.zeros(1)
        return self.place if wrong is None or not self.taken else np.array([[0.0], [wrong]])


class Numbered(gymnasium.Env[Any, Any]):
    """Three actions that count from one, and observations in the space it is given."""

    def __init__(self, space: spaces.Space[Any] | None = None, actions: spaces.Space[Any] | None = None) -> None:
        self.observation_space = space or spaces.Box(0.0, 3.0, (1,))
        self.action_space = actions or spaces.Discrete(3, start=1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        return np.array([action], dtype=np.float32), 0.0, False, False, {}


gymnasium.register("metaray-test/Walk-v0", Walk, max_episode_steps=50)
gymnasium.register("metaray-test/Numbered-v0", Numbered)
DRIFTS: dict[str, Any] = {"drift": [0.0, 0.2], "name": {"choice": ["red", "green"]}}


class Arm(Walk):
    """A walk whose arguments are annotated, told by a default, or neither."""

    def __init__(self, joints: int = 3, mass: float = 1.0, drag=0.5, links=2, size: int | None = None) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.told = (joints, mass, drag, links, size)


gymnasium.register("metaray-test/Arm-v0", Arm)


def walks(**arguments: Any) -> GymnasiumTasks:
    return GymnasiumTasks(**{"id": "metaray-test/Walk-v0", "horizon": 9, "trajectories": 2} | arguments)


@pytest.mark.parametrize(
    "family",
    [
        walks(),
        walks(vary=DRIFTS),
        walks(vary=DRIFTS, via="options", kwargs={"length": 12}),
        GymnasiumTasks(id="CartPole-v1", horizon=12, trajectories=3),
        GymnasiumTasks(id="Pendulum-v1", vary={"g": [8.0, 12.0]}, horizon=4, trajectories=2),
    ],
    ids=repr,
)
def test_it_keeps_the_contract(family):
    check_environment_family(family)


def test_it_is_the_same_as_stepping_each_environment_alone():
    family = GymnasiumTasks(id="CartPole-v1", horizon=60, trajectories=3)
    actions = np.random.Generator(np.random.Philox(1)).integers(2, size=(60, 3, 3)).astype(np.float64)
    lockstep = family.start(KEYS, 1)
    first = lockstep.reset()
    steps = [lockstep.step(chosen) for chosen in actions]
    for task, key in enumerate(KEYS):
        for row, seed in enumerate(key.rng("env1").integers(2**31, size=3).tolist()):
            env = gymnasium.make("CartPole-v1")
            seen, over = env.reset(seed=seed)[0], False
            assert (first[task, row] == seen).all()
            for number, step in enumerate(steps):
                reward, terminated = 0.0, False
                if not over:
                    seen, reward, terminated, _, _ = env.step(int(actions[number, task, row]))  # type: ignore[assignment]
                assert (step.observations[task, row] == seen).all()
                assert step.rewards[task, row] == reward
                assert step.terminated[task, row] == terminated
                assert step.truncated[task, row] == (number == 59 and not terminated and not over)
                over = over or terminated
            env.close()
    assert any(step.terminated.any() for step in steps)


@pytest.mark.parametrize("via", ["kwargs", "options"])
def test_a_task_is_its_values(via):
    family = walks(vary=DRIFTS, via=via)
    told = family.describe(KEYS)
    assert told.shape == (3, 3) == (3, family.spec.description)
    assert (told[:, 1:].sum(axis=1) == 1).all()  # «red» or «green»
    lockstep = family.start(KEYS, 0)
    first = lockstep.reset()
    moved = lockstep.step(np.full((3, 2, 2), 5.0)).observations - first
    np.testing.assert_allclose(moved, np.tile(told[:, None, :1] + np.array([1.0, 2.0]), (1, 2, 1)))  # clipped
    used = [vector for _, vector in lockstep._used]
    assert [vector.envs[0].unwrapped.name for vector in used] == [family.draw(key)["name"] for key in KEYS]


def test_the_earlier_of_both_limits_truncates():
    for horizon, length, limit in ((3, 99, 3), (60, 99, 50)):
        lockstep = walks(horizon=horizon, kwargs={"length": length}).start(KEYS[:1], 0)
        lockstep.reset()
        steps = [lockstep.step(np.zeros((1, 2, 2))) for _ in range(limit)]
        assert [bool(step.truncated.all()) for step in steps] == [False] * (limit - 1) + [True]


def test_an_end_at_the_horizon_is_an_end():
    lockstep = walks(horizon=5).start(KEYS[:1], 0)
    lockstep.reset()
    for _ in range(5):
        step = lockstep.step(np.zeros((1, 2, 2)))
    assert step.terminated.all()
    assert not step.truncated.any()


def test_discrete_actions_may_begin_anywhere():
    family = GymnasiumTasks(id="metaray-test/Numbered-v0", trajectories=3)
    assert (family.spec.discrete, family.spec.outputs) == (True, 3)
    lockstep = family.start(KEYS[:1], 0)
    lockstep.reset()
    assert lockstep.step(np.array([[0.0, 1.0, 2.0]])).observations.ravel().tolist() == [1, 2, 3]


def test_environments_are_used_again_but_never_by_two():
    family = walks(vary=DRIFTS, via="options")

    def run(lockstep: Any) -> list[Any]:
        return [lockstep.step(np.zeros((3, 2, 2))) for _ in range(5)]

    one, other = family.start(KEYS, 0), family.start(KEYS, 0)
    one.reset()
    other.reset()
    assert not {id(vector) for _, vector in one._used} & {id(vector) for _, vector in other._used}
    used = {id(vector) for _, vector in one._used}
    run(one)
    assert len(family.pool) == 3
    third = family.start(KEYS[::-1], 1)
    third.reset()
    assert {id(vector) for _, vector in third._used} == used
    assert len(family.pool) == 0
    assert (one.reset() == other.reset()).all()  # one takes new ones, other begins anew in the middle
    del third
    gc.collect()
    assert len(family.pool) == 3
    assert all((a.observations == b.observations).all() for a, b in zip(run(one), run(other), strict=True))
    assert len(family.pool) == 9


def test_a_pool_closes_what_it_has_no_room_for():
    pool = Pool(1)
    first, second = (together("CartPole-v1", 1, {}, own=False) for _ in range(2))
    pool.give([("a", first), ("b", second)])
    assert (first.closed, second.closed, len(pool)) == (True, False, 1)
    assert pool.take("b", lambda: first) is second
    assert pool.take("b", lambda: first) is first


@pytest.mark.parametrize(
    ("broken", "where", "message"),
    [
        ("reset", "0", r"'metaray-test/Walk-v0' raised RuntimeError\('no reset today'\); mend the environment"),
        ("step", "3", "raised RuntimeError\\('tired'\\)"),
        ("shape", "1", r"expected an observation of the declared shape \(2, 1\), received shape \(1,\)"),
        ("nan", "1", "expected a finite observation, received nan; mend"),
        ("reward", "2", "expected a finite reward, received nan; mend"),
    ],
)
def test_a_broken_environment_is_named(broken, where, message):
    family = walks(vary={"broken": {"choice": [broken]}}, via="kwargs")
    lockstep = family.start([TaskKey(7, "val", 4)], 1)
    start = f"^val task 4, inner step 1, trajectory 0, environment step {where}: .*"

    def run() -> None:
        lockstep.reset()
        for _ in range(4):
            lockstep.step(np.zeros((1, 2, 2)))

    with pytest.raises(RolloutError, match=start + message):
        run()
    assert len(family.pool) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id": "metaray-test/Wlak-v0"}, "id: cannot make 'metaray-test/Wlak-v0': "),
        ({"kwargs": {"lenght": 1}}, "kwargs.lenght: expected an argument .* drift, name.*; did you mean 'length'"),
        ({"vary": {"drfit": [0.0, 1.0]}}, "vary.drfit: expected an argument .*; did you mean 'drift'"),
        ({"outside": "ignore"}, "outside: expected 'pass' or 'clip', received 'ignore'"),
        ({"stratified": True, "vary": {"drift": [0.0, 1.0]}}, "stratified: expected a choice among vary"),
        ({"horizon": 0}, "horizon: expected"),
        ({"via": "letter"}, "via: expected 'kwargs' or 'options', received 'letter'"),
        ({"vary": {"drift": [2.0, 1.0]}}, r"vary.drift: expected a range \[low, high\] .* received \[2.0, 1.0\]"),
        ({"vary": {"drift": {"choice": []}}}, "vary.drift: expected .* with at least one value"),
        ({"vary": {"drift": {"choose": [1]}}}, "vary.drift: expected"),
        ({"vary": {"drift": [0, True]}}, "vary.drift: expected"),
        ({"vary": {"drift": [0, 1, 2]}}, "vary.drift: expected"),
        ({"vary": {"drift": [0, 1]}, "kwargs": {"drift": 1}}, r"not among kwargs, received \['drift'\] in both"),
        (
            {"id": "metaray-test/Numbered-v0", "kwargs": {"space": spaces.Sequence(spaces.Discrete(3))}},
            "observations of a fixed size, in a Box, Discrete, MultiDiscrete, .* received Sequence",
        ),
        (
            {"id": "metaray-test/Numbered-v0", "kwargs": {"actions": spaces.Box(0, 3, (2,), np.int64)}},
            "actions in a Box of real numbers, a Discrete, MultiDiscrete or MultiBinary space, received Box",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        walks(**arguments)


def test_a_vector_environment_that_hides_ends_is_refused():
    lockstep = GymnasiumTasks(id="CartPole-v1", vectorized=True).start(KEYS, 0)
    with pytest.raises(
        RolloutError, match=r"train task 0, inner step 0, environment step 0: .*autoreset_mode DISABLED"
    ):
        lockstep.reset()


def test_tasks_with_other_spaces_are_refused():
    choice = {"choice": [spaces.Box(0.0, 3.0, (1,)), spaces.Box(0.0, 4.0, (1,))]}
    family = GymnasiumTasks(id="metaray-test/Numbered-v0", vary={"space": choice})
    lockstep = family.start([TaskKey(7, "train", index) for index in range(9)], 0)
    with pytest.raises(RolloutError, match="expected the same space for all tasks"):
        lockstep.reset()


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(0, 2**40))
def test_values_lie_in_their_range(low, width, index):
    (one,) = parse({"x": [low, low + width]}).values()
    assert isinstance(one, Range)
    value = one.draw(TaskKey(0, "test", index).rng("task"))
    assert low <= value <= low + width
    assert one.describe(value) == [value]


def test_numbers_to_choose_from_describe_themselves():
    (one,) = parse({"x": {"choice": [0.5, 2]}}).values()
    assert (one.size, one.describe(2)) == (1, [2.0])


def drawn(**vary: Any) -> dict[str, list[Any]]:
    family = GymnasiumTasks(id="metaray-test/Arm-v0", vary=vary)
    values = [family.draw(TaskKey(7, "train", index)) for index in range(60)]
    return {name: [one[name] for one in values] for name in vary}


def test_a_range_of_whole_numbers_gives_whole_numbers_unless_the_argument_is_real() -> None:
    found = drawn(joints=[1, 5], links=[1, 3], size=[4, 6], mass=[1, 5], drag=[0, 1])
    assert set(found["joints"]) == {1, 2, 3, 4, 5}
    assert (set(found["links"]), set(found["size"])) == ({1, 2, 3}, {4, 5, 6})
    assert all(type(value) is int for name in ("joints", "links", "size") for value in found[name])
    assert all(type(value) is float for name in ("mass", "drag") for value in found[name])
    assert len(set(found["mass"])) == 60
    family = GymnasiumTasks(id="metaray-test/Arm-v0", vary={"joints": [1, 5]})
    keys = [TaskKey(7, "train", index) for index in range(3)]
    assert family.describe(keys).tolist() == [[float(family.draw(key)["joints"])] for key in keys]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vary": {"joints": [1.0, 5.5]}}, r"vary.joints: expected a range of whole numbers .* write \[1, 5\]"),
        ({"vary": {"joints": {"choice": [1, 2.5]}}}, "vary.joints: expected a whole number .* received 2.5"),
        ({"kwargs": {"joints": 1.6}}, "kwargs.joints: expected a whole number for this argument .* received 1.6"),
        ({"kwargs": {"mass": "1e-3"}}, "kwargs.mass: expected a number .* received '1e-3'"),
        ({"kwargs": {"mass": True}}, "kwargs.mass: expected a number .* received True"),
    ],
)
def test_a_value_of_another_type_than_the_constructor_takes_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymnasiumTasks(id="metaray-test/Arm-v0", **arguments)
