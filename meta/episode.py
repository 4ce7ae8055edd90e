"""The data of one task: support examples, query examples, a description.

Shape legend of this package: T tasks, B examples, S support examples, Q query examples,
P parameters in all, K numbers of inner steps, D size of a task's description.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Examples(NamedTuple):
    """Inputs and targets of one task ([B, ...]) or of a batch of tasks ([T, B, ...]).

    Attributes:
        inputs: floating-point tensor, or int64 symbols such as tokens.
        targets: floating-point tensor, or int64 class numbers [B] for classification.
    """

    inputs: Tensor
    targets: Tensor


class Episode(NamedTuple):
    """One task's data, or with a leading task dimension a batch of them.

    Attributes:
        support: examples to adapt on, [S, ...].
        query: examples to score the adapted parameters on, [Q, ...].
        description: vector [D] that tells an oracle which task it is (amplitude and phase of a sinusoid); D is 0 for
            families whose tasks have no such vector.
    """

    support: Examples
    query: Examples
    description: Tensor


class NoisyEpisode(Episode):
    """An episode with the random numbers that random layers draw in training, see :mod:`meta.models.keyed`.

    Attributes:
        noise: uniform numbers in (0, 1), [M], or [T, M] for a batch.
    """

    noise: Tensor


def with_noise(episode: Episode, noise: Tensor) -> NoisyEpisode:
    """Returns the episode, or batch of episodes, with ``noise`` ([M], or [T, M]) attached."""
    noisy = NoisyEpisode(*episode)
    noisy.noise = noise
    return noisy


def pooled(episode: Episode) -> Examples:
    """Returns support and query of one task as one set of examples, [S + Q, ...]."""
    return Examples(
        torch.cat([episode.support.inputs, episode.query.inputs]),
        torch.cat([episode.support.targets, episode.query.targets]),
    )


def described(episodes: Episode) -> Episode:
    """Returns the episodes with their description appended to every input, [..., B, I + D].

    Args:
        episodes: an episode or a batch, of vector inputs [..., B, I] and descriptions [..., D].
    """

    def beside(examples: Examples) -> Examples:
        inputs, targets = examples
        rows = episodes.description[..., None, :].expand(*inputs.shape[:-1], -1)
        return Examples(torch.cat([inputs, rows], dim=-1), targets)

    return episodes._replace(support=beside(episodes.support), query=beside(episodes.query))


def stack(episodes: Sequence[Episode]) -> Episode:
    """Stacks T single-task episodes of equal shapes along a new leading task dimension.

    Args:
        episodes: at least one episode, with noise in all or in none of them.

    Returns:
        One batch, every tensor [T, ...].

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
    """Returns the episode of task number ``task`` of a batch, as views.

    Args:
        episodes: a batch, [T, ...].
        task: position of the task, 0 to T - 1.
    """
    return from_leaves([leaf[task] for leaf in leaves(episodes)])


def signature(episodes: Episode) -> tuple[tuple[torch.Size, torch.dtype], ...]:
    """Returns shape and dtype of every tensor; batches with equal signatures can run the same recorded program."""
    return tuple((leaf.shape, leaf.dtype) for leaf in leaves(episodes))


def split(episodes: Episode, size: int) -> list[Episode]:
    """Splits a batch into consecutive parts of ``size`` tasks; the last part may be smaller.

    Args:
        episodes: a batch, [T, ...].
        size: tasks per part.
    """
    parts = zip(*(leaf.split(size) for leaf in leaves(episodes)), strict=True)
    return [from_leaves(part) for part in parts]


def place(episodes: Episode, dtype: torch.dtype, device: torch.device | str) -> Episode:
    """Copies a batch to ``device``, floating-point numbers as ``dtype``; class labels keep int64.

    The result always lies in memory that torch allocated: its alignment is fixed, and with it the order in
    which vectorised kernels add, so equal episodes give equal bits wherever they were drawn.

    Args:
        episodes: an episode or a batch.
        dtype: type of the floating-point tensors.
        device: where the copy lies.
    """
    return from_leaves(
        [
            leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else leaf.dtype, copy=True)
            for leaf in leaves(episodes)
        ]
    )


LEAVES = ("support inputs", "support targets", "query inputs", "query targets", "description")


def leaves(episode: Episode) -> tuple[Tensor, ...]:
    """Returns the episode's five tensors in the order of :data:`LEAVES`; then its noise, if it has any."""
    tensors = (*episode.support, *episode.query, episode.description)
    return (*tensors, episode.noise) if isinstance(episode, NoisyEpisode) else tensors


def from_leaves(parts: Sequence[Tensor]) -> Episode:
    """Returns the episode of five or six tensors; the inverse of :func:`leaves`."""
    support_inputs, support_targets, query_inputs, query_targets, description, *noise = parts
    support, query = Examples(support_inputs, support_targets), Examples(query_inputs, query_targets)
    episode = Episode(support, query, description)
    return with_noise(episode, noise[0]) if noise else episode
