"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people (Lake et al. 2015)."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.checksums import verify
from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage, files
from tasks.data.splits import by_counts
from tasks.data.walk import Walk
from tasks.family import SPLITS

PARTS = ("images_background", "images_evaluation")
SPLIT = (1100, 100, 423)
SIZE = 28
TORCHVISION = "omniglot-py"  # folder that torchvision makes


def raw_data(source: Path, *, seed: int = 0, download: bool = False, limits: Limits | None = None) -> RawData:
    """Returns the data set as in the paper: 28 × 28, ink 255 on paper 0, characters split 1100 : 100 : 423 at random.

    A class is named by its number in the data set, ``0001`` to ``1623``, whichever form it comes in.

    Args:
        source: torchvision's folder (or its ``omniglot-py``) with ``images_background`` and ``images_evaluation``
            unpacked, or a folder with ``images_background.npz`` and ``images_evaluation.npz``: arrays ``images``,
            bool [characters, drawings, height, width], true where there is paper.
        seed: of the shuffle.
        download: fetch what is missing into ``source`` first, from where torchvision does.
        limits: bounds on what an array takes in memory, and how it grows.

    Raises:
        DataError: if it is neither, a checksum is wrong, or there are other than 1,623 characters.
    """
    if download:
        from tasks.data.sources import downloads  # imports torchvision

        downloads.omniglot(source / TORCHVISION)
    folders = [source, *sorted(path for path in source.glob("*") if path.is_dir())]
    packed = next((folder for folder in folders if (folder / f"{PARTS[0]}.npz").is_file()), None)
    unpacked = next((folder for folder in folders if (folder / PARTS[0]).is_dir()), None)
    walk = Walk((".png",), limits or Limits())
    if packed is not None:
        images = _from_npz(packed, limits or Limits())
    elif unpacked is not None:
        images = _from_folders(unpacked, walk)
    else:
        raise DataError(
            f"{source}: expected {PARTS[0]} and {PARTS[1]}, as folders or .npz files, found neither; "
            "add --download to fetch them"
        )
    if len(images) != sum(SPLIT):
        raise DataError(f"{source}: expected {sum(SPLIT)} characters, received {len(images)}; fetch the data again")
    parts = by_counts(images.keys(), SPLIT, seed)
    return RawData(
        name="omniglot",
        image_shape=(SIZE, SIZE, 1),
        classes={split: [RawClass(name=name, images=images[name]) for name in parts[split]] for split in SPLITS},
        invert=True,
        origin={"source": "omniglot", "seed": seed, "form": "npz" if packed else "folder"},
        left_out=walk.left_out,
    )


def _drawings(where: str, bits: NDArray[np.uint8], height: int, width: int) -> Sequence[RawImage]:
    """One character's drawings, kept at one bit per pixel until they are asked for."""

    def make(number: int) -> RawImage:
        paper = np.unpackbits(bits[number], count=height * width).reshape(height, width)
        return RawImage(where=f"{where}, drawing {number}", data=paper * np.uint8(255))

    return LazyImages(len(bits), make)


def _from_npz(folder: Path, limits: Limits) -> dict[str, Sequence[RawImage]]:
    characters: dict[str, Sequence[RawImage]] = {}
    for part in PARTS:
        path = folder / f"{part}.npz"
        if not path.is_file():
            raise DataError(f"{folder}: expected {PARTS[0]}.npz and {PARTS[1]}.npz, found no {path.name}")
        verify(path)
        images = _load(path, limits)
        height, width = images.shape[2:]
        bits = np.packbits(images.reshape(*images.shape[:2], height * width), axis=-1)
        for number, drawings in enumerate(bits):
            characters[f"{len(characters) + 1:04d}"] = _drawings(f"{path}, character {number}", drawings, height, width)
    return characters


def _load(path: Path, limits: Limits) -> NDArray[np.bool_]:
    try:
        _check_size(path, limits)
        with np.load(path, allow_pickle=False) as arrays:
            images: NDArray[Any] = arrays["images"]
    except DataError:
        raise
    except (ValueError, KeyError, TypeError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: expected an array 'images' in a .npz file, cannot read it: {error}") from error
    if images.dtype != np.bool_ or images.ndim != 4:
        raise DataError(
            f"{path}: expected bool images of shape [characters, drawings, height, width], received "
            f"{images.dtype} of shape {list(images.shape)}"
        )
    return images


def _check_size(path: Path, limits: Limits) -> None:
    """Compares the stated size of the array ``images`` with the limits, before memory is allocated for it."""
    if not zipfile.is_zipfile(path):
        return  # numpy tells what it is
    with zipfile.ZipFile(path) as archive, archive.open("images.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
        size = math.prod(shape) * kind.itemsize
        limits.check_memory(str(path), size)
        limits.check_unpacked(str(path), size, path.stat().st_size)


def _from_folders(folder: Path, walk: Walk) -> dict[str, Sequence[RawImage]]:
    """Folders ``PART/ALPHABET/characterNN`` with files ``NNNN_DD.png``: number of the character and of the drawing."""
    characters: dict[str, Sequence[RawImage]] = {}
    for part in PARTS:
        if not (folder / part).is_dir():
            raise DataError(f"{folder}: expected {PARTS[0]} and {PARTS[1]}, found no {part}; unpack it there")
        for character in sorted((folder / part).glob("*/character*")):
            paths = [path for inside in walk.files_below(str(character)).values() for path in inside]
            if not paths:
                raise DataError(f"{character}: expected drawings such as 0001_01.png, found none")
            name = Path(paths[0]).name.partition("_")[0]
            if name in characters:
                raise DataError(f"{character}: expected a character of its own, number {name} is there twice")
            characters[name] = files(paths)
    return characters
