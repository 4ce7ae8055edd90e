"""Advantages of the steps of rollouts: reward baselines fitted per task, and generalised advantage estimation.

Shapes: T tasks, N trajectories, H steps at most, O numbers an observation.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from meta.policy.values import value_network

Baseline = Literal["none", "linear", "value"]
Normalise = Literal["none", "center", "standardise"]
Horizon = Literal["bootstrap", "end"]

RIDGE = 1e-5
LARGEST = 10.0  # features of observations beyond this are cut off
TIME_UNIT = 100.0  # steps


class Trajectories(NamedTuple):
    """Rollouts of T tasks.

    Attributes:
        observations: [T, N, H + 1, O]; after a trajectory's end the last observation is repeated.
        rewards: [T, N, H], zero after the end.
        taken: [T, N, H] bool, the steps before the end.
        terminated: [T, N] bool: the end is the task's own. Otherwise the trajectory was cut off, and what would have
            followed is estimated by the baseline.
    """

    observations: Tensor
    rewards: Tensor
    taken: Tensor
    terminated: Tensor


class AdvantageSettings(NamedTuple):
    """How rewards become advantages.

    Attributes:
        discount: γ, per step.
        gae_lambda: λ of generalised advantage estimation, from 0 (one-step errors) to 1 (whole returns).
        baseline: the estimate V of the return to go, fitted per task.
        normalise: ``center`` subtracts each task's mean, ``standardise`` also divides by its deviation.
        horizon: what follows where a trajectory was cut off. ``bootstrap``: the baseline's value; ``end``: nothing, as
            if the task had ended there, which is what rllab does (Duan et al. 2016).
    """

    discount: float
    gae_lambda: float
    baseline: Baseline
    normalise: Normalise
    horizon: Horizon = "bootstrap"


def advantages(trajectories: Trajectories, settings: AdvantageSettings) -> Tensor:
    """Returns advantages [T, N, H], zero after a trajectory's end.

    A_t = Σ_k (γλ)^k δ_{t+k},  δ_t = r_t + γ V(s_{t+1}) - V(s_t)  (Schulman et al. 2016, eqs. 11, 16)

    with V(s_{t+1}) = 0 where the task has terminated, and the baseline's value where the trajectory was cut off, or 0
    there as well with ``horizon: end``. Each task's numbers depend on its own rollouts alone.

    Args:
        trajectories: the rollouts of T tasks.
        settings: γ, λ, baseline, normalisation and what follows a cut.
    """
    if settings.horizon == "end":
        trajectories = trajectories._replace(terminated=torch.ones_like(trajectories.terminated))
    rewards, taken, terminated = trajectories.rewards, trajectories.taken, trajectories.terminated
    values = _values(trajectories, settings)
    ended = _last_steps(taken) & terminated[..., None]
    following = values[..., 1:].masked_fill(ended, 0.0)
    errors = (rewards + settings.discount * following - values[..., :-1]) * taken
    estimates = discounted(errors, settings.discount * settings.gae_lambda)
    return _normalised(estimates * taken, taken, settings.normalise)


def discounted(values: Tensor, factor: float, tail: Tensor | None = None) -> Tensor:
    """Returns Σ_k factor^k values_{t+k} along the last dimension, in the shape of ``values``.

    Args:
        values: [..., H].
        factor: discount per step.
        tail: the sum one step after the last, [...]; None: zero.

    >>> discounted(torch.tensor([1.0, 1.0, 1.0]), 0.5)
    tensor([1.7500, 1.5000, 1.0000])
    """
    result = torch.empty_like(values)
    running = torch.zeros_like(values[..., 0]) if tail is None else tail
    for step in range(values.shape[-1] - 1, -1, -1):
        running = values[..., step] + factor * running
        result[..., step] = running
    return result


def _last_steps(taken: Tensor) -> Tensor:
    """Mask of the last step of each trajectory, bool [T, N, H]."""
    following = torch.cat([taken[..., 1:], torch.zeros_like(taken[..., :1])], dim=-1)
    return taken & ~following


def _returns(trajectories: Trajectories, discount: float, values: Tensor | None) -> Tensor:
    """Discounted returns to go, [T, N, H]; the return after a cut is taken from ``values`` [T, N, H + 1], if any."""
    rewards = trajectories.rewards
    if values is not None:
        cut = _last_steps(trajectories.taken) & ~trajectories.terminated[..., None]
        rewards = rewards + discount * values[..., 1:] * cut
    return discounted(rewards, discount)


def _values(trajectories: Trajectories, settings: AdvantageSettings) -> Tensor:
    """Values of the baseline, [T, N, H + 1], fitted task by task.

    Fitted twice where trajectories were cut off: first with zero return after the cut, then with the first fit's values
    there.
    """
    observations, taken = trajectories.observations, trajectories.taken
    if settings.baseline == "none":
        return observations.new_zeros(observations.shape[:-1])
    fit = FITS[settings.baseline]
    values = None
    for _ in range(1 if bool(trajectories.terminated.all()) else 2):
        targets = _returns(trajectories, settings.discount, values)
        tasks = range(len(observations))
        values = torch.stack([fit(observations[task], targets[task], taken[task]) for task in tasks])
    assert values is not None
    return values


def linear_baseline(observations: Tensor, targets: Tensor, taken: Tensor) -> Tensor:
    """Returns values [N, H + 1] linear in observation, its square, powers 0 to 3 of time (Duan et al. 2016, appendix).

    The weights are the ridge regression, in float64, of the targets at the steps taken.

    Args:
        observations: one task's, [N, H + 1, O].
        targets: returns to go, [N, H].
        taken: mask of the steps before the end of a trajectory, bool [N, H].
    """
    clipped = observations.double().clamp(-LARGEST, LARGEST)
    time = torch.arange(observations.shape[1], dtype=torch.float64, device=observations.device) / TIME_UNIT
    powers = torch.stack([time, time**2, time**3, torch.ones_like(time)], dim=-1)
    features = torch.cat([clipped, clipped**2, powers.expand(len(observations), -1, -1)], dim=-1)
    rows, goals = features[:, :-1][taken], targets.double()[taken]
    gram = rows.T @ rows + RIDGE * torch.eye(rows.shape[1], dtype=torch.float64, device=rows.device)
    weights = torch.linalg.solve(gram, rows.T @ goals)
    values: Tensor = features @ weights
    return values.to(observations.dtype)


FITS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"linear": linear_baseline, "value": value_network}


def _normalised(estimates: Tensor, taken: Tensor, how: Normalise) -> Tensor:
    """Subtracts each task's mean over the steps taken; divides by its deviation if ``how`` is ``standardise``."""
    if how == "none":
        return estimates
    # Task by task: what a sum over one task comes to must not depend on how many are beside it.
    return torch.stack(
        [_standard(*pair, deviation=how == "standardise") for pair in zip(estimates, taken, strict=True)]
    )


def _standard(estimates: Tensor, taken: Tensor, *, deviation: bool) -> Tensor:
    count = max(int(taken.sum()), 1)
    centred: Tensor = (estimates - estimates.sum() / count) * taken
    if not deviation:
        return centred
    spread = torch.sqrt(centred.square().sum() / count) + 1e-8
    return torch.div(centred, spread)
