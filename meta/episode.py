"""What one task gives to a meta-learner: support examples, query examples, a description.

Shape legend of this package: T tasks, B examples, S support examples, Q query examples,
P parameters in all, K numbers of inner steps, D size of a task's description.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Examples(NamedTuple):
    """Inputs and their targets, of one task ([B, ...]) or of many ([T, B, ...])."""

    inputs: Tensor
    targets: Tensor


class Episode(NamedTuple):
    """One task's data: support to adapt on, query to score the adapted parameters.

    ``description`` is what an oracle is told about the task (amplitude and phase of a sinusoid),
    shape [D]; D is 0 for families whose tasks have no such vector.
    """

    support: Examples
    query: Examples
    description: Tensor


class NoisyEpisode(Episode):
    """An episode that carries what random layers draw from in training, see :mod:`meta.models.keyed`.

    Attributes:
        noise: uniform numbers in (0, 1), [M], or [T, M] for a batch.
    """

    noise: Tensor


def with_noise(episode: Episode, noise: Tensor) -> NoisyEpisode:
    """An episode, or a batch, with noise of its own."""
    noisy = NoisyEpisode(*episode)
    noisy.noise = noise
    return noisy


def pooled(episode: Episode) -> Examples:
    """Support and query of one task as one set of examples, [S + Q, ...]."""
    return Examples(
        torch.cat([episode.support.inputs, episode.query.inputs]),
        torch.cat([episode.support.targets, episode.query.targets]),
    )


def stack(episodes: Sequence[Episode]) -> Episode:
    """Stack single-task episodes of equal shapes along a new leading task dimension.

    Raises:
        ValueError: if there is no episode, or shapes differ.

    >>> one = Examples(torch.zeros(5, 1), torch.ones(5, 1))
    >>> batch = stack([Episode(one, one, torch.zeros(0))] * 3)
    >>> tuple(batch.support.inputs.shape), tuple(batch.description.shape)
    ((3, 5, 1), (3, 0))
    """
    if not episodes:
        raise ValueError("expected at least one episode to stack, received none")
    columns = []
    for name, *parts in zip((*LEAVES, "noise"), *map(leaves, episodes), strict=False):
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"expected equal shapes of {name} in all tasks, received {sorted(shapes)}")
        columns.append(torch.stack(parts))
    return from_leaves(columns)


def unstack(episodes: Episode, task: int = 0) -> Episode:
    """One task's episode out of a batch."""
    return from_leaves([leaf[task] for leaf in leaves(episodes)])


def signature(episodes: Episode) -> tuple[tuple[torch.Size, torch.dtype], ...]:
    """Shapes and types of the tensors: episodes that agree in it can go through one program."""
    return tuple((leaf.shape, leaf.dtype) for leaf in leaves(episodes))


def split(episodes: Episode, size: int) -> list[Episode]:
    """A batch in consecutive parts of ``size`` tasks; the last may be smaller."""
    parts = zip(*(leaf.split(size) for leaf in leaves(episodes)), strict=True)
    return [from_leaves(part) for part in parts]


def place(episodes: Episode, dtype: torch.dtype, device: torch.device | str) -> Episode:
    """A batch on ``device`` with floating-point numbers as ``dtype``; class labels keep int64.

    The result always lies in memory that torch allocated: its alignment is fixed, and with it the order in
    which vectorised kernels add, so equal episodes give equal bits wherever they were drawn.
    """
    return from_leaves(
        [
            leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else leaf.dtype, copy=True)
            for leaf in leaves(episodes)
        ]
    )


LEAVES = ("support inputs", "support targets", "query inputs", "query targets", "description")


def leaves(episode: Episode) -> tuple[Tensor, ...]:
    """The episode's five tensors in the order of :data:`LEAVES`; then its noise, if it has any."""
    found = (*episode.support, *episode.query, episode.description)
    return (*found, episode.noise) if isinstance(episode, NoisyEpisode) else found


def from_leaves(parts: Sequence[Tensor]) -> Episode:
    """The inverse of :func:`leaves`."""
    support_inputs, support_targets, query_inputs, query_targets, description, *noise = parts
    support, query = Examples(support_inputs, support_targets), Examples(query_inputs, query_targets)
    episode = Episode(support, query, description)
    return with_noise(episode, noise[0]) if noise else episode
