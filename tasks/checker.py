"""A public checker of task families: run it on a custom family before training on it."""

import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from meta.episode import Episode, Examples, input_names, leaf_names, leaves, stack, unstack
from meta.inputs import parts
from meta.objectives import OBJECTIVES
from tasks.family import SPLITS, Family, FamilySpec, RangeFamily, TaskKey, draws_ranges, gives_classes, kinds_of
from tasks.inputs import require_inputs


class FamilyError(ValueError):
    """A family breaks its contract; the message says where and how to correct it."""


def check_family(family: Family, *, seed: int = 0, tasks: int = 8) -> None:
    """Checks that a family keeps its contract.

    The specification is well-formed; every episode has its shapes and types, the same for all tasks of a
    split, and holds finite numbers; a task is a pure function of (seed, split, index): drawing it again, in
    another order, after other draws, under other states of the global generators, from a pickled copy, or
    among a range of tasks gives the same bits; no global generator is used; splits, indices and seeds give
    different tasks.

    Args:
        family: the family to check.
        seed: seed to draw under.
        tasks: tasks drawn per split.

    Raises:
        FamilyError: at the first violation.

    >>> from tasks.sinusoid import Sinusoid
    >>> check_family(Sinusoid(shot=5))
    """
    spec = _checked_spec(family)
    keys = [TaskKey(seed, split, index) for split in SPLITS for index in range(tasks)]
    first = {key: family.draw(key) for key in keys}
    for key, episode in first.items():
        _check_episode(key, episode, spec)
    for split in SPLITS:
        _check_shapes(split, [episode for key, episode in first.items() if key.split == split])
    _check_purity(family, first)
    _check_copy(family, first)
    if draws_ranges(family):
        _check_range(family, first, seed, tasks)
    _check_variety(family, first, seed)
    check_kinds(family, keys)


def check_kinds(family: object, keys: Sequence[TaskKey]) -> None:
    """Checks that a family which declares kinds of task returns the same kind of a task at every call.

    Args:
        family: a family of any contract, with ``spec``.
        keys: tasks to ask for.

    Raises:
        FamilyError: if it does not.
    """
    if not family.spec.kinds:  # type: ignore[attr-defined]
        return
    try:
        first, again = ([kinds_of(family, key.seed, key.split, [key.index]) for key in keys] for _ in range(2))
    except ValueError as error:
        raise FamilyError(str(error)) from error
    if first != again:
        raise FamilyError("kind_of: the same tasks had other kinds when asked again; draw from key.rng(…)")


def _checked_spec(family: Family) -> FamilySpec:
    spec = family.spec
    if not isinstance(spec, FamilySpec):
        raise FamilyError(f"spec: expected a FamilySpec, received {type(spec).__name__}")
    if spec.objective not in OBJECTIVES:
        raise FamilyError(f"spec.objective: expected one of {sorted(OBJECTIVES)}, received '{spec.objective}'")
    if spec.outputs < 1 or any(size < 1 for size in spec.input_shape) or min(spec.description, spec.vocabulary) < 0:
        raise FamilyError(f"spec: expected sizes above zero, received {spec}")
    return spec


def _check_episode(key: TaskKey, episode: Episode, spec: FamilySpec) -> None:
    if not isinstance(episode, Episode):
        raise FamilyError(f"{key}: expected an Episode, received {type(episode).__name__}")
    for name, leaf in zip(leaf_names(_names(key, episode)), leaves(episode), strict=True):
        if not isinstance(leaf, torch.Tensor) or leaf.device.type != "cpu":
            raise FamilyError(f"{key}: {name}: expected a CPU tensor, received {_summary(leaf)}")
        if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
            raise FamilyError(f"{key}: {name}: expected finite numbers, received NaN or infinity")
    _check_examples(f"{key}: support", episode.support, spec)
    _check_examples(f"{key}: query", episode.query, spec)
    described = tuple(episode.description.shape)
    if described != (spec.description,):
        raise FamilyError(f"{key}: description: expected shape ({spec.description},), received {described}")


def _names(key: TaskKey, episode: Episode) -> tuple[str, ...]:
    try:
        return input_names(episode)
    except ValueError as error:
        raise FamilyError(f"{key}: {error}") from error


def _summary(value: object) -> str:
    return f"one on {value.device}" if isinstance(value, torch.Tensor) else type(value).__name__


def _check_examples(where: str, examples: Examples, spec: FamilySpec) -> None:
    try:
        require_inputs(examples.inputs, spec.tensors, 1, f"{where} inputs")
    except ValueError as error:
        raise FamilyError(str(error)) from error
    count, targets = len(parts(examples.inputs)[0]), tuple(examples.targets.shape)
    if count < 1:
        raise FamilyError(f"{where} inputs: expected at least one example, received none")
    if gives_classes(spec):
        target_shape: tuple[int, ...] = (count,)
        _check_labels(where, examples.targets, spec.outputs)
    else:
        target_shape = (count, spec.outputs)
    if targets != target_shape:
        raise FamilyError(f"{where} targets: expected shape {target_shape}, as many as inputs, received {targets}")
    try:
        OBJECTIVES[spec.objective].check(examples.targets)
    except ValueError as error:
        raise FamilyError(f"{where} targets: {error}") from error


def _check_labels(where: str, labels: torch.Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or not bool(((labels >= 0) & (labels < classes)).all()):
        raise FamilyError(
            f"{where} targets: expected int64 classes from 0 to {classes - 1}, received {labels.dtype} from "
            f"{labels.min().item()} to {labels.max().item()}"
        )


def _check_shapes(split: str, episodes: list[Episode]) -> None:
    try:
        stack(episodes)
    except ValueError as error:
        raise FamilyError(f"{split} tasks cannot form a batch: {error}") from error


def _same(one: Episode, other: Episode) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


def _check_purity(family: Family, first: dict[TaskKey, Episode]) -> None:
    with generators_untouched("draw"):
        for key in reversed(first):
            if not _same(family.draw(key), first[key]):
                raise FamilyError(
                    f"{key}: drawn again in another order it gave another episode; draw every random number "
                    "from key.rng(…) and keep no state between draws"
                )


@contextmanager
def generators_untouched(where: str) -> Iterator[None]:
    """Sets the global generators to other states for a block, and checks that the block draws nothing from them.

    Args:
        where: the beginning of the error's message.

    Raises:
        FamilyError: if something was drawn.
    """
    saved = _generators()
    try:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002 - the global generators are what is tested here
        torch.manual_seed(1)
        before = _generators()
        yield
        if _generators() != before:
            raise FamilyError(f"{where}: a global random generator was used; draw from key.rng(…) instead")
    finally:
        python, numpy, torchs = pickle.loads(saved)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(torch.from_numpy(torchs))


def _generators() -> bytes:
    """The states of the global generators of Python, numpy and torch."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()  # noqa: NPY002
    return pickle.dumps(states)


def _check_copy(family: Family, first: dict[TaskKey, Episode]) -> None:
    try:
        copy = pickle.loads(pickle.dumps(family))
    except Exception as error:
        raise FamilyError(f"expected a family that can be pickled and sent to workers, received {error!r}") from error
    key = next(iter(first))
    if not _same(copy.draw(key), first[key]):
        raise FamilyError(f"{key}: a copy of the family gave another episode; keep no state outside the constructor")


def _check_range(family: RangeFamily, first: dict[TaskKey, Episode], seed: int, tasks: int) -> None:
    for split in SPLITS:
        for numbers in (range(tasks), range(tasks // 2, tasks)):
            together = family.draw_range(seed, split, numbers)
            for position, index in enumerate(numbers):
                key = TaskKey(seed, split, index)
                if not _same(unstack(together, position), first[key]):
                    raise FamilyError(f"{key}: draw_range({numbers}) gave another episode than draw")


def _check_variety(family: Family, first: dict[TaskKey, Episode], seed: int) -> None:
    keys = list(first)
    for number, key in enumerate(keys):
        for other in keys[:number]:
            if _same(first[key], first[other]):
                raise FamilyError(
                    f"{key} and {other} are the same episode; draw from key.rng(…), which tells them apart"
                )
    key = keys[0]
    if _same(family.draw(TaskKey(seed + 1, key.split, key.index)), first[key]):
        raise FamilyError(f"{key}: seeds {seed} and {seed + 1} gave the same episode; draw from key.rng(…)")
