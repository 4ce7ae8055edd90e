"""Episodes made up for measuring: fixed by a seed, of the shapes of the real ones, and with something to learn."""

import math

import torch
from torch import Tensor

from meta.episode import Episode, Examples
from meta.params import Params
from meta.policy import GaussianPolicy
from meta.policy.distributions import log_normal

NOISE = 0.5  # deviation of an image from its class
GOAL_STEP = 0.1  # how far an action moves


def generator(seed: int = 0) -> torch.Generator:
    """A source of random numbers at its start."""
    return torch.Generator().manual_seed(seed)


def sinusoids(tasks: int, shot: int, query: int) -> Episode:
    """Curves a sin(x - b), one a task, inputs [T, B, 1]; see :class:`tasks.sinusoid.Sinusoid`.

    Args:
        tasks: T.
        shot: support examples of a task.
        query: query examples of a task.
    """
    source = generator()
    amplitude = 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=source)
    phase = math.pi * torch.rand(tasks, 1, 1, generator=source)

    def examples(points: int) -> Examples:
        inputs = 10 * torch.rand(tasks, points, 1, generator=source) - 5
        return Examples(inputs, amplitude * torch.sin(inputs - phase))

    return Episode(examples(shot), examples(query), torch.zeros(tasks, 0))


def images(tasks: int, shape: tuple[int, ...], way: int, shot: int, query: int) -> Episode:
    """Images around one pattern a class, each task with classes of its own, inputs [T, way · shot, *shape].

    Args:
        tasks: T.
        shape: of an image.
        way: classes of a task.
        shot: support examples of a class.
        query: query examples of a class.
    """
    source = generator()
    classes = torch.randn(tasks, way, 1, *shape, generator=source)

    def examples(each: int) -> Examples:
        noise = torch.randn(tasks, way, each, *shape, generator=source)
        labels = torch.arange(way).repeat_interleave(each).expand(tasks, -1).contiguous()
        return Examples((classes + NOISE * noise).flatten(1, 2), labels)

    return Episode(examples(shot), examples(query), torch.zeros(tasks, 0))


def rollouts(tasks: int, policy: GaussianPolicy, params: Params, shot: int, query: int) -> Episode:
    """Steps towards one goal a task, taken under ``params``; targets as in :mod:`benchmarks.navigation`.

    Args:
        tasks: T.
        policy: acts.
        params: of the policy, by name.
        shot: support steps of a task.
        query: query steps of a task.
    """
    source = generator()
    size = policy.outputs
    goals = torch.rand(tasks, 1, size, generator=source) - 0.5

    def examples(steps: int) -> Examples:
        observed = torch.randn(tasks, steps, *policy.inputs, generator=source)
        outputs = policy.apply(params, observed.flatten(0, 1))
        noise = torch.randn(tasks * steps, size, generator=source)
        actions = outputs[:, :size] + torch.exp(outputs[:, size:]) * noise
        reached = observed + GOAL_STEP * actions.view(tasks, steps, size)
        advantage = _standard(-(reached - goals).square().sum(dim=-1, keepdim=True))
        probability = log_normal(outputs, actions).view(tasks, steps, 1)
        return Examples(observed, torch.cat([actions.view(tasks, steps, size), advantage, probability], dim=-1))

    return Episode(examples(shot), examples(query), torch.zeros(tasks, 0))


def _standard(values: Tensor) -> Tensor:
    """Each task's values with mean 0 and deviation 1."""
    return (values - values.mean(dim=1, keepdim=True)) / values.std(dim=1, keepdim=True)
