import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from meta.reduce import TreeSum, tree_sum

Parts = NDArray[np.float32]


@st.composite
def parts(draw: st.DrawFn) -> Parts:
    """1 to 40 arrays of float32 numbers of very different sizes, [count, 3]."""
    count = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = 10.0 ** rng.integers(-6, 7, (count, 3))
    return (rng.standard_normal((count, 3)) * sizes).astype(np.float32)


def summed(parts: Sequence[Parts], order: Sequence[int]) -> Parts:
    tree: TreeSum[Parts] = TreeSum(len(parts))
    for number in order:
        tree.add(number, parts[number])
    return tree.total()


def reference(parts: Parts) -> Parts:
    """The same tree from its root: a full subtree on the left, what is left over on the right."""
    if len(parts) == 1:
        return parts[0]
    half = 2 ** ((len(parts) - 1).bit_length() - 1)
    return reference(parts[:half]) + reference(parts[half:])


@given(parts(), st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_bits_of_the_recursive_tree(parts: Parts, random: object) -> None:
    order = list(range(len(parts)))
    random.shuffle(order)
    assert summed(parts, order).tobytes() == reference(parts).tobytes() == tree_sum(list(parts)).tobytes()


@given(parts(), st.integers(0, 6), st.randoms(use_true_random=False))
def test_sums_of_blocks_give_the_same_bits(parts: Parts, level: int, random: Any) -> None:
    """Blocks of 2^level parts, each added up along a tree of its own, the last one short; some parts come alone."""
    tree: TreeSum[Parts] = TreeSum(len(parts))
    blocks = list(range(-(-len(parts) // 2**level)))
    random.shuffle(blocks)
    for block in blocks:
        first, last = block << level, (block + 1) << level
        if random.random() < 0.5:
            tree.add(block, tree_sum(list(parts[first:last])), level)
        else:
            for number in range(first, min(last, len(parts))):
                tree.add(number, parts[number])
    assert tree.total().tobytes() == reference(parts).tobytes()


@given(parts(), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 39)), max_size=30), st.randoms())
def test_sums_that_overlap_count_each_part_once(parts: Parts, nodes: list[tuple[int, int]], random: Any) -> None:
    """Nodes of any level in any order, whatever parts of them were counted before; then what is still missing."""
    tree: TreeSum[Parts] = TreeSum(len(parts))
    alone = [(0, number) for number in range(len(parts))]
    random.shuffle(alone)
    for level, number in nodes + alone:
        first, last = number << level, min((number + 1) << level, len(parts))
        if first < last:
            news = bool(set(range(first, last)) & set(tree.missing))
            assert tree.cover(number, tree_sum(list(parts[first:last])), level) == news
    assert tree.total().tobytes() == reference(parts).tobytes()


@given(parts(), st.sets(st.integers(0, 39)), st.integers(1, 5))
def test_partial_sums_of_several_trees_give_the_same_bits(parts: Parts, some: set[int], most: int) -> None:
    """Parts are added up in two trees, one of them emptied in between, whose sums are added up in a third."""
    trees: list[TreeSum[Parts]] = [TreeSum(len(parts)) for _ in range(3)]
    for number, part in enumerate(parts):
        trees[number in some].add(number, part)
        if number % most == 0:
            for level, place, taken in trees[1].take():
                trees[2].add(place, taken, level)
    for tree in trees[:2]:
        for level, place, taken in tree.take():
            trees[2].add(place, taken, level)
        assert tree.missing == list(range(len(parts)))
        assert tree.take() == []
    assert trees[2].total().tobytes() == reference(parts).tobytes()


def test_a_block_that_holds_a_counted_part_is_refused() -> None:
    tree: TreeSum[float] = TreeSum(7)
    tree.add(5, 1.0)
    with pytest.raises(ValueError, match="part 5 was counted already"):
        tree.add(1, 1.0, level=2)
    tree.add(0, 1.0, level=2)
    with pytest.raises(ValueError, match="part 3 was counted already"):
        tree.add(3, 1.0)
    with pytest.raises(ValueError, match="expected a part number from 0 to 1 at level 2, received 2"):
        tree.add(2, 1.0, level=2)


@given(parts())
def test_sum_is_that_of_exact_arithmetic_up_to_roundoff(parts: Parts) -> None:
    """A tree of depth d errs by at most d·u·Σ|x|, u the unit roundoff."""
    depth, u = (len(parts) - 1).bit_length(), 2.0**-24
    for column, total in zip(parts.T.tolist(), tree_sum(list(parts)).tolist(), strict=True):
        bound = 1.01 * depth * u * math.fsum(map(abs, column))
        assert abs(total - math.fsum(column)) <= bound


@given(parts())
def test_parts_are_left_as_they_were(parts: Parts) -> None:
    before = parts.copy()
    tree_sum(list(parts))
    assert np.array_equal(parts, before)


@given(st.integers(2, 40), st.data())
def test_a_part_counted_twice_is_refused(count: int, data: st.DataObject) -> None:
    tree: TreeSum[float] = TreeSum(count)
    numbers = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    for number in numbers:
        tree.add(number, 1.0)
    with pytest.raises(ValueError, match=f"part {numbers[0]} was counted already"):
        tree.add(numbers[0], 1.0)


@given(st.integers(1, 40), st.data())
def test_a_total_with_parts_missing_is_refused_and_names_them(count: int, data: st.DataObject) -> None:
    missing = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    tree: TreeSum[float] = TreeSum(count)
    for number in set(range(count)) - missing:
        tree.add(number, 1.0)
    assert tree.missing == sorted(missing)
    with pytest.raises(ValueError, match="still missing") as raised:
        tree.total()
    assert str(sorted(missing)) in str(raised.value)


@pytest.mark.parametrize("number", [-1, 3])
def test_a_part_outside_the_tree_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"expected a part number from 0 to 2 at level 0, received {number}"):
        TreeSum(3).add(number, 1.0)


@pytest.mark.parametrize("count", [0, -1])
def test_an_empty_tree_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"expected at least one part to add up, received {count}"):
        TreeSum(count)


def test_only_parts_whose_neighbour_is_missing_are_held() -> None:
    tree: TreeSum[float] = TreeSum(1024)
    held = 0
    for number in range(1024):
        tree.add(number, 1.0)
        held = max(held, len(tree._waiting))
    assert held == 10
    assert tree.total() == 1024
