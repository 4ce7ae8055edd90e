"""Episodes of the caller's own, as pairs of tensors, checked and put into batches that an engine takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meta.episode import Episode, Examples, leaves, place, signature, stack, unstack
from meta.inputs import Inputs, parts

Pair = tuple[Any, Any] | Examples  # inputs [B, ...], or a dictionary of them, and targets [B, ...]; tensors or arrays
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
        pair: (inputs [B, ...], targets [B, ...]), tensors or what ``torch.as_tensor`` takes; inputs may be a dict.
        where: the pair's name, for messages.

    Raises:
        ValueError: if it is no such pair, is empty, or its halves differ in length.
    """
    if not _is_pair(pair):
        raise ValueError(f"{where}: expected (inputs, targets), received {type(pair).__name__}")
    try:
        inputs: Inputs = inputs_of(pair[0])
        targets = torch.as_tensor(pair[1]).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: expected (inputs, targets) as tensors or arrays: {error}") from error
    tensors = [*parts(inputs), targets]
    if not all(one.dim() for one in tensors) or len({len(one) for one in tensors}) > 1 or not len(targets):
        shapes = " and ".join(str(tuple(one.shape)) for one in tensors)
        raise ValueError(
            f"{where}: expected inputs [B, ...] and targets [B, ...] of the same B examples, at least one, received "
            f"shapes {shapes}"
        )
    return Examples(inputs, targets)


def inputs_of(inputs: Any) -> Inputs:
    """Inputs as tensors.

    Args:
        inputs: what ``torch.as_tensor`` takes, or a dictionary of such.

    Raises:
        ValueError: if the dictionary is empty.
    """
    if not isinstance(inputs, Mapping):
        return torch.as_tensor(inputs).detach()
    if not inputs:
        raise ValueError("expected a dictionary of inputs by name, received an empty one")
    return {name: torch.as_tensor(value).detach() for name, value in inputs.items()}


def _checked_batch(episodes: Episode) -> Episode:
    """The batch, if all its tensors begin with the same number of tasks, above 0."""
    tensors = leaves(Episode(*episodes))
    sizes = {len(leaf) for leaf in tensors}
    if len(sizes) != 1 or not sizes.pop():
        raise ValueError(
            "episodes: expected an Episode of T tasks, every tensor [T, ...] with T at least 1, received shapes "
            f"{[tuple(leaf.shape) for leaf in tensors]}"
        )
    first = unstack(episodes)
    examples(first.support, "episodes: support")
    examples(first.query, "episodes: query")
    return episodes
