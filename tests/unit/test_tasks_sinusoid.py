import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meta.episode import Episode, leaves, unstack
from tasks.family import SPLITS, Split, TaskKey
from tasks.sinusoid import MOST_POINTS, Sinusoid

keys = st.builds(TaskKey, st.integers(0, 2**63 - 1), st.sampled_from(SPLITS), st.integers(0, 2**40))
shots = st.integers(1, 50)
bounds = st.floats(-50, 50)
intervals = st.tuples(bounds, bounds).map(sorted).map(tuple)


def same(one: Episode, other: Episode) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@given(keys, shots, st.integers(0, 99))
def test_a_curve_drawn_alone_or_among_a_hundred_has_the_same_bits(key: TaskKey, shot: int, place: int) -> None:
    family, first = Sinusoid(shot=shot), max(0, key.index - place)
    many = family.draw_range(key.seed, key.split, range(first, first + 100))
    assert same(unstack(many, key.index - first), family.draw(key))


@given(keys, shots, shots, st.integers(1, 20))
def test_curve_and_query_points_do_not_depend_on_the_shots(key: TaskKey, shot: int, other: int, query: int) -> None:
    few, many = (Sinusoid(shot=points, query=query).draw(key) for points in (shot, other))
    assert same(few._replace(support=many.support), many)
    assert (len(few.support.inputs), len(many.support.inputs)) == (shot, other)


@given(keys, shots, intervals, intervals, intervals)
def test_ranges_are_respected_and_targets_lie_on_the_described_curve(
    key: TaskKey,
    shot: int,
    amplitude: tuple[float, float],
    phase: tuple[float, float],
    inputs: tuple[float, float],
) -> None:
    family = Sinusoid(shot=shot, amplitude=amplitude, phase=phase, inputs=inputs)
    episode = family.draw(key)
    a, b = episode.description.tolist()
    assert amplitude[0] <= a <= amplitude[1]
    assert phase[0] <= b <= phase[1]
    for x, y in (episode.support, episode.query):
        assert ((inputs[0] <= x) & (x <= inputs[1])).all()
        torch.testing.assert_close(y, a * torch.sin(x - b), rtol=0, atol=1e-13 * max(1, abs(a)))
        assert np.array_equal(family.function(key)(x.numpy()), y.numpy())


@given(keys)
def test_seeds_splits_and_indices_give_different_curves(key: TaskKey) -> None:
    family = Sinusoid()
    others = [
        TaskKey(key.seed ^ 1, key.split, key.index),
        TaskKey(key.seed, key.split, key.index + 1),
        *(TaskKey(key.seed, split, key.index) for split in SPLITS if split != key.split),
    ]
    for leaf in zip(*(leaves(family.draw(one)) for one in (key, *others)), strict=True):
        assert len({tensor.numpy().tobytes() for tensor in leaf}) == len(leaf)


@given(keys)
def test_curve_support_and_query_points_are_drawn_from_different_numbers(key: TaskKey) -> None:
    unit = (0.0, 1.0)
    episode = Sinusoid(shot=4, query=4, amplitude=unit, phase=unit, inputs=unit).draw(key)
    drawn = torch.cat([episode.support.inputs[:, 0], episode.query.inputs[:, 0], episode.description])
    assert drawn.unique().numel() == 10


def test_the_defaults_are_the_paper_s_and_reach_both_ends() -> None:
    a, b = Sinusoid().draw_range(0, "train", range(2000)).description.T
    for values, low, high in ((a, 0.1, 5.0), (b, 0.0, math.pi)):
        assert low <= float(values.min()) < low + 0.01 * (high - low)
        assert high >= float(values.max()) > high - 0.01 * (high - low)


@pytest.mark.parametrize(("split", "points"), [("train", 7), ("val", 30), ("test", 30)])
def test_evaluation_has_query_points_of_its_own_number(split: Split, points: int) -> None:
    episode = Sinusoid(query=7, eval_query=30).draw(TaskKey(0, split, 0))
    assert episode.query.inputs.shape == episode.query.targets.shape == (points, 1)


def test_global_generators_are_left_alone() -> None:
    def states() -> tuple[Any, ...]:
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    Sinusoid().draw_range(0, "train", range(5))
    Sinusoid().draw(TaskKey(0, "test", 5))
    assert states() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shot": 0}, f"shot: a sinusoid gives 1 to {MOST_POINTS} points per task, received 0"),
        ({"query": -1}, f"query: a sinusoid gives 1 to {MOST_POINTS} points per task, received -1"),
        ({"eval_query": MOST_POINTS + 1}, f"eval_query: .* received {MOST_POINTS + 1}"),
        ({"amplitude": (5.0, 0.1)}, r"amplitude: expected a range \[low, high\] .* received \[5.0, 0.1\]"),
        ({"phase": (0.0, math.nan)}, r"phase: expected a range .* received \[0.0, nan\]"),
        ({"inputs": (-math.inf, 0.0)}, r"inputs: expected a range .* received \[-inf, 0.0\]"),
    ],
    ids=str,
)
def test_bad_sizes_and_ranges_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sinusoid(**wrong)
