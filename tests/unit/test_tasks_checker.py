"""The checker lets every built-in family pass and stops a family that breaks one clause of its contract."""

import itertools
import random
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch

from meta.episode import Episode, Examples
from tasks import Family, FamilyError, FamilySpec, TaskKey, check_family
from tasks.sinusoid import Sinusoid

Change = Callable[[Episode, TaskKey], Any]
REGRESSION = FamilySpec(input_shape=(1,), outputs=1, objective="mse", description=2)
CLASSES = FamilySpec(input_shape=(1,), outputs=3, objective="cross_entropy", description=2)
NAN = float("nan")


MADE: WeakValueDictionary[int, "Drawn"] = WeakValueDictionary()


def again(number: int) -> "Drawn":
    return MADE[number]


class Drawn:
    """A sound family, changed in one place."""

    def __init__(self, change: Change = lambda episode, key: episode, spec: Any = REGRESSION) -> None:
        self.spec, self.change = spec, change
        MADE[id(self)] = self

    def draw(self, key: TaskKey) -> Any:
        return self.change(Sinusoid(shot=5).draw(key), key)

    def __reduce__(self) -> Any:  # its functions cannot be pickled, so it is its own copy
        return again, (id(self),)


def support(**parts: Callable[[torch.Tensor], Any]) -> Change:
    """Change parts of the support examples."""

    def change(episode: Episode, key: TaskKey) -> Episode:
        fresh = {name: function(getattr(episode.support, name)) for name, function in parts.items()}
        return episode._replace(support=episode.support._replace(**fresh))

    return change


def labelled(labels: Callable[[int], torch.Tensor]) -> Change:
    """Turn a regression into a classification with these labels."""

    def change(episode: Episode, key: TaskKey) -> Episode:
        return Episode(
            *(Examples(part.inputs, labels(len(part.inputs))) for part in (episode.support, episode.query)),
            episode.description,
        )

    return change


def noisy(draw: Callable[[], float]) -> Change:
    return lambda episode, key: episode._replace(description=episode.description + draw())


def consuming(episode: Episode, key: TaskKey) -> Episode:
    torch.rand(1)
    return episode


def seeding(episode: Episode, key: TaskKey) -> Episode:
    torch.manual_seed(key.index)
    return episode._replace(description=episode.description + torch.rand(2, dtype=torch.float64))


def growing(episode: Episode, key: TaskKey) -> Episode:
    rows = 1 + key.index
    return episode._replace(support=Examples(*(part[:rows] for part in episode.support)))


def blind_to(part: str) -> Change:
    """Draw the same task whatever a part of its key is."""
    fixed: dict[str, Any] = {"seed": 0, "split": "train", "index": 0}

    def change(episode: Episode, key: TaskKey) -> Episode:
        return Sinusoid(shot=5).draw(TaskKey(**(vars(key) | {part: fixed[part]})))

    return change


class Unpicklable(Sinusoid):
    def __reduce__(self) -> Any:
        raise TypeError("a lock is held")


class Forgetful(Sinusoid):
    def __reduce__(self) -> Any:
        return Sinusoid, ()


class UnevenRange(Sinusoid):
    def draw_range(self, seed: int, split: Any, tasks: range) -> Episode:
        drawn = super().draw_range(seed, split, tasks)
        return drawn._replace(description=drawn.description + (len(tasks) > 1))


def specified(**parts: Any) -> Drawn:
    return Drawn(spec=FamilySpec(**(vars(REGRESSION) | parts)))


BROKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "no specification": (lambda: Drawn(spec={"outputs": 1}), "spec: expected a FamilySpec, received dict"),
    "unknown objective": (
        lambda: specified(objective="hinge"),
        r"spec.objective: expected one of .*'mse', 'poisson'.*, received 'hinge'",
    ),
    "no outputs": (lambda: specified(outputs=0), "spec: expected sizes above zero"),
    "empty inputs": (lambda: specified(input_shape=(0,)), "spec: expected sizes above zero"),
    "no episode": (lambda: Drawn(lambda episode, key: tuple(episode)), "expected an Episode, received tuple"),
    "array for tensor": (
        lambda: Drawn(support(inputs=lambda x: x.numpy())),
        "support inputs: expected a CPU tensor, received ndarray",
    ),
    "other device": (
        lambda: Drawn(support(targets=lambda y: y.to("meta"))),
        "support targets: expected a CPU tensor, received one on meta",
    ),
    "not finite": (
        lambda: Drawn(support(targets=lambda y: y * NAN)),
        "support targets: expected finite numbers, received NaN or infinity",
    ),
    "other input shape": (
        lambda: Drawn(support(inputs=lambda x: x[:, 0])),
        r"support inputs: expected shape \[B, 1\] as in the family's spec, received \[5\]",
    ),
    "no examples": (
        lambda: Drawn(support(inputs=lambda x: x[:0], targets=lambda y: y[:0])),
        "support inputs: expected at least one example, received none",
    ),
    "a number for inputs": (
        lambda: Drawn(support(inputs=lambda x: x[0, 0])),
        r"support inputs: expected shape \[B, 1\] as in the family's spec, received \[\]",
    ),
    "targets missing": (
        lambda: Drawn(support(targets=lambda y: y[:3])),
        r"support targets: expected shape \(5, 1\), as many as inputs, received \(3, 1\)",
    ),
    "flat targets": (
        lambda: Drawn(support(targets=lambda y: y[:, 0])),
        r"support targets: expected shape \(5, 1\), as many as inputs, received \(5,\)",
    ),
    "class out of range": (
        lambda: Drawn(labelled(lambda n: torch.arange(n)), CLASSES),
        "support targets: expected int64 classes from 0 to 2, received torch.int64 from 0 to 4",
    ),
    "classes as numbers": (
        lambda: Drawn(labelled(lambda n: torch.ones(n)), CLASSES),
        "support targets: expected int64 classes from 0 to 2, received torch.float32",
    ),
    "classes in a column": (
        lambda: Drawn(labelled(lambda n: torch.ones(n, 1, dtype=torch.int64)), CLASSES),
        r"support targets: expected shape \(5,\), as many as inputs, received \(5, 1\)",
    ),
    "other description": (
        lambda: specified(description=3),
        r"description: expected shape \(3,\), received \(2,\)",
    ),
    "uneven tasks": (lambda: Drawn(growing), "train tasks cannot form a batch: expected equal shapes"),
    "state between draws": (
        lambda: Drawn(noisy(map(float, itertools.count()).__next__)),
        "drawn again in another order it gave another episode; draw every random number from key.rng",
    ),
    "Python's generator": (lambda: Drawn(noisy(random.random)), "gave another episode; draw every random"),
    "numpy's generator": (
        lambda: Drawn(noisy(np.random.random)),
        "gave another episode; draw every random",
    ),
    "torch's generator": (
        lambda: Drawn(noisy(lambda: float(torch.rand(())))),
        "gave another episode; draw every random",
    ),
    "consuming the global generator": (
        lambda: Drawn(consuming),
        r"a global random generator was used; draw from key.rng\(…\) instead",
    ),
    "seeding the global generator": (lambda: Drawn(seeding), "a global random generator was used"),
    "unpicklable": (
        Unpicklable,
        r"expected a family that can be pickled and sent to workers, received TypeError\('a lock is held'\)",
    ),
    "a copy that differs": (
        lambda: Forgetful(shot=7),
        "a copy of the family gave another episode; keep no state outside",
    ),
    "ranges that differ": (UnevenRange, r"draw_range\(range\(0, 8\)\) gave another episode than draw"),
    "blind to the seed": (lambda: Drawn(blind_to("seed")), "seeds 0 and 1 gave the same episode; draw from"),
    "blind to the split": (
        lambda: Drawn(blind_to("split")),
        "split='val', index=0.* and .*split='train', index=0.* are the same episode",
    ),
    "blind to the index": (
        lambda: Drawn(blind_to("index")),
        "index=1.* and .*index=0.* are the same episode",
    ),
}


@pytest.mark.parametrize(("family", "message"), BROKEN.values(), ids=BROKEN)
def test_a_family_that_breaks_its_contract_is_refused(family: Callable[[], Any], message: str) -> None:
    state = torch.get_rng_state()
    try:
        with pytest.raises(FamilyError, match=message):
            check_family(family())
    finally:
        torch.set_rng_state(state)


def test_every_built_in_family_passes(family: Family) -> None:
    check_family(family)


@pytest.mark.parametrize(
    "family",
    [Drawn(), Drawn(labelled(lambda n: torch.arange(n) % 3), CLASSES)],
    ids=["regression", "classification"],
)
def test_a_family_without_ranges_passes(family: Drawn) -> None:
    check_family(family)


def test_the_message_names_the_task() -> None:
    wrong = support(inputs=lambda x: x / 0)
    family = Drawn(lambda e, key: wrong(e, key) if (key.split, key.index) == ("val", 2) else e)
    with pytest.raises(FamilyError, match=r"TaskKey\(seed=0, split='val', index=2\): support inputs"):
        check_family(family)


def test_checking_leaves_the_global_generators_alone() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    check_family(Sinusoid())
    assert states() == before
