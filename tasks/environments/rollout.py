"""Rollouts: a policy acting in a family's environments, for all tasks and trajectories at once."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.environments.contract import EnvironmentFamily, EnvironmentSpec, Flags, Numbers, RolloutError, Step
from tasks.family import TaskKey

Act = Callable[[Numbers, Numbers], tuple[Numbers, Numbers]]


class Rollouts(NamedTuple):
    """T tasks × N trajectories of at most H steps, in float64.

    Attributes:
        observations: [T, N, H + 1, O]; after a trajectory's end the last observation is repeated.
        actions: [T, N, H, A], as the policy gave them ([T, N, H, 1] if an action is one of several).
        outputs: [T, N, H, M], the distributions they were drawn from.
        rewards: [T, N, H], zero after the end.
        taken: [T, N, H], the steps before the end.
        terminated: [T, N], whether the end was the task's own rather than a cut.
        outside: [T], observations that left their declared space, of environments that count them.
    """

    observations: Numbers
    actions: Numbers
    outputs: Numbers
    rewards: Numbers
    taken: Flags
    terminated: Flags
    outside: NDArray[np.int64] | None = None

    @property
    def returns(self) -> Numbers:
        """Mean over trajectories of the sum of rewards, [T]."""
        means: Numbers = self.rewards.sum(axis=2).mean(axis=1)
        return means


def roll(family: EnvironmentFamily, keys: Sequence[TaskKey], inner_step: int, act: Act) -> Rollouts:
    """Returns the rollouts of a policy until every trajectory has ended or reached the horizon.

    A pure function of the keys, the inner step and ``act``: the noise of the actions is drawn from the task's own
    stream
    (``key.rng("act0")`` and on), as is everything random in its environment.

    Args:
        family: the environments.
        keys: the T tasks.
        inner_step: number of inner steps before these rollouts; each has random numbers of its own.
        act: (observations [T, N, O], noise [T, N, A]) -> actions [T, N, A] and distributions [T, N, M]; the noise is
            standard normal, or uniform where actions are discrete, [T, N, 1] where they are one of several.

    Raises:
        RolloutError: naming the task, if an environment fails, or an action or a reward is not finite.
    """
    spec = family.spec
    noise = _noise(family, keys, inner_step)
    lockstep = family.start(keys, inner_step)
    observed = lockstep.reset()
    rows = (len(keys), spec.trajectories)
    _require(observed, (*rows, *spec.input_shape), "first observations [T, N, O]", keys, inner_step, 0)
    observations = np.empty((*rows, spec.horizon + 1, observed.shape[2]))
    actions = np.zeros((*rows, spec.horizon, noise.shape[-1]))
    outputs: Numbers | None = None
    rewards, taken = np.zeros((*rows, spec.horizon)), np.zeros((*rows, spec.horizon), dtype=bool)
    running, terminated = np.ones(rows, dtype=bool), np.zeros(rows, dtype=bool)
    observations[:] = observed[:, :, None]
    for step in range(spec.horizon):
        action, distribution = act(observed, noise[:, step])
        _require(action, noise[:, step].shape, "the policy's actions [T, N, A]", keys, inner_step, step + 1)
        _require_finite(action, "the policy's actions", keys, inner_step, step)
        outputs = np.zeros((*rows, spec.horizon, distribution.shape[-1])) if outputs is None else outputs
        answer = lockstep.step(action[..., 0] if spec.single else action)
        _require_shapes(answer, rows, spec, keys, inner_step, step)
        _require_finite(answer.rewards, "rewards", keys, inner_step, step)
        observed = answer.observations
        actions[:, :, step], outputs[:, :, step] = action, distribution
        rewards[:, :, step], taken[:, :, step] = answer.rewards, running
        observations[:, :, step + 1] = observed
        terminated |= answer.terminated & running
        running = running & ~_ended(answer)
        if not running.any():
            observations[:, :, step + 2 :] = observed[:, :, None]
            break
    assert outputs is not None
    outside = getattr(lockstep, "outside", None)
    return Rollouts(observations, actions, outputs, rewards, taken, terminated, outside)


def _ended(step: Step) -> Flags:
    ended: Flags = step.terminated | step.truncated
    return ended


def _noise(family: EnvironmentFamily, keys: Sequence[TaskKey], inner_step: int) -> Numbers:
    """Returns the noise that actions are sampled with, [T, H, N, A]."""
    spec = family.spec
    shape = (spec.horizon, spec.trajectories, 1 if spec.single else spec.outputs)
    generators = [key.rng(f"act{inner_step}") for key in keys]
    if spec.discrete:
        return np.stack([generator.random(shape) for generator in generators])
    return np.stack([generator.standard_normal(shape) for generator in generators])


def _require_shapes(
    answer: Step, rows: tuple[int, int], spec: EnvironmentSpec, keys: Sequence[TaskKey], inner_step: int, step: int
) -> None:
    """Checks the shapes of an environment's results; nothing is broadcast."""
    for values, shape, name in (
        (answer.observations, (*rows, *spec.input_shape), "observations [T, N, O]"),
        (answer.rewards, rows, "rewards [T, N]"),
        (answer.terminated, rows, "terminated [T, N]"),
        (answer.truncated, rows, "truncated [T, N]"),
    ):
        _require(values, shape, name, keys, inner_step, step + 1)


def _require(
    values: object, shape: tuple[int, ...], name: str, keys: Sequence[TaskKey], inner_step: int, number: int
) -> None:
    if not isinstance(values, np.ndarray) or values.shape != shape:
        received = f"shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        raise RolloutError(
            f"{keys[0].split} tasks from {keys[0].index} on, inner step {inner_step}, environment step {number}: "
            f"{name}: expected an array of shape {shape}, received {received}; mend the environment or the policy"
        )


def _require_finite(values: Numbers, what: str, keys: Sequence[TaskKey], inner_step: int, step: int) -> None:
    if np.isfinite(values).all():
        return
    task = int(np.argwhere(~np.isfinite(values))[0][0])
    raise RolloutError(
        f"{keys[task].split} task {keys[task].index}, inner step {inner_step}, environment step {step + 1}: expected "
        f"finite numbers, {what} are NaN or infinite; lower inner.lr or the trust region (outer.trpo.kl), or bound the "
        "environment's rewards"
    )
