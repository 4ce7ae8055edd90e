"""Counter-based draws: every task owns its random numbers, whoever draws it and whatever is drawn beside it."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from meta.episode import Episode, leaves, unstack
from tasks.family import SPLITS, WORDS, Family, Split, TaskKey, draw_batch, uniforms

seeds = st.integers(0, 2**63 - 1)
indices = st.integers(0, 2**40)
splits = st.sampled_from(SPLITS)
purposes = st.text("abcdefgh", min_size=1, max_size=8)
keys = st.builds(TaskKey, seeds, splits, indices)


def same(one: Episode, other: Episode) -> bool:
    return all(
        a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
        for a, b in zip(leaves(one), leaves(other), strict=True)
    )


@given(keys, purposes)
def test_a_generator_always_starts_at_the_same_place(key: TaskKey, purpose: str) -> None:
    assert np.array_equal(key.rng(purpose).random(9), key.rng(purpose).random(9))


@given(keys, keys, purposes, purposes)
def test_generators_of_different_tasks_or_purposes_differ(
    one: TaskKey, other: TaskKey, purpose: str, another: str
) -> None:
    same_name = (one, purpose) == (other, another)
    assert np.array_equal(one.rng(purpose).random(4), other.rng(another).random(4)) == same_name


@given(keys)
def test_each_part_of_a_key_changes_the_draw(key: TaskKey) -> None:
    neighbours = [
        TaskKey(key.seed ^ 1, key.split, key.index),
        TaskKey(key.seed, key.split, key.index + 1),
        *(TaskKey(key.seed, split, key.index) for split in SPLITS if split != key.split),
    ]
    drawn = [tuple(one.rng().random(2)) for one in (key, *neighbours)]
    assert len(set(drawn)) == len(drawn)


@given(seeds, splits, indices, purposes, st.integers(1, 40), st.data())
def test_uniforms_of_a_task_are_the_same_alone_and_in_any_range(
    seed: int, split: Split, index: int, purpose: str, count: int, data: st.DataObject
) -> None:
    before, after = data.draw(st.integers(0, min(index, 50))), data.draw(st.integers(1, 50))
    (alone,) = uniforms(seed, split, range(index, index + 1), purpose, count)
    together = uniforms(seed, split, range(index - before, index + after), purpose, count)
    assert together.shape == (before + after, count)
    assert together[before].tobytes() == alone.tobytes()


@given(st.lists(st.tuples(seeds, splits, st.integers(0, 2**40), purposes, st.integers(1, 9)), min_size=1, max_size=4))
def test_uniforms_are_those_of_a_new_generator_whatever_was_drawn_before(
    calls: list[tuple[int, Split, int, str, int]],
) -> None:
    for seed, split, index, purpose, count in calls:
        blocks = -(-count // WORDS)
        counter = (index * blocks, 2**64 - 1, SPLITS.index(split), int.from_bytes(purpose.encode(), "little"))
        words = {"counter": np.array(counter, dtype=np.uint64), "key": np.array([seed, 0], dtype=np.uint64)}
        fresh = np.random.Generator(np.random.Philox(**words))
        expected = fresh.random((2, blocks * WORDS))[:, :count]
        assert uniforms(seed, split, range(index, index + 2), purpose, count).tobytes() == expected.tobytes()


@given(seeds, splits, purposes, st.integers(1, 40))
def test_uniforms_lie_in_the_unit_interval_and_no_two_tasks_share_one(
    seed: int, split: Split, purpose: str, count: int
) -> None:
    numbers = uniforms(seed, split, range(20), purpose, count)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert len(np.unique(numbers)) == numbers.size


@given(keys, purposes)
def test_uniforms_and_generators_are_different_streams(key: TaskKey, purpose: str) -> None:
    (together,) = uniforms(key.seed, key.split, range(key.index, key.index + 1), purpose, 4)
    assert not np.array_equal(key.rng(purpose).random(4), together)


def test_uniforms_are_uniform() -> None:
    numbers = uniforms(0, "train", range(1000), "task", 10)
    counts, _ = np.histogram(numbers, bins=10, range=(0, 1))
    assert counts.sum() == 10_000
    # Chi-square with 9 degrees of freedom exceeds 33.7 once in ten thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 33.7


@pytest.mark.parametrize("purpose", ["", "ninebytes", "åååå!"])
def test_purposes_must_fit_into_a_word(purpose: str) -> None:
    with pytest.raises(ValueError, match=f"expected a purpose of 1 to 8 bytes, received '{purpose}'"):
        TaskKey(0, "train", 0).rng(purpose)


def test_uniforms_of_tasks_with_gaps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected consecutive tasks, received range\(0, 10, 2\)"):
        uniforms(0, "train", range(0, 10, 2), "task", 1)


class TestEveryFamily:
    def test_a_task_alone_or_among_a_hundred_has_the_same_bits(self, family: Family) -> None:
        many = draw_batch(family, 7, "val", range(50, 150), torch.float64)
        for index in (50, 57, 149):
            (alone,) = [draw_batch(family, 7, "val", range(index, index + 1), torch.float64)]
            assert same(unstack(many, index - 50), unstack(alone))

    def test_a_batch_is_row_by_row_what_draw_gives(self, family: Family) -> None:
        batch = draw_batch(family, 0, "train", range(3, 8), torch.float64)
        for position, index in enumerate(range(3, 8)):
            single = family.draw(TaskKey(0, "train", index))
            assert all(
                torch.equal(a, b.to(a.dtype))
                for a, b in zip(leaves(unstack(batch, position)), leaves(single), strict=True)
            )

    def test_batches_come_in_the_type_asked_for_and_labels_as_int64(self, family: Family) -> None:
        batch = draw_batch(family, 0, "train", range(2), torch.float32)
        labels = torch.int64 if family.spec.objective == "cross_entropy" else torch.float32
        for examples in (batch.support, batch.query):
            assert (examples.inputs.dtype, examples.targets.dtype) == (torch.float32, labels)
        assert batch.description.dtype == torch.float32
