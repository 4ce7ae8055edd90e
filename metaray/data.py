"""Episodes of the caller's own, as pairs of tensors, checked and put into batches that an engine takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta.episode import Episode, Examples, place, signature, stack, unstack

Pair = tuple[Any, Any] | Examples  # inputs [B, ...] and targets [B, ...], tensors or numpy arrays
Episodes = Episode | Sequence[Episode | tuple[Pair, Pair]]


class Batch(NamedTuple):
    """Tasks of equal shapes.

    Attributes:
        episodes: the tasks, [T, ...].
        places: their positions among all tasks, T of them.
    """

    episodes: Episode
    places: list[int]


def batches(episodes: Episodes, dtype: torch.dtype, device: torch.device) -> list[Batch]:
    """Batches of tasks of equal shapes, floating-point numbers as ``dtype``, in the order of their first tasks.

    Args:
        episodes: ((support inputs, support targets), (query inputs, query targets)) for each task, or one
            :class:`meta.episode.Episode` of stacked tasks.
        dtype: of the floating-point tensors.
        device: of all tensors.

    Raises:
        ValueError: saying what is no episode, and what one is made of.
    """
    if isinstance(episodes, Episode):
        if episodes.description.dim() == 2:
            return [Batch(_checked_batch(place(episodes, dtype, device)), list(range(len(episodes.description))))]
        episodes = [episodes]
    alike: dict[Any, list[int]] = {}
    singles = [_episode(episode, f"episodes[{number}]") for number, episode in enumerate(_listed(episodes))]
    for number, single in enumerate(singles):
        alike.setdefault(signature(single), []).append(number)
    return [Batch(place(stack([singles[n] for n in places]), dtype, device), places) for places in alike.values()]


def _listed(episodes: Any) -> Sequence[Any]:
    form = "a list of ((support inputs, support targets), (query inputs, query targets))"
    if isinstance(episodes, Tensor | str | Mapping) or not isinstance(episodes, Sequence):
        raise ValueError(f"episodes: expected {form}, received {type(episodes).__name__}")
    if not episodes:
        raise ValueError(f"episodes: expected {form}, received none; a meta-gradient is a mean over at least one task")
    if _is_pair(episodes[0]) and not isinstance(episodes[0][0], Sequence):
        raise ValueError(f"episodes: expected {form}, received the two pairs of a single one; put it in a list")
    return episodes


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


def _episode(value: Any, where: str) -> Episode:
    if isinstance(value, Episode):
        support, query, description = value
    elif _is_pair(value):
        (support, query), description = value, torch.zeros(0)
    else:
        size = f" of {len(value)}" if isinstance(value, Sequence) else ""
        raise ValueError(
            f"{where}: expected ((support inputs, support targets), (query inputs, query targets)), received "
            f"{type(value).__name__}{size}"
        )
    return Episode(examples(support, f"{where}: support"), examples(query, f"{where}: query"), description)


def examples(pair: Any, where: str) -> Examples:
    """Inputs and targets as tensors.

    Args:
        pair: (inputs [B, ...], targets [B, ...]), tensors or what ``torch.as_tensor`` takes.
        where: the pair's name, for messages.

    Raises:
        ValueError: if it is no such pair, is empty, or its halves differ in length.
    """
    if not _is_pair(pair):
        raise ValueError(f"{where}: expected (inputs, targets), received {type(pair).__name__}")
    try:
        inputs, targets = (torch.as_tensor(half).detach() for half in pair)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: expected (inputs, targets) as tensors or arrays: {error}") from error
    if not inputs.dim() or not targets.dim() or len(inputs) != len(targets) or not len(inputs):
        raise ValueError(
            f"{where}: expected inputs [B, ...] and targets [B, ...] of the same B examples, at least one, received "
            f"shapes {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    return Examples(inputs, targets)


def _checked_batch(episodes: Episode) -> Episode:
    """The batch, if all its tensors begin with the same number of tasks, above 0."""
    sizes = {len(leaf) for leaf in (*episodes.support, *episodes.query, episodes.description)}
    if len(sizes) != 1 or not sizes.pop():
        raise ValueError(
            "episodes: expected an Episode of T tasks, every tensor [T, ...] with T at least 1, received shapes "
            f"{[tuple(leaf.shape) for leaf in (*episodes.support, *episodes.query, episodes.description)]}"
        )
    first = unstack(episodes)
    examples(first.support, "episodes: support")
    examples(first.query, "episodes: query")
    return episodes
