"""The data of one task: support examples, query examples, a description.

Shape legend of this package: T tasks, B examples, S support examples, Q query examples,
P parameters in all, K numbers of inner steps, D size of a task's description.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta.inputs import Inputs, each, names_of, of_parts, one_tensor, parts


class Examples(NamedTuple):
    """Inputs and targets of one task ([B, ...]) or of a batch of tasks ([T, B, ...]).

    Attributes:
        inputs: floating-point tensor, or int64 symbols such as tokens; or several tensors by name, all [B, ...], that a
            module's ``forward`` takes by these names.
        targets: floating-point tensor, or int64 class numbers [B] for classification.
    """

    inputs: Inputs
    targets: Tensor

    @property
    def tensor(self) -> Tensor:
        """The inputs where they are one tensor.

        Raises:
            ValueError: if they are several by name.
        """
        return one_tensor(self.inputs, "examples")


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
        each(lambda *both: torch.cat(both), episode.support.inputs, episode.query.inputs),
        torch.cat([episode.support.targets, episode.query.targets]),
    )


def described(episodes: Episode) -> Episode:
    """Returns the episodes with their description appended to every input, [..., B, I + D].

    Args:
        episodes: an episode or a batch, of vector inputs [..., B, I] and descriptions [..., D].
    """

    def beside(examples: Examples) -> Examples:
        inputs, targets = one_tensor(examples.inputs, "a description beside the inputs"), examples.targets
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
        ValueError: if there is no episode, or names or shapes differ.

    >>> one = Examples(torch.zeros(5, 1), torch.ones(5, 1))
    >>> batch = stack([Episode(one, one, torch.zeros(0))] * 3)
    >>> tuple(batch.support.inputs.shape), tuple(batch.description.shape)
    ((3, 5, 1), (3, 0))
    """
    if not episodes:
        raise ValueError("expected at least one episode to stack, received none")
    names = input_names(episodes[0])
    if other := next((own for own in map(input_names, episodes) if own != names), None):
        raise ValueError(f"expected inputs of equal names in all tasks, received {list(names)} and {list(other)}")
    columns = []
    for name, *tensors in zip((*leaf_names(names), "noise"), *map(leaves, episodes), strict=False):
        shapes = {tuple(tensor.shape) for tensor in tensors}
        if len(shapes) > 1:
            raise ValueError(f"expected equal shapes of {name} in all tasks, received {sorted(shapes)}")
        columns.append(torch.stack(tensors))
    return from_leaves(columns, names)


def unstack(episodes: Episode, task: int = 0) -> Episode:
    """Returns the episode of task number ``task`` of a batch, as views.

    Args:
        episodes: a batch, [T, ...].
        task: position of the task, 0 to T - 1.
    """
    return from_leaves([leaf[task] for leaf in leaves(episodes)], input_names(episodes))


def signature(episodes: Episode) -> tuple[Any, ...]:
    """Returns the inputs' names, and shape and dtype of every tensor: equal where a recorded program can be shared."""
    return (input_names(episodes), *((leaf.shape, leaf.dtype) for leaf in leaves(episodes)))


def split(episodes: Episode, size: int) -> list[Episode]:
    """Splits a batch into consecutive parts of ``size`` tasks; the last part may be smaller.

    Args:
        episodes: a batch, [T, ...].
        size: tasks per part.
    """
    names = input_names(episodes)
    return [from_leaves(part, names) for part in zip(*(leaf.split(size) for leaf in leaves(episodes)), strict=True)]


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
        ],
        input_names(episodes),
    )


LEAVES = ("support inputs", "support targets", "query inputs", "query targets", "description")


def leaf_names(names: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Returns the names of an episode's tensors in the order of :func:`leaves`, without its noise.

    Args:
        names: of the inputs, if there are several.

    >>> leaf_names(("ids", "mask"))[:3]
    ('support inputs ids', 'support inputs mask', 'support targets')
    """
    if not names:
        return LEAVES
    support, query = ([f"{half} inputs {name}" for name in names] for half in ("support", "query"))
    return (*support, LEAVES[1], *query, *LEAVES[3:])


def input_names(episode: Episode) -> tuple[str, ...]:
    """Returns the names of an episode's inputs in sorted order; none where they are one tensor.

    Raises:
        ValueError: if support and query have others.
    """
    support, query = episode.support.inputs, episode.query.inputs
    if not isinstance(support, dict) and not isinstance(query, dict):
        return ()
    names, other = names_of(support), names_of(query)
    if names != other:
        raise ValueError(f"expected inputs of the same names in support and query, received {names} and {other}")
    return names


def leaves(episode: Episode) -> tuple[Tensor, ...]:
    """Returns the episode's tensors in the order of :func:`leaf_names`; then its noise, if it has any."""
    support, query, description = episode
    tensors = (*parts(support.inputs), support.targets, *parts(query.inputs), query.targets, description)
    return (*tensors, episode.noise) if isinstance(episode, NoisyEpisode) else tensors


def from_leaves(tensors: Sequence[Tensor], names: tuple[str, ...] = ()) -> Episode:
    """Returns the episode of some tensors; the inverse of :func:`leaves`.

    Args:
        tensors: in the order of :func:`leaf_names`, then the noise, if there is any.
        names: of the inputs in sorted order, if they are several.
    """
    each_half = (len(names) or 1) + 1  # inputs, then targets
    support, query = tensors[:each_half], tensors[each_half : 2 * each_half]
    description, *noise = tensors[2 * each_half :]
    episode = Episode(
        Examples(of_parts(support[:-1], names), support[-1]),
        Examples(of_parts(query[:-1], names), query[-1]),
        description,
    )
    return with_noise(episode, noise[0]) if noise else episode
