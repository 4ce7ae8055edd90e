"""Environments as they are: every space that can be flattened, several whole numbers as actions, and old interfaces."""

from collections import Counter
from copy import deepcopy
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tasks import TaskKey, check_environment_family
from tasks.environments.contract import RolloutError
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.environments.spaces import Actions

KEYS = [TaskKey(7, "train", index) for index in range(3)]
OBSERVED: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=2),
    "multi": spaces.MultiDiscrete([3, 2], start=[1, 0]),
    "binary": spaces.MultiBinary(3),
    "whole": spaces.Box(0, 255, (2, 2), np.uint8),
    "tuple": spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,)))),
    "nested": spaces.Dict({"inner": spaces.Dict({"cell": spaces.Discrete(5)}), "charge": spaces.Box(0.0, 1.0, (1,))}),
}
ACTED: list[tuple[spaces.Space[Any], tuple[int, ...], list[float], Any]] = [
    (spaces.MultiDiscrete([3, 2], start=[1, 5]), (3, 2), [2, 1], [3, 6]),
    (spaces.MultiDiscrete([[3, 2], [4, 5]]), (3, 2, 4, 5), [2, 1, 3, 4], [[2, 1], [3, 4]]),
    (spaces.MultiBinary(2), (2, 2), [0, 1], [0, 1]),
]


class Sampled(gymnasium.Env[Any, Any]):
    """Observations drawn from a space; ``far`` and ``form`` put them outside it or take an older interface."""

    def __init__(self, kind: str = "whole", actions: Any = None, far: float = 0.0, task: int = 0) -> None:
        self.observation_space = deepcopy(OBSERVED.get(kind, spaces.Box(-1.0, 1.0, (2,), np.float64)))
        self.action_space = spaces.Discrete(2) if actions is None else actions
        self.far, self.task, self.taken = far, task, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.taken = 0
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.taken, self.last = self.taken + 1, action
        return self.seen(), float(np.sum(action)), self.taken == 3, False, {}

    def seen(self) -> Any:
        if self.far:
            return np.array([0.5, self.far if self.taken == 1 else -0.5])
        return self.observation_space.sample()


class Old(Sampled):
    """The interface of gym before 0.26."""

    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()[0]

    def step(self, action: Any) -> Any:
        return (*super().step(action)[:2], False, {})


class Between(Old):
    """A reset that takes a seed, and returns an observation alone."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return Sampled.reset(self, seed=seed)[0]


class Late(Between):
    """A reset as it is now, and a step as it was."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return Sampled.reset(self, seed=seed)


for cls in (Sampled, Old, Between, Late):
    gymnasium.register(f"metaray-test/{cls.__name__}-v0", cls)


def sampled(**arguments: Any) -> GymnasiumTasks:
    return GymnasiumTasks(**{"id": "metaray-test/Sampled-v0", "horizon": 4, "trajectories": 2} | arguments)


@pytest.mark.parametrize("kind", OBSERVED)
def test_observations_are_what_gymnasium_flattens_them_to(kind: str) -> None:
    family, space = sampled(kwargs={"kind": kind}), OBSERVED[kind]
    flat = spaces.flatten_space(space)
    assert family.spec.input_shape == flat.shape
    assert ("FlattenObservation" in family.spec.encoding) == (kind != "whole")
    assert ("one-hot" in family.spec.encoding) == (kind not in ("whole", "binary"))
    first = family.start(KEYS, 0).reset()
    for task, key in enumerate(KEYS):
        for row, seed in enumerate(family.seeds(key, 0)):
            space.seed(seed)
            assert (first[task, row] == spaces.flatten(space, space.sample())).all()


@pytest.mark.parametrize(
    "family",
    [
        GymnasiumTasks(id="FrozenLake-v1", vary={"success_rate": [0.5, 1.0]}, horizon=6, trajectories=2),
        GymnasiumTasks(id="Blackjack-v1", horizon=4, trajectories=3),
        GymnasiumTasks(id="metaray/FrozenLakeMaps-v0", vary={"map": [0, 99]}, via="options", horizon=6, trajectories=2),
        GymnasiumTasks(
            id="metaray/Courier-v0",
            kwargs={"steps": 6},
            vary={"column": [0, 4], "row": [0, 4]},
            via="options",
            horizon=8,
            trajectories=2,
        ),
        GymnasiumTasks(
            id="metaray/CartPolePhysics-v0",
            vary={"length": [0.3, 1.0], "reversed": {"choice": [False, True]}},
            via="options",
            stratified=True,
            horizon=20,
            trajectories=2,
        ),
        sampled(kwargs={"actions": spaces.MultiDiscrete([3, 2])}, vary={"task": [0, 9]}),
    ],
    ids=lambda family: family.id,
)
def test_it_keeps_the_contract(family: GymnasiumTasks) -> None:
    check_environment_family(family)


@pytest.mark.parametrize(("space", "choices", "chosen", "expected"), ACTED, ids=lambda one: str(one))
def test_several_whole_numbers_are_an_action(space: Any, choices: Any, chosen: list[float], expected: Any) -> None:
    family = sampled(kwargs={"actions": space})
    assert (family.spec.choices, family.spec.outputs, family.spec.discrete) == (choices, len(choices), True)
    assert not family.spec.single
    lockstep = family.start(KEYS[:1], 0)
    lockstep.reset()
    step = lockstep.step(np.array([[chosen, [0] * len(choices)]], dtype=np.float64))
    assert step.rewards[0, 0] == np.sum(expected)
    assert Actions(space).of(np.array(chosen)).tolist() == expected
    wrong = np.array([[chosen, [*choices]]], dtype=np.float64)
    with pytest.raises(RolloutError, match=f"trajectory 1, .* actions from 0 to {choices[0] - 1} and {choices[1] - 1}"):
        lockstep.step(wrong)


@pytest.mark.parametrize(("outside", "seen"), [("pass", 9.0), ("clip", 1.0)])
def test_observations_outside_their_space_are_counted(outside: Any, seen: float) -> None:
    lockstep = sampled(kwargs={"kind": "box", "far": 9.0}, outside=outside).start(KEYS, 0)
    lockstep.reset()
    assert lockstep.outside.tolist() == [0, 0, 0]
    steps = [lockstep.step(np.zeros((3, 2))) for _ in range(4)]
    assert (steps[0].observations == [0.5, seen]).all()
    assert (steps[1].observations == [0.5, -0.5]).all()
    assert lockstep.outside.tolist() == [2, 2, 2]  # two trajectories, once each
    lockstep.reset()
    assert lockstep.outside.tolist() == [0, 0, 0]


def test_what_has_no_bounds_is_not_counted() -> None:
    space = spaces.Box(-np.inf, np.inf, (1,))
    gymnasium.register("metaray-test/Free-v0", lambda: Numbered(space))
    assert GymnasiumTasks(id="metaray-test/Free-v0").start(KEYS, 0).outside is None


class Numbered(Sampled):
    """Observations in the space it is given."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.observation_space = space


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Old", "expected reset.seed=…, options=….*GymV21CompatibilityV0 where step returns four values"),
        ("Between", "expected reset to return observation and information, received .*GymV21CompatibilityV0"),
        ("Late", "expected step to return five values, received 4; .*GymV21CompatibilityV0"),
    ],
)
def test_an_older_interface_is_named_with_its_wrapper(name: str, message: str) -> None:
    lockstep = GymnasiumTasks(id=f"metaray-test/{name}-v0", trajectories=1).start(KEYS[:1], 0)

    def run() -> None:
        lockstep.reset()
        lockstep.step(np.zeros((1, 1)))

    with pytest.raises(RolloutError, match=message):
        run()


def test_a_space_of_another_package_is_named_with_its_wrapper() -> None:
    class Box:
        low, high, shape = -1.0, 1.0, (2,)

    gymnasium.register("metaray-test/Foreign-v0", lambda: Numbered(Box()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"observation_space to be one of gymnasium.spaces, .*Box; .*shimmy"):
        GymnasiumTasks(id="metaray-test/Foreign-v0")


def test_stratified_choices_come_equally_often_in_every_block() -> None:
    vary: dict[str, Any] = {"kind": {"choice": ["whole", "other", "third"]}, "far": {"choice": [1.0, 2.0]}}
    family = sampled(vary={**vary, "task": [0, 999]}, stratified=True)
    plain = sampled(vary={**vary, "task": [0, 999]})
    orders = set()
    for split in ("train", "val"):
        for block in range(8):
            keys = [TaskKey(3, split, 6 * block + place) for place in range(6)]
            kinds = [family.kind_of(key) for key in keys]
            assert Counter(kinds) == Counter(family.spec.kinds)
            orders.add(tuple(kinds))
            assert [family.draw(key)["task"] for key in keys] == [plain.draw(key)["task"] for key in keys]
    assert len(orders) > 10  # another order in each block
    assert family.kind_of(TaskKey(3, "train", 4)) == family.kind_of(TaskKey(3, "train", 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"is_slippery": "no"}, "kwargs.is_slippery: expected true or false .* received 'no'"),
        ({"is_slippery": 1}, "kwargs.is_slippery: expected true or false .* received 1"),
        ({"map_name": 4}, "kwargs.map_name: expected a text .* received 4"),
        ({"success_rate": [0.5]}, r"kwargs.success_rate: expected a number .* received \[0.5\]"),
        ({"map": "8x8"}, "kwargs.map: expected an argument of the environment, one of .*; did you mean 'map_name'"),
    ],
)
def test_arguments_are_taken_strictly(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GymnasiumTasks(id="FrozenLake-v1", kwargs=arguments)


def test_an_argument_may_be_null_and_a_limit_of_steps() -> None:
    family = GymnasiumTasks(id="FrozenLake-v1", kwargs={"desc": None, "render_mode": None, "max_episode_steps": 2})
    lockstep = family.start(KEYS[:1], 0)
    lockstep.reset()
    lockstep.step(np.zeros((1, 20)))
    assert lockstep.step(np.zeros((1, 20))).truncated.all()
