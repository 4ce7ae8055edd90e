"""Glyphs: many classes that can be told apart, drawn anew with the same bits."""

import pickle
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tasks.data.errors import DataError
from tasks.data.prepare import check_raw
from tasks.data.sources import glyphs
from tasks.data.sources.base import RawClass, RawData

FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def character(one: RawClass) -> str:
    return chr(int(one.name.removeprefix("U+").split()[0], 16))


def pixels(one: RawClass) -> np.ndarray:
    return np.stack([image.data for image in one.images])


@pytest.fixture(scope="module")
def data() -> RawData:
    return glyphs.raw_data()


@pytest.fixture(scope="module")
def every(data: RawData) -> list[RawClass]:
    return [one for classes in data.classes.values() for one in classes]


@pytest.fixture(scope="module")
def some(every: list[RawClass]) -> list[RawClass]:
    return every[::15]


def test_there_are_hundreds_of_classes_split_64_16_20(data: RawData, every: list[RawClass]) -> None:
    check_raw(data)
    assert data.image_shape == (28, 28, 1)
    assert not data.invert
    assert len(every) > 1000
    assert len({one.name for one in every}) == len(every)
    shares = {split: len(classes) / len(every) for split, classes in data.classes.items()}
    assert shares == pytest.approx({"train": 0.64, "val": 0.16, "test": 0.20}, abs=0.002)
    assert list(data.classes) == ["train", "val", "test"]


def test_every_split_holds_many_scripts(data: RawData) -> None:
    for classes in data.classes.values():
        scripts = {unicodedata.name(character(one)).split()[0] for one in classes}
        assert {"LATIN", "GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN", "ARABIC", "HEBREW", "LAO"} <= scripts


def test_images_are_white_ink_on_black_that_touches_no_edge(some: list[RawClass]) -> None:
    for one in some:
        images = pixels(one)
        assert images.shape == (20, 28, 28)
        assert images.dtype == np.uint8
        ink = (images > 127).mean(axis=(1, 2))
        assert ink.min() > 0.01, one.name
        assert ink.max() < 0.6, one.name
        edges = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
        assert edges.max() < 128, one.name


def test_no_face_of_a_character_is_blank(data: RawData) -> None:
    # More images than there are faces, so each is seen; the rarest characters are in the fewest faces.
    for one in data.classes["val"]:
        assert min(image.data.max() for image in one.images) > 150, one.name  # type: ignore[union-attr]


def test_the_images_of_a_class_differ(some: list[RawClass]) -> None:
    for one in some:
        images = pixels(one).astype(float)
        assert len({image.tobytes() for image in images}) == 20
        # The same face comes again under other changes: more than a shade's difference.
        faces = len(one.images.make.args[1])  # type: ignore[attr-defined]
        if faces < 20:
            assert np.abs(images[0] - images[faces]).mean() > 2, one.name


def test_a_class_is_more_like_itself_than_like_others(some: list[RawClass]) -> None:
    # The nearest mean of half the images, by bare pixels, is often right for the other half; chance is 1 %.
    images = np.stack([pixels(one).reshape(20, -1) for one in some]).astype(float)
    images /= np.linalg.norm(images, axis=-1, keepdims=True)
    centroids = images[:, :10].mean(axis=1)
    nearest = (images[:, 10:] @ centroids.T).argmax(axis=-1)
    assert (nearest == np.arange(len(some))[:, None]).mean() > 0.15


@pytest.mark.parametrize("same", ["AΑА", "OΟОՕ", "oοо", "PΡР", "∑Σ", "∆Δ"])  # noqa: RUF001
def test_characters_that_look_the_same_are_one_class(every: list[RawClass], same: str) -> None:
    kept = {character(one) for one in every} & set(same)
    assert len(kept) <= 1
    if same[0] in "AO":
        assert kept <= {"A", "O", "o", "0"}


def test_no_two_classes_look_alike_in_the_first_face(every: list[RawClass]) -> None:
    font = ImageFont.truetype(FONT, 90, layout_engine=ImageFont.Layout.BASIC)
    drawn = []
    for one in every:
        image = Image.new("L", (400, 300))
        ImageDraw.Draw(image).text((150, 160), character(one), fill=255, font=font, anchor="ls")
        small = image.crop(image.getbbox())
        small.thumbnail((24, 24), Image.Resampling.BOX)
        square = Image.new("L", (24, 24))
        square.paste(small, ((24 - small.width) // 2, (24 - small.height) // 2))
        drawn.append(np.asarray(square, dtype=np.float64).ravel())
    whole = np.stack(drawn)
    squares = (whole**2).sum(axis=1)
    apart = (squares[:, None] + squares - 2 * whole @ whole.T) / np.minimum(squares[:, None], squares)
    np.fill_diagonal(apart, np.inf)
    first, second = np.unravel_index(apart.argmin(), apart.shape)
    assert apart.min() > 0.05, (every[first].name, every[second].name)


def test_no_combining_accented_or_composed_character_is_a_class(every: list[RawClass]) -> None:
    for one in every:
        assert unicodedata.category(character(one))[0] in "LNS"
        assert not unicodedata.decomposition(character(one))


def test_the_same_arguments_give_the_same_bits(data: RawData) -> None:
    again = glyphs.raw_data()
    assert again.origin == data.origin
    for split, classes in data.classes.items():
        assert [one.name for one in again.classes[split]] == [one.name for one in classes]
        for one, other in list(zip(classes, again.classes[split], strict=True))[::40]:
            assert (pixels(one) == pixels(other)).all()


def test_an_image_depends_on_no_other(data: RawData) -> None:
    one = data.classes["train"][30]
    alone = [one.images[7].data, one.images[-1].data, one.images[3:5][1].data]
    together = pixels(one)
    for image, expected in zip(alone, together[[7, 19, 4]], strict=True):
        assert (image == expected).all()
    assert len(one.images[3:5]) == 2
    with pytest.raises(IndexError):
        one.images[20]
    more = {other.name: other for other in glyphs.raw_data(images=30).classes["train"]}
    assert (pixels(more[one.name])[:20] == together).all()


def test_images_are_the_same_from_other_threads_and_processes(some: list[RawClass]) -> None:
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(pixels, some))
    for one, images in zip(some, threaded, strict=True):
        assert (images == pixels(one)).all()
    assert (pixels(pickle.loads(pickle.dumps(some[3]))) == pixels(some[3])).all()


def test_another_seed_gives_another_split_and_other_images(data: RawData) -> None:
    other = glyphs.raw_data(seed=1)
    names = {one.name: one for classes in other.classes.values() for one in classes}
    assert {one.name for classes in data.classes.values() for one in classes} == names.keys()
    first = {one.name for one in data.classes["test"]}
    assert len(first & {one.name for one in other.classes["test"]}) < 0.4 * len(first)
    one = data.classes["train"][0]
    assert (pixels(one) != pixels(names[one.name])).any(axis=(1, 2)).all()


def test_global_generators_are_left_alone(data: RawData) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index,union-attr] # noqa: NPY002
    glyphs.raw_data(seed=3).classes["val"][0].images[0]
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index] # noqa: NPY002


def test_too_few_images_and_missing_fonts_are_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one image per character, received 0"):
        glyphs.raw_data(images=0)
    monkeypatch.setattr(glyphs.mpl, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"expected matplotlib's font '.*DejaVuSans\.ttf', found none; install"):
        glyphs._characters.__wrapped__()
