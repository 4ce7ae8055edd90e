"""Characters of the fonts that come with matplotlib: an image data set that needs no download."""

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tasks.data.errors import DataError
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage
from tasks.data.store import Pixels
from tasks.family import Split

GLYPHS_VERSION = 1  # to be raised whenever the same arguments give other images

SIZE = 28
FIRST = "DejaVuSans"  # every class is in this face; it decides which characters look the same
FACES = (
    *(
        f"{family}{style}"
        for family in (FIRST, "DejaVuSansMono")
        for style in ("", "-Bold", "-Oblique", "-BoldOblique")
    ),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10"),
)
ASCII_ONLY = ("cm",)  # beyond letters and digits these faces hold other characters than their tables say
FEWEST_FACES = 4
CATEGORIES = frozenset({"Lu", "Ll", "Lo", "Nd", "Sm", "Sc"})  # letters, digits, mathematical and currency signs
LEFT_OUT = ("CANADIAN SYLLABICS",)  # whole alphabets that are turns and mirror images of a dozen shapes

POINTS = 64  # size at which a character is drawn before it is changed
FINE = 3  # pixels per side that are averaged into one
COMPARED = 40  # side at which characters are compared
BLUR = ImageFilter.GaussianBlur(1)  # so that thin strokes a pixel apart still meet
ALIKE = 0.94  # cosine of two characters' pixels above which they count as the same
FITTED = 19.0  # pixels of the longer side before scaling
TURN, SHEAR, LEAST, MOST, SHIFT = math.radians(12), 0.2, 0.85, 1.15, 2.5  # range of the changes

_CHANGES, _SPLIT = 0, 1  # what random numbers are for


def raw_data(seed: int = 0, images: int = 20) -> RawData:
    """Returns the characters as a data set: white ink on black, 28 × 28, split by class 64 : 16 : 20.

    A class is one character. Its images go through its faces in turn (upright, bold, oblique; with and without
    serifs), each turned, sheared, scaled and shifted a little. Characters that look the same (Latin A, Greek Alpha,
    Cyrillic A) are one class, under the first code point. Images are drawn when they are asked for.

    Args:
        seed: decides the split and the changes of every image.
        images: images of each class.

    Returns:
        A pure function of the arguments and the fonts.

    Raises:
        DataError: if matplotlib's fonts are not where they should be.

    >>> data = raw_data(images=2)
    >>> sum(len(classes) for classes in data.classes.values()) > 1000
    True
    >>> data.classes["train"][0].name, len(data.classes["train"][0].images)
    ('U+0024 DOLLAR SIGN', 2)
    """
    if images < 1:
        raise DataError(f"expected at least one image per character, received {images}")
    characters = _characters()
    order = _rng(seed, _SPLIT).permutation(len(characters))
    first, second = round(0.64 * len(order)), round(0.80 * len(order))
    parts: dict[Split, NDArray[np.int64]] = {
        "train": order[:first],
        "val": order[first:second],
        "test": order[second:],
    }
    return RawData(
        name="glyphs",
        image_shape=(SIZE, SIZE, 1),
        classes={
            split: [
                RawClass(name=_name(character), images=LazyImages(images, partial(_image, character, faces, seed)))
                for character, faces in (characters[place] for place in sorted(part.tolist()))
            ]
            for split, part in parts.items()
        },
        origin={
            "source": "characters of matplotlib's fonts",
            "version": GLYPHS_VERSION,
            "seed": seed,
            "images": images,
            "faces": list(FACES),
            "matplotlib": version("matplotlib"),
            "pillow": version("pillow"),
        },
    )


def _image(character: str, faces: tuple[str, ...], seed: int, number: int) -> RawImage:
    face = faces[number % len(faces)]
    changes = _rng(seed, _CHANGES, ord(character), number).uniform(-1, 1, size=6)
    return RawImage(where=f"{_name(character)}, image {number}", data=_changed(face, character, changes))


def _rng(seed: int, purpose: int, character: int = 0, number: int = 0) -> np.random.Generator:
    """A stream of its own for every image; the lowest word of the counter counts the draws."""
    counter = np.array([0, number, character, purpose], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed, 0], dtype=np.uint64)))


def _name(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character)}"


@lru_cache(maxsize=1)
def _characters() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The classes by code point: each character and the faces that have it."""
    tables = {face: {chr(code) for code, glyph in _table(face).items() if glyph} for face in FACES}
    for face in FACES:
        if face.startswith(ASCII_ONLY):
            tables[face] = {character for character in tables[face] if character.isascii() and character.isalnum()}
    known = [character for character in sorted(tables[FIRST]) if _is_wanted(character)]
    faces = {
        character: tuple(face for face in FACES if character in tables[face] and _ink(face, character) is not None)
        for character in known
    }
    fit = [character for character in known if FIRST in faces[character] and len(faces[character]) >= FEWEST_FACES]
    return tuple((character, faces[character]) for character in _unlike(fit))


def _is_wanted(character: str) -> bool:
    """Whether a character stands for itself: no combining sign, accented letter, ligature or other composition."""
    return (
        unicodedata.category(character) in CATEGORIES
        and unicodedata.normalize("NFKD", character) == character
        and not unicodedata.name(character, LEFT_OUT[0]).startswith(LEFT_OUT)
    )


def _unlike(characters: Sequence[str]) -> list[str]:
    """Returns the characters without those that look like an earlier one in the first face."""
    pixels = np.stack([_fitted(character).ravel() for character in characters])
    products = pixels @ pixels.T  # of whole numbers: exact, whatever order they are added in
    squares = products.diagonal()
    alike = products**2 >= ALIKE**2 * squares[:, None] * squares
    kept: list[int] = []
    for place in range(len(characters)):
        if not alike[place, kept].any():
            kept.append(place)
    return [characters[place] for place in kept]


def _fitted(character: str) -> NDArray[np.float64]:
    """A character's pixels in the first face, brought to one size and blurred."""
    ink = _ink(FIRST, character)
    assert ink is not None
    scale = COMPARED / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    square = Image.new("L", (COMPARED, COMPARED))
    small = ink.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    square.paste(small, ((COMPARED - size[0]) // 2, (COMPARED - size[1]) // 2))
    return np.asarray(square.filter(BLUR), dtype=np.float64)


def _changed(face: str, character: str, changes: NDArray[np.float64]) -> Pixels:
    """One image [28, 28]: a character turned, sheared, scaled and shifted by six numbers in [-1, 1]."""
    ink = _ink(face, character)
    assert ink is not None
    turn, shear = changes[0] * TURN, changes[1] * SHEAR
    middle, reach = (LEAST + MOST) / 2, (MOST - LEAST) / 2
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = matrix @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(middle + reach * changes[2:4])
    matrix *= FITTED / max(ink.size)
    # What would stick out is made smaller, and shifted no further than to the edge.
    most = SIZE / 2 - 1
    half = np.abs(matrix) @ (np.array(ink.size) / 2)
    scale = min(1.0, most / float(half.max()))
    matrix, half = matrix * scale, half * scale
    centre = SIZE / 2 + np.clip(changes[4:] * SHIFT, half - most, most - half)
    back = np.linalg.inv(matrix * FINE)
    offset = np.array(ink.size) / 2 - back @ (centre * FINE)
    # Rounded, so that processors that differ in the last bit draw the same pixels.
    data = tuple(np.column_stack([back, offset]).round(6).ravel().tolist())
    fine = (SIZE * FINE, SIZE * FINE)
    changed = ink.transform(fine, Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR)
    return np.asarray(changed.reduce(FINE), dtype=np.uint8)


def _ink(face: str, character: str) -> Image.Image | None:
    """A character's pixels cut out, white on black; None if it is blank."""
    font = _font(face)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(character, anchor="ls"))
    if right <= left or bottom <= top:
        return None
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), character, fill=255, font=font, anchor="ls")
    box = image.getbbox()
    return None if box is None else image.crop(box)


def _path(face: str) -> Path:
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    if not path.is_file():
        raise DataError(f"glyphs: expected matplotlib's font '{path}', found none; install matplotlib from its wheel")
    return path


def _table(face: str) -> dict[int, int]:
    """Glyph numbers by code point."""
    return dict(FT2Font(str(_path(face))).get_charmap())


@lru_cache(maxsize=len(FACES))
def _font(face: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_path(face), POINTS, layout_engine=ImageFont.Layout.BASIC)
