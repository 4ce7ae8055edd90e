"""A public checker of families of environments: run it on a custom family before training on it."""

import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.checker import FamilyError, check_kinds, generators_untouched
from tasks.environments.contract import EnvironmentFamily, EnvironmentSpec, Lockstep, Numbers, Step
from tasks.family import SPLITS, TaskKey

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


def check_environment_family(family: EnvironmentFamily, *, seed: int = 0, tasks: int = 2) -> None:
    """Checks that a family of environments keeps its contract.

    The specification is well-formed; the results of steps have its shapes and types and hold finite numbers; every
    trajectory ends by the horizon and repeats its last observation from then on, whatever the actions; rollouts are a
    pure
    function of the keys and the inner step: again, in another order, alone, beside another rollout, from a pickled copy
    and
    under other states of the global generators they have the same bits; no global generator is used; where trajectories
    of
    a task differ under the same actions, inner steps and tasks differ as well.

    All trajectories are run to their end several times: use a short horizon and few trajectories.

    Args:
        family: the family to check.
        seed: seed to draw under.
        tasks: tasks per split.

    Raises:
        FamilyError: at the first violation.

    >>> from tasks.environments.navigation import Navigation
    >>> check_environment_family(Navigation(horizon=5, trajectories=2))
    """
    spec = _checked_spec(family)
    keys = [TaskKey(seed, split, index) for split in SPLITS for index in range(tasks)]
    _check_descriptions(family, keys, spec)
    check_kinds(family, keys)
    first = _run(family, keys, 0, spec)
    _check_purity(family, keys, first, spec)
    _check_copy(family, keys, first, spec)
    _check_variety(family, keys, first, spec)


@dataclass(frozen=True)
class _Trace:
    """Observations [1 + H, T, N, O], rewards [H, T, N], and the flags, [H, T, N] each."""

    observations: Array
    rewards: Array
    terminated: Array
    truncated: Array

    def rows(self, places: int | list[int]) -> tuple[Array, ...]:
        """Returns the arrays of some tasks."""
        return tuple(part[:, places] for part in (self.observations, self.rewards, self.terminated, self.truncated))


def _checked_spec(family: EnvironmentFamily) -> EnvironmentSpec:
    spec = family.spec
    if not isinstance(spec, EnvironmentSpec):
        raise FamilyError(f"spec: expected an EnvironmentSpec, received {type(spec).__name__}")
    if spec.objective != "return":
        raise FamilyError(f"spec.objective: expected 'return', received '{spec.objective}'")
    if len(spec.input_shape) != 1:
        raise FamilyError(f"spec.input_shape: expected (O,), received {spec.input_shape}; flatten observations")
    if min(*spec.input_shape, spec.outputs, spec.horizon, spec.trajectories) < 1 or spec.description < 0:
        raise FamilyError(f"spec: expected sizes above zero, received {spec}")
    if spec.choices and not (spec.discrete and len(spec.choices) == spec.outputs and min(spec.choices) > 0):
        raise FamilyError(
            f"spec.choices: expected {spec.outputs} numbers of values, as many as outputs, and discrete set, "
            f"received {spec}"
        )
    return spec


def _check_descriptions(family: EnvironmentFamily, keys: list[TaskKey], spec: EnvironmentSpec) -> None:
    together = family.describe(keys)
    _check_array("describe", together, (len(keys), spec.description), np.float64)
    alone = np.concatenate([family.describe([key]) for key in reversed(keys)])[::-1]
    if not _same([together], [alone]):
        raise FamilyError("describe: a task alone has another description than beside others; draw from key.rng(…)")


def _check_array(name: str, value: object, shape: tuple[int, ...], dtype: type[np.generic]) -> None:
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
        got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise FamilyError(f"{name}: expected an array {np.dtype(dtype)} {shape}, received {got}")
    if not np.isfinite(value).all():
        raise FamilyError(f"{name}: expected finite numbers, received NaN or infinity")


def _run(family: EnvironmentFamily, keys: Sequence[TaskKey], inner_step: int, spec: EnvironmentSpec) -> _Trace:
    return _finish(family.start(keys, inner_step), len(keys), spec)


def _finish(lockstep: Lockstep, tasks: int, spec: EnvironmentSpec, invalid: bool = False) -> _Trace:
    """Runs and checks all trajectories, with the same actions for each, one step past the horizon.

    With ``invalid``, trajectories that have ended receive invalid actions.
    """
    size = (tasks, spec.trajectories)
    observations = lockstep.reset()
    _check_array("reset", observations, (*size, *spec.input_shape), np.float64)
    handed, copies = [observations], [observations.copy()]
    others: list[tuple[Array, ...]] = []
    ended = np.zeros(size, dtype=np.bool_)
    for action in _actions(spec):
        actions = np.broadcast_to(action, (*size, *action.shape)).copy()
        if invalid:
            actions[ended] = np.nan
        step = Step(*lockstep.step(actions))
        _check_step(step, copies[-1], ended)
        ended = ended | step.terminated | step.truncated
        handed.append(step.observations)
        copies.append(step.observations.copy())
        others.append((step.rewards.copy(), step.terminated.copy(), step.truncated.copy()))
        if len(others) == spec.horizon and not ended.all():
            raise FamilyError(
                f"step: expected all trajectories to end within {spec.horizon} steps, the horizon; "
                "set truncated in the last"
            )
    if not _same(handed, copies):
        raise FamilyError("step: observations changed after they had been handed out; hand out copies")
    return _Trace(np.stack(copies), *(np.stack(parts) for parts in zip(*others, strict=True)))


def _actions(spec: EnvironmentSpec) -> Iterable[Numbers]:
    rng = TaskKey(0, "test", 0).rng("actions")
    for _ in range(spec.horizon + 1):
        if spec.choices:
            yield rng.integers(spec.choices).astype(np.float64)
        else:
            yield np.asarray(float(rng.integers(spec.outputs))) if spec.discrete else rng.standard_normal(spec.outputs)


def _check_step(step: Step, before: Numbers, ended: Array) -> None:
    size = before.shape[:2]
    for name, part, shape, dtype in (
        ("observations", step.observations, before.shape, np.float64),
        ("rewards", step.rewards, size, np.float64),
        ("terminated", step.terminated, size, np.bool_),
        ("truncated", step.truncated, size, np.bool_),
    ):
        _check_array(f"step: {name}", part, shape, dtype)
    if (step.terminated & step.truncated).any():
        raise FamilyError("step: expected a trajectory to be terminated or truncated, received both; keep terminated")
    moved = (step.observations != before).any(axis=-1) | (step.rewards != 0) | step.terminated | step.truncated
    if (moved & ended).any():
        raise FamilyError(
            "step: expected trajectories that have ended to repeat their last observation with reward 0 and no flag, "
            "received something else"
        )


def _same(one: Iterable[Array], other: Iterable[Array]) -> bool:
    return all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _check_purity(family: EnvironmentFamily, keys: list[TaskKey], first: _Trace, spec: EnvironmentSpec) -> None:
    everything = list(range(len(keys)))

    def compare(trace: _Trace, places: list[int], how: str) -> None:
        for row, place in enumerate(places):
            if not _same(trace.rows(row), first.rows(place)):
                raise FamilyError(
                    f"{keys[place]}: rolled out {how} it gave another result; draw every random number from "
                    "key.rng(…), keep no state between rollouts, and compute each task by itself"
                )

    with generators_untouched("rollouts"):
        compare(_run(family, keys, 0, spec), everything, "again")
        backwards = everything[::-1]
        compare(_run(family, [keys[place] for place in backwards], 0, spec), backwards, "in another order")
    compare(_run(family, keys[-1:], 0, spec), everything[-1:], "alone")
    lockstep, beside = family.start(keys, 0), family.start(keys, 1)
    beside.reset()
    compare(_finish(lockstep, len(keys), spec, invalid=True), everything, "with NaN for actions after the end")


def _check_copy(family: EnvironmentFamily, keys: list[TaskKey], first: _Trace, spec: EnvironmentSpec) -> None:
    try:
        copy = pickle.loads(pickle.dumps(family))
    except Exception as error:
        raise FamilyError(f"expected a family that can be pickled and sent to workers, received {error!r}") from error
    if not _same(_run(copy, keys[:1], 0, spec).rows(0), first.rows(0)):
        raise FamilyError(f"{keys[0]}: a copy of the family gave another result; keep no state outside the constructor")


def _check_variety(family: EnvironmentFamily, keys: list[TaskKey], first: _Trace, spec: EnvironmentSpec) -> None:
    """Checks that tasks differ, and inner steps as well where trajectories of one task differ."""
    other = TaskKey(keys[0].seed + 1, keys[0].split, keys[0].index)
    descriptions = family.describe([*keys, other])
    traces = [*(first.rows(place) for place in range(len(keys))), _run(family, [other], 0, spec).rows(0)]
    tasks = [(descriptions[place].tobytes(), *(part.tobytes() for part in trace)) for place, trace in enumerate(traces)]
    names = [*keys, other]
    random = [place for place in range(len(keys)) if _differ_inside(first, place)]
    if len(set(tasks)) == 1:
        raise FamilyError(f"{names[0]} and all others are the same task; draw from key.rng(…), which tells them apart")
    for place in random:
        if tasks.index(tasks[place]) < place or tasks[-1] == tasks[place]:
            twin = names[tasks.index(tasks[place])] if tasks[-1] != tasks[place] else other
            raise FamilyError(f"{names[place]} and {twin} gave the same result; draw from key.rng(…)")
    second = _run(family, keys, 1, spec)
    for place in random:
        if _same(second.rows(place), first.rows(place)):
            raise FamilyError(
                f"{keys[place]}: inner steps 0 and 1 gave the same result; make the inner step part of the purpose "
                "in key.rng(…)"
            )


def _differ_inside(trace: _Trace, place: int) -> bool:
    return not all((part == part[:, :1]).all() for part in trace.rows(place))
