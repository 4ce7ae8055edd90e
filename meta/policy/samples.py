"""What a task's rollouts are to a gradient: rows of observations, actions, advantages and the policy that acted."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from meta.episode import Episode, Examples
from meta.policy.advantages import AdvantageSettings, Trajectories, advantages
from meta.policy.distributions import Policy, action_columns


class Samples(NamedTuple):
    """One task's steps in one batch of rollouts, B = N · H rows, trajectory by trajectory, padded to the horizon H.

    Attributes:
        observations: [B, O].
        actions: [B, A], as sampled ([B, 1] numbers if discrete).
        weights: [B]; 1 / (number of real steps), 0 for the padding after a trajectory's end. They sum to one.
        rewards: [B].
        advantages: [B].
        log_probabilities: [B], log π of the actions under the policy that took them.
        outputs: [B, M], distributions of the policy that acted.
    """

    observations: Tensor
    actions: Tensor
    weights: Tensor
    rewards: Tensor
    advantages: Tensor
    log_probabilities: Tensor
    outputs: Tensor


def require_shape(name: str, values: Tensor, shape: Sequence[int]) -> Tensor:
    """``values``, which a policy gave and which nothing may broadcast.

    Raises:
        ValueError: if their shape is another.
    """
    if tuple(values.shape) != tuple(shape):
        raise ValueError(f"policy: {name}: expected shape {tuple(shape)}, received {tuple(values.shape)}")
    return values


SCALARS = 4  # weight, reward, advantage, log-probability


def pack(samples: Samples) -> Examples:
    """Samples as inputs and targets; leading dimensions are kept."""
    observations, actions, *scalars, outputs = samples
    return Examples(observations, torch.cat([actions, *(one[..., None] for one in scalars), outputs], dim=-1))


def unpack(examples: Examples, policy: Policy) -> Samples:
    """The inverse of :func:`pack`."""
    inputs, targets = examples
    first = action_columns(policy)
    actions, outputs = targets[..., :first], targets[..., first + SCALARS :]
    weights, rewards, advantages, log_probabilities = (targets[..., first + number] for number in range(SCALARS))
    return Samples(inputs, actions, weights, rewards, advantages, log_probabilities, outputs)


def step_of(support: Examples, number: int) -> Examples:
    """The rollouts of one inner step out of a task's support, [J, B, …]."""
    return Examples(support.inputs[number], support.targets[number])


def blank(policy: Policy, observation: int, steps: int, rows: int, dtype: torch.dtype) -> Episode:
    """One task's episode of the right shapes, [1, …], before anything has been sampled."""
    columns = action_columns(policy) + SCALARS + policy.width

    def examples(*leading: int) -> Examples:
        shapes = ((*leading, rows, observation), (*leading, rows, columns))
        return Examples(*(torch.zeros(shape, dtype=dtype) for shape in shapes))

    return Episode(examples(1, steps), examples(1), torch.zeros(1, 0, dtype=dtype))


def as_examples(
    policy: Policy, settings: AdvantageSettings, seen: Trajectories, actions: Tensor, outputs: Tensor
) -> Examples:
    """Rollouts of T tasks as an algorithm takes them, [T, N · H, …].

    Args:
        policy: gives the log-probabilities of what was done.
        settings: how rewards become advantages.
        seen: observations, rewards and ends.
        actions: [T, N, H, A], as sampled ([T, N, H, 1] numbers if discrete).
        outputs: [T, N, H, M], the distributions they were sampled from.
    """
    observed, rewards, taken, _ = seen
    weights = taken.to(observed.dtype) / taken.sum(dim=(1, 2), keepdim=True)
    found = advantages(seen, settings)
    log_probabilities = require_shape("log_probability", policy.log_probability(outputs, actions), weights.shape)
    columns = (observed[:, :, :-1], actions, weights, rewards, found, log_probabilities, outputs)
    return pack(Samples(*(column.flatten(1, 2).contiguous() for column in columns)))
