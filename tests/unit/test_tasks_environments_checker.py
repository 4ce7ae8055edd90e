"""The checker lets sound families of environments pass and stops one that breaks a clause of its contract."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch

from tasks import FamilyError, FamilySpec, check_environment_family
from tasks.environments.contract import EnvironmentSpec, Step
from tasks.environments.navigation import Navigation
from tasks.environments.tabular import Tabular

Change = Callable[..., Any]
SOUND = Tabular(states=3, actions=2, horizon=4, trajectories=3)
MADE: WeakValueDictionary[int, "Changed"] = WeakValueDictionary()


def again(number: int) -> "Changed":
    return MADE[number]


@dataclass(eq=False)
class Changed:
    """A sound family, changed in one place."""

    spec: Any = field(default_factory=lambda: SOUND.spec)
    describe: Change = SOUND.describe
    begin: Change = SOUND.start
    reset: Change = lambda observations: observations
    step: Change = lambda step, number: step

    def __post_init__(self) -> None:
        MADE[id(self)] = self

    def start(self, keys: Any, inner_step: int) -> Any:
        return _Lockstep(self, self.begin(keys, inner_step))

    def __reduce__(self) -> Any:  # its functions cannot be pickled, so it is its own copy
        return again, (id(self),)


class _Lockstep:
    def __init__(self, family: Changed, lockstep: Any) -> None:
        self.family, self.lockstep, self.taken = family, lockstep, 0

    def reset(self) -> Any:
        return self.family.reset(self.lockstep.reset())

    def step(self, actions: Any) -> Any:
        self.taken += 1
        return self.family.step(self.lockstep.step(actions), self.taken)


def spec(**parts: Any) -> EnvironmentSpec:
    return replace(SOUND.spec, **parts)


def counting() -> Change:
    calls = []

    def reset(observations: Any) -> Any:
        calls.append(1)
        return observations + 0.001 * len(calls)

    return reset


def leaning(step: Step, number: int) -> Step:
    """Rewards that depend on the tasks beside."""
    return step._replace(rewards=step.rewards + (0.0 if number > 4 else 1e-9 * step.rewards.mean()))


def aliased() -> dict[str, Change]:
    kept: list[Any] = []

    def reset(observations: Any) -> Any:
        kept[:] = [observations]
        return observations

    def step(step: Step, number: int) -> Step:
        kept[0][:] = step.observations
        return step._replace(observations=kept[0])

    return {"reset": reset, "step": step}


def drawing(draw: Callable[[], Any]) -> Change:
    def reset(observations: Any) -> Any:
        draw()
        return observations

    return reset


def in_step(number: int, change: Callable[[Step], Step]) -> Change:
    return lambda step, taken: change(step) if taken == number else step


def test_sound_families_pass():
    check_environment_family(SOUND)
    check_environment_family(Changed())
    check_environment_family(Tabular(trajectories=1))
    check_environment_family(Navigation(horizon=3, trajectories=2))


NAN = float("nan")
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "spec": ({"spec": FamilySpec(input_shape=(3,), outputs=2, objective="mse")}, "expected an EnvironmentSpec"),
    "objective": ({"spec": spec(objective="mse")}, "spec.objective: expected 'return', received 'mse'"),
    "observations": ({"spec": spec(input_shape=(3, 1))}, r"input_shape: expected \(O,\), received \(3, 1\); flatten"),
    "horizon": ({"spec": spec(horizon=0)}, "spec: expected sizes above zero"),
    "described": (
        {"spec": spec(description=1)},
        r"describe: expected an array float64 \(6, 1\), received float64 \(6, 6\)",
    ),
    "beside": ({"describe": lambda keys: SOUND.describe(keys) + len(keys)}, "describe: a task alone has another"),
    "shape": (
        {"reset": lambda seen: seen[:, :2]},
        r"reset: expected an array float64 \(6, 3, 3\), received float64 \(6, 2",
    ),
    "type": ({"reset": lambda seen: seen.astype(np.float32)}, "reset: expected an array float64 .* received float32"),
    "list": ({"reset": lambda seen: seen.tolist()}, "reset: expected an array float64 .* received list"),
    "nan": (
        {"step": in_step(2, lambda step: step._replace(rewards=step.rewards * NAN))},
        "step: rewards: expected finite",
    ),
    "flags": (
        {"step": in_step(2, lambda step: step._replace(truncated=step.truncated.astype(int)))},
        "step: truncated: expected an array bool",
    ),
    "both": (
        {"step": in_step(4, lambda step: step._replace(truncated=step.terminated))},
        "expected a trajectory to be terminated or truncated, received both",
    ),
    "never": (
        {"step": in_step(4, lambda step: step._replace(terminated=step.truncated))},
        "expected all trajectories to end within 4 steps, the horizon",
    ),
    "paid": (
        {"step": in_step(5, lambda step: step._replace(rewards=step.rewards + 1))},
        "expected trajectories that have ended to repeat their last observation with reward 0 and no flag",
    ),
    "moved": ({"step": in_step(5, lambda step: step._replace(observations=step.observations + 1))}, "that have ended"),
    "twice": ({"step": in_step(5, lambda step: step._replace(terminated=~step.terminated))}, "that have ended"),
    "state": ({"reset": counting()}, "rolled out again it gave another result"),
    "company": ({"step": leaning}, "rolled out (in another order|alone) it gave another result"),
    "aliased": (aliased(), "observations changed after they had been handed out"),
    "python": ({"reset": drawing(random.random)}, "rollouts: a global random generator was used"),
    "numpy": ({"reset": drawing(lambda: np.random.rand())}, "a global random generator was used"),  # noqa: NPY002
    "torch": ({"reset": drawing(lambda: torch.rand(1))}, "a global random generator was used"),
    "inner step": ({"begin": lambda keys, inner: SOUND.start(keys, 0)}, "inner steps 0 and 1 gave the same result"),
    "splits": (
        {
            "begin": lambda keys, inner: SOUND.start([replace(key, split="train") for key in keys], inner),
            "describe": lambda keys: SOUND.describe([replace(key, split="train") for key in keys]),
        },
        r"split='val', index=0\) and .*split='train', index=0\) gave the same result",
    ),
    "seeds": (
        {
            "begin": lambda keys, inner: SOUND.start([replace(key, seed=0) for key in keys], inner),
            "describe": lambda keys: SOUND.describe([replace(key, seed=0) for key in keys]),
        },
        "and .*seed=1.* gave the same result",
    ),
}


@pytest.mark.parametrize(("parts", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_family_is_stopped(parts, message):
    with pytest.raises(FamilyError, match=message):
        check_environment_family(Changed(**parts))


def test_a_family_with_one_task_is_stopped():
    with pytest.raises(FamilyError, match="and all others are the same task"):
        check_environment_family(Navigation(goal=(0.3, 0.3), horizon=3, trajectories=2))


def test_a_family_that_cannot_be_pickled_is_stopped():
    family = Changed()
    family.__class__ = type("Stuck", (Changed,), {"__reduce__": lambda self: "nothing"})
    with pytest.raises(FamilyError, match="expected a family that can be pickled"):
        check_environment_family(family)


def test_a_copy_that_differs_is_stopped():
    family = Changed()
    other = Tabular(states=3, actions=2, horizon=4, trajectories=3, concentration=9.0)
    MADE[id(family)] = other  # type: ignore[assignment]
    with pytest.raises(FamilyError, match="a copy of the family gave another result"):
        check_environment_family(family)
