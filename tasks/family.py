"""The contract of a task family, and the counter-based randomness that keeps draws pure."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray

from meta.episode import Episode, input_names, leaf_names, leaves, place, stack
from meta.inputs import Shape, parts
from meta.objectives import OBJECTIVES
from tasks.inputs import InputSpec, require_inputs, require_names, single
from tasks.values import require_classes

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class TaskKey:
    """The key of one task: number ``index`` of a split, under a seed.

    Attributes:
        seed: seed of the run, 0 to 2^64 - 1.
        split: ``train``, ``val`` or ``test``.
        index: number of the task within the split, from 0.

    >>> key = TaskKey(0, "train", 7)
    >>> bool((key.rng("support").random(3) == key.rng("support").random(3)).all())
    True
    >>> bool((key.rng("support").random(3) == key.rng("query").random(3)).any())
    False
    """

    seed: int
    split: Split
    index: int

    def rng(self, purpose: str = "task") -> np.random.Generator:
        """Returns a generator of this task's own, always in the same state.

        Philox is a function of a key and a counter (Salmon et al. 2011). The seed is the key; split, index
        and purpose are the upper words of the counter, the lowest word counts the draws. Two generators can
        therefore only meet after 2^64 draws, and no draw depends on what was drawn before for other tasks.

        Args:
            purpose: what the numbers are for (1 to 8 bytes); each purpose has a stream of its own, so that
                drawing more support examples leaves the query examples as they were.
        """
        return _generator(self.seed, (0, self.index, *_stream(self.split, purpose)))


def uniforms(seed: int, split: Split, tasks: range, purpose: str, count: int) -> NDArray[np.float64]:
    """Returns ``count`` uniform numbers in [0, 1) for each of T consecutive tasks, float64 [T, count].

    The tasks' numbers lie one after the other in one stream per (seed, split, purpose), so a whole range
    costs one call; task i always has the same words of it. For families that need the same amount of
    randomness for every task.

    Args:
        seed: seed of the run.
        split: the tasks' split.
        tasks: consecutive numbers of tasks.
        purpose: what the numbers are for, see :meth:`TaskKey.rng`.
        count: numbers per task; counts with equal ceil(count / 4) share their leading numbers.

    Raises:
        ValueError: if the tasks are not consecutive.

    >>> together = uniforms(0, "train", range(5, 9), "support", 10)
    >>> bool((uniforms(0, "train", range(7, 8), "support", 10) == together[2]).all())
    True
    """
    if tasks.step != 1:
        raise ValueError(f"expected consecutive tasks, received {tasks}")
    blocks = -(-count // WORDS)  # each task starts at a block of its own
    generator = _own.at(seed, (tasks.start * blocks, _RANGES, *_stream(split, purpose)))
    return generator.random((len(tasks), blocks * WORDS))[:, :count]


WORDS = 4  # numbers per block of numpy's Philox
_RANGES = 2**64 - 1  # where `rng` has the task index, so that the two kinds of stream never meet


def _stream(split: Split, purpose: str) -> tuple[int, int]:
    word = purpose.encode()
    if not 1 <= len(word) <= 8:
        raise ValueError(f"expected a purpose of 1 to 8 bytes, received '{purpose}'")
    return SPLITS.index(split), int.from_bytes(word, "little")


class _Own(threading.local):
    """A generator of each thread's own, set to any place of any stream in a seventh of the time of a new one."""

    def __init__(self) -> None:
        """Make it, in any state; called once in each thread."""
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._state: Any = self._philox.state

    def at(self, seed: int, counter: tuple[int, ...]) -> np.random.Generator:
        """The generator, in the state of a new one with this seed and counter until the next call."""
        self._state["state"]["counter"][:] = counter
        self._state["state"]["key"][:] = (seed, 0)
        self._philox.state = self._state  # its buffer is empty there, as in a new one
        return self._generator


_own = _Own()


def _generator(seed: int, counter: tuple[int, ...]) -> np.random.Generator:
    philox = np.random.Philox(counter=np.array(counter, dtype=np.uint64), key=np.array([seed, 0], dtype=np.uint64))
    return np.random.Generator(philox)


@dataclass(frozen=True, kw_only=True)
class FamilySpec:
    """The sizes and names that models and algorithms need of a family.

    Attributes:
        input_shape: shape of one input, without the example dimension.
        inputs: descriptions by name, in place of ``input_shape`` and ``vocabulary``, where a network takes several
            tensors; those of an episode are then dictionaries with these names.
        outputs: numbers of a target, or classes. The model returns as many per input, unless the objective takes other
            numbers (:meth:`meta.objectives.Objective.width`).
        objective: a name in :data:`meta.objectives.OBJECTIVES`: the family's own, which says what its targets are. A
            configuration may name another.
        description: size D of a task's description, 0 if tasks have none.
        data: fingerprint of the data that tasks are drawn from, empty for families without data. A run is resumed only
            on the data it was started with.
        kinds: names of the kinds of task (forward, backward), if there are a few, all equally likely; a name that is
            listed
            twice is twice as likely. The family then has a method ``kind_of(key)`` that returns the name of a task's
            kind:
            scores are averaged over kinds, however many of the tasks are of each, and shown for each.
        by_class: whether a task of classification has equally many support examples of each class, and query examples
            likewise: N-way K-shot.
        vocabulary: number V of symbols, if inputs are whole numbers from 0 to V - 1, int64, such as tokens; 0: they are
            real numbers.
    """

    input_shape: tuple[int, ...] = ()
    inputs: Mapping[str, InputSpec] = field(default_factory=dict, hash=False)
    outputs: int
    objective: str
    description: int = 0
    data: str = ""
    kinds: tuple[str, ...] = ()
    by_class: bool = True
    vocabulary: int = 0

    def __post_init__(self) -> None:
        """Check the descriptions of named inputs.

        Raises:
            ValueError: if a name cannot be one, or they stand beside the description of a single tensor.
        """
        if not self.inputs:
            return
        require_names(self.inputs)
        if self.input_shape or self.vocabulary:
            raise ValueError(
                "spec: expected either input_shape and vocabulary, for inputs in one tensor, or inputs, for several by "
                "name; received both"
            )

    @property
    def shape(self) -> Shape:
        """The shape of one example's inputs, or shapes by name where there are several."""
        return {name: spec.shape for name, spec in self.inputs.items()} if self.inputs else self.input_shape

    @property
    def tensors(self) -> Mapping[str, InputSpec]:
        """Descriptions of the inputs by name; that of a single tensor under the empty name."""
        return self.inputs or {"": single(self.input_shape, self.vocabulary)}


def kinds_of(family: Any, seed: int, split: Split, tasks: Iterable[int]) -> list[str]:
    """Returns the kind of each of some tasks of a family whose ``spec`` declares kinds.

    Args:
        family: a family with ``kind_of``.
        seed: seed of the run.
        split: the tasks' split.
        tasks: numbers of tasks.

    Raises:
        ValueError: if the family has no ``kind_of``, or it names a kind that is not declared.
    """
    declared = family.spec.kinds
    if not hasattr(family, "kind_of"):
        raise ValueError(
            f"spec.kinds: expected a family that declares kinds {list(declared)} to offer kind_of(key), "
            f"{type(family).__name__} does not; add it, or leave spec.kinds out"
        )
    names: list[str] = []
    for index in tasks:
        name = family.kind_of(TaskKey(seed, split, index))
        if name not in declared:
            raise ValueError(f"kind_of: expected one of spec.kinds, {list(declared)}, received {name!r} for {index}")
        names.append(name)
    return names


class Family(Protocol):
    """A distribution of tasks.

    A custom family is a class whose constructor takes annotated keyword arguments (they become the keys
    of the configuration's ``task`` section, checked by their annotations), with these two members
    or :class:`RangeFamily`'s three. :func:`tasks.checker.check_family` checks the contract.
    """

    @property
    def spec(self) -> FamilySpec:
        """Shapes, types and objective of the family's episodes."""
        ...

    def draw(self, key: TaskKey) -> Episode:
        """Returns one task's episode: CPU tensors, a pure function of ``key`` and the constructor's arguments."""
        ...


class RangeFamily(Family, Protocol):
    """A family that draws consecutive tasks at once, faster than one by one and with the same bits."""

    def draw_range(self, seed: int, split: Split, tasks: range) -> Episode:
        """Returns the episodes of T consecutive tasks, [T, ...]; each row has the bits that ``draw`` returns.

        Args:
            seed: seed of the run.
            split: the tasks' split.
            tasks: consecutive numbers of tasks.
        """
        ...


def draws_ranges(family: Family) -> TypeGuard[RangeFamily]:
    """Returns whether a family draws consecutive tasks at once; ``isinstance`` takes as long as a small shard."""
    return hasattr(type(family), "draw_range")


def draw_noise(
    seed: int, tasks: range, size: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Returns uniform numbers in (0, 1) for the random layers of T consecutive training tasks, [T, ``size``].

    A number belongs to one task, and every task is trained on once, in one outer step. The numbers are multiples of
    2^-24,
    the same in every floating-point type.

    Args:
        seed: seed of the run.
        tasks: consecutive numbers of training tasks.
        size: numbers per task, see :func:`meta.algorithms.noise_size`.
        dtype: floating-point type of the result.
        device: device of the result.
    """
    steps = np.floor(uniforms(seed, "train", tasks, "noise", size) * 2**23)
    return torch.from_numpy((steps + 0.5) / 2**23).to(dtype=dtype, device=device)


def draw_batch(
    family: Family,
    seed: int,
    split: Split,
    tasks: range,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Episode:
    """Returns the episodes of T consecutive tasks, [T, ...], on a device; see :func:`meta.episode.place`.

    Args:
        family: draws the tasks.
        seed: seed of the run.
        split: the tasks' split.
        tasks: consecutive numbers of tasks.
        dtype: type of the floating-point tensors.
        device: device of the result.

    Raises:
        ValueError: if an episode's types, shapes or class numbers are not those of the family's spec.
    """
    if draws_ranges(family):
        episodes = family.draw_range(seed, split, tasks)
        _require_tensors(episodes, f"{split} tasks from {tasks.start} on")
    else:
        drawn = [family.draw(TaskKey(seed, split, index)) for index in tasks]
        for index, episode in zip(tasks, drawn, strict=True):
            _require_tensors(episode, f"{split} task {index}")
        episodes = stack(drawn)
    require_fitting(episodes, family.spec, f"{split} tasks from {tasks.start} on")
    return place(episodes, dtype, device)


def _require_tensors(episode: Episode, where: str) -> None:
    """Checks the types of an episode of one task or of many.

    Raises:
        ValueError: naming the first part that is not a tensor.
    """
    if not isinstance(episode, Episode):
        raise ValueError(f"{where}: expected a meta.episode.Episode, received {type(episode).__name__}")
    try:
        names = input_names(episode)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    for name, leaf in zip(leaf_names(names), leaves(episode), strict=False):
        if not isinstance(leaf, torch.Tensor):
            raise ValueError(
                f"{where}: {name}: expected a torch.Tensor, received {type(leaf).__name__}; convert it in the family, "
                "with torch.from_numpy for one"
            )


def require_fitting(episodes: Episode, spec: FamilySpec, where: str) -> None:
    """Checks a batch of episodes against a family's spec.

    Args:
        episodes: [T, ...].
        spec: the family's spec.
        where: which episodes they are; the message begins with it.

    Raises:
        ValueError: naming the first part whose shape is another, or that holds symbols or class numbers out of range.
    """
    specs = spec.tensors
    for name, (inputs, targets) in (("support", episodes.support), ("query", episodes.query)):
        require_inputs(inputs, specs, 2, f"{where}: {name} inputs")
        tasks_and_examples = parts(inputs)[0].shape[:2]
        if targets.shape[:2] != tasks_and_examples:
            raise ValueError(
                f"{where}: {name} targets: expected {tasks_and_examples[1]}, one for each input, received shape "
                f"{list(targets.shape[1:])}"
            )
        if gives_classes(spec):
            require_classes(targets, spec.outputs, f"{where}: {name} targets")


def gives_classes(spec: FamilySpec) -> bool:
    """Returns whether a family's targets are class numbers [B], rather than numbers [B, ``spec.outputs``]."""
    own = OBJECTIVES.get(spec.objective)
    return own is not None and own.targets == "classes"
