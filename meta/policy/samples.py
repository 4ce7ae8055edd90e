"""One task's rollouts as rows of a tensor: observations, actions, advantages, and the distributions acted from."""

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
        actions: [B, A], as sampled ([B, 1] if an action is one of several).
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
    """Returns ``values``, an output of a policy, after checking its shape; nothing is broadcast.

    Args:
        name: what the values are, for the message.
        values: the policy's output.
        shape: the shape it must have.

    Raises:
        ValueError: if it has another shape.
    """
    if tuple(values.shape) != tuple(shape):
        raise ValueError(f"policy: {name}: expected shape {tuple(shape)}, received {tuple(values.shape)}")
    return values


SCALARS = 4  # weight, reward, advantage, log-probability


def pack(samples: Samples) -> Examples:
    """Returns samples as inputs [..., B, O] and targets [..., B, A + 4 + M]; leading dimensions are kept."""
    observations, actions, *scalars, outputs = samples
    return Examples(observations, torch.cat([actions, *(one[..., None] for one in scalars), outputs], dim=-1))


def unpack(examples: Examples, policy: Policy) -> Samples:
    """Returns the samples of packed examples; the inverse of :func:`pack`.

    Args:
        examples: inputs [..., B, O] and targets [..., B, A + 4 + M].
        policy: gives the size A of an action.
    """
    inputs, targets = examples.tensor, examples.targets
    first = action_columns(policy)
    actions, outputs = targets[..., :first], targets[..., first + SCALARS :]
    weights, rewards, advantages, log_probabilities = (targets[..., first + number] for number in range(SCALARS))
    return Samples(inputs, actions, weights, rewards, advantages, log_probabilities, outputs)


def step_of(support: Examples, number: int) -> Examples:
    """Returns the rollouts [B, ...] of inner step ``number`` out of a task's support [J, B, ...].

    Args:
        support: packed rollouts of J inner steps, [J, B, ...].
        number: the inner step, 0 to J - 1.
    """
    return Examples(support.tensor[number], support.targets[number])


def blank(policy: Policy, observation: int, steps: int, rows: int, dtype: torch.dtype) -> Episode:
    """Returns an episode of zeros for one task, [1, ...], with the shapes that sampled rollouts will have.

    Args:
        policy: gives the sizes of actions and distributions.
        observation: size O of an observation.
        steps: inner steps J.
        rows: rows B = N · H of one batch of rollouts.
        dtype: floating-point type.
    """
    columns = action_columns(policy) + SCALARS + policy.width

    def examples(*leading: int) -> Examples:
        shapes = ((*leading, rows, observation), (*leading, rows, columns))
        return Examples(*(torch.zeros(shape, dtype=dtype) for shape in shapes))

    return Episode(examples(1, steps), examples(1), torch.zeros(1, 0, dtype=dtype))


def as_examples(
    policy: Policy, settings: AdvantageSettings, seen: Trajectories, actions: Tensor, outputs: Tensor
) -> Examples:
    """Returns rollouts of T tasks as packed examples, [T, N · H, ...].

    Args:
        policy: computes the log-probabilities of the actions.
        settings: how rewards become advantages.
        seen: observations, rewards and ends.
        actions: [T, N, H, A], as sampled ([T, N, H, 1] if an action is one of several).
        outputs: [T, N, H, M], the distributions they were sampled from.
    """
    observed, rewards, taken, _ = seen
    weights = taken.to(observed.dtype) / taken.sum(dim=(1, 2), keepdim=True)
    estimates = advantages(seen, settings)
    log_probabilities = require_shape("log_probability", policy.log_probability(outputs, actions), weights.shape)
    columns = (observed[:, :, :-1], actions, weights, rewards, estimates, log_probabilities, outputs)
    return pack(Samples(*(column.flatten(1, 2).contiguous() for column in columns)))
