"""Few-shot episodes out of a store: what a task is made of, and that it is a function of its key alone."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from meta.episode import Episode, leaves
from tasks.checker import check_family
from tasks.data.errors import DataError
from tasks.data.store import ImageStore
from tasks.family import SPLITS, TaskKey
from tasks.images import Images

CLASSES, IMAGES = 12, 9
keys = st.builds(TaskKey, st.integers(0, 2**63 - 1), st.sampled_from(SPLITS), st.integers(0, 2**40))
Place = dict[bytes, tuple[int, int]]


@pytest.fixture(scope="module")
def root(make_store: Callable[..., Path]) -> str:
    return str(make_store((6, 6, 3), classes=CLASSES, images=IMAGES))


@pytest.fixture(scope="module")
def places(root: str) -> dict[str, Place]:
    """Class and position of every image of each split, by its bytes."""
    store = ImageStore(Path(root))
    return {
        split: {
            image.tobytes(): (number, position)
            for number in range(CLASSES)
            for position, image in enumerate(store.images(split, number))
        }
        for split in SPLITS
    }


def pixels(inputs: Tensor) -> list[bytes]:
    """Images [B, C, H, W] in [0, 1] as the store holds them."""
    stored = (inputs * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return [image.numpy().tobytes() for image in stored]


def same(one: Episode, other: Episode) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@given(key=keys, way=st.integers(2, CLASSES), shot=st.integers(1, 4), query=st.integers(1, 5))
def test_an_episode_holds_distinct_images_of_distinct_classes_of_its_split(
    root: str, places: dict[str, Place], key: TaskKey, way: int, shot: int, query: int
) -> None:
    episode = Images(root=root, way=way, shot=shot, query=query).draw(key)
    assert episode.support.inputs.shape == (way * shot, 3, 6, 6)
    assert episode.query.inputs.shape == (way * query, 3, 6, 6)
    drawn: list[tuple[int, int]] = []
    classes: dict[int, int] = {}
    for inputs, labels in (episode.support, episode.query):
        for image, label in zip(pixels(inputs), labels.tolist(), strict=True):
            number, position = places[key.split][image]
            assert classes.setdefault(label, number) == number
            drawn.append((number, position))
    assert sorted(classes) == list(range(way))
    assert len(set(classes.values())) == way
    assert len(set(drawn)) == len(drawn)


@given(key=keys, shot=st.integers(1, 4), other=st.integers(1, 4))
def test_query_images_do_not_depend_on_the_shots(root: str, key: TaskKey, shot: int, other: int) -> None:
    few, many = (Images(root=root, shot=shots, query=5).draw(key) for shots in (shot, other))
    assert same(few._replace(support=many.support), many)


@given(key=keys)
def test_rotations_turn_all_images_of_a_class_alike(root: str, key: TaskKey) -> None:
    plain = Images(root=root, shot=2, query=3).draw(key)
    turned = Images(root=root, shot=2, query=3, rotations=True).draw(key)
    turns: dict[int, set[int]] = {}
    for (inputs, labels), (others, _) in ((plain.support, turned.support), (plain.query, turned.query)):
        for image, other, label in zip(inputs, others, labels.tolist(), strict=True):
            turns.setdefault(label, set()).update(
                turn for turn in range(4) if torch.equal(torch.rot90(image, turn, (1, 2)), other)
            )
    assert all(len(found) == 1 for found in turns.values())


def test_rotations_take_all_four_angles(root: str) -> None:
    family, turned = (Images(root=root, shot=1, query=1, rotations=rotations) for rotations in (False, True))
    counts = np.zeros(4)
    for index in range(100):
        key = TaskKey(0, "test", index)
        for image, other in zip(family.draw(key).support.inputs, turned.draw(key).support.inputs, strict=True):
            counts += [torch.equal(torch.rot90(image, turn, (1, 2)), other) for turn in range(4)]
    # 500 draws of four equal chances: a deviation of 9.7.
    assert np.all(np.abs(counts - 125) < 5 * 9.7)


def test_evaluation_has_shots_and_queries_of_its_own(root: str) -> None:
    family = Images(root=root, shot=1, query=2, eval_shot=3, eval_query=4)
    for split, shot, query in (("train", 1, 2), ("val", 3, 4), ("test", 3, 4)):
        episode = family.draw(TaskKey(0, split, 0))  # type: ignore[arg-type]
        assert (len(episode.support.inputs), len(episode.query.inputs)) == (5 * shot, 5 * query)


@pytest.mark.parametrize("rotations", [False, True])
def test_the_family_keeps_its_contract(root: str, rotations: bool) -> None:
    check_family(Images(root=root, shot=2, query=3, rotations=rotations))


def test_a_copy_for_a_worker_carries_no_pixels(root: str) -> None:
    assert len(pickle.dumps(Images(root=root, shot=1, query=1))) < 1000


def test_the_fingerprint_tells_data_from_other_data(root: str, make_store: Callable[..., Path]) -> None:
    other = str(make_store((6, 6, 3), classes=CLASSES, images=IMAGES, seed=1))
    one, same_data, another = (Images(root=at, shot=1, query=1).spec.data for at in (root, root, other))
    assert one == same_data != another


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"way": 13}, r"way 13 expects as many classes, the train split of '.*' has 12; lower task\.way"),
        (
            {"shot": 5, "query": 5},
            r"5 support and 5 query images expect 10 images of every class, 'train0' in the train split of '.*' has 9; "
            r"lower task\.shot or task\.query, or leave the class out",
        ),
        ({"eval_query": 9}, r"'val0' in the val split of '.*' has 9; .*\(task\.eval_shot, task\.eval_query\)"),
        ({"way": 1}, "expected way of at least 2, received 1"),
        ({"eval_shot": 0}, "expected eval_shot of at least 1, received 0"),
    ],
)
def test_too_few_classes_or_images_are_said_with_their_number(root: str, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        _ = Images(**{"root": root, "shot": 1, "query": 1, **wrong}).spec


def test_rotations_expect_square_images(make_store: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="expects square images, received 4×6"):
        _ = Images(root=str(make_store((4, 6, 1))), rotations=True).spec


def test_no_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found none; make one with: metaray data prepare"):
        _ = Images(root=str(tmp_path / "nothing")).spec
