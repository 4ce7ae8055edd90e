"""Anybody's images: one folder per class."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.data.errors import DataError
from tasks.data.sources.base import RawClass, RawData, RawImage
from tasks.data.splits import described, split_classes
from tasks.family import SPLITS, Split

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def raw_data(
    source: Path,
    *,
    size: int = 84,
    grey: bool = False,
    ratio: str | None = None,
    lists: Path | None = None,
    seed: int = 0,
) -> RawData:
    """A folder of class folders with JPEG, PNG, WebP or BMP files, or of ``train``, ``val`` and ``test`` with such.

    Args:
        source: the folder.
        size: height and width of the store's images.
        grey: one channel instead of three.
        ratio: shares of the classes for train, val and test, by default ``0.64,0.16,0.2``.
        lists: a folder with class lists instead, see :func:`tasks.data.splits.by_lists`.
        seed: of the split by ratio.

    Raises:
        DataError: if there are no classes, a class has no images, or the split does not fit.
    """
    if not source.is_dir():
        raise DataError(f"expected a folder of class folders at '{source}', found none")
    source = _unwrapped(source)
    ready = all((source / split).is_dir() for split in SPLITS)
    classes: Mapping[Split, Sequence[RawClass]]
    if ready:
        if ratio is not None or lists is not None:
            raise DataError(f"'{source}' is split into train, val and test already; leave out --ratio and --lists")
        classes = {split: _classes(source / split, _class_names(source / split)) for split in SPLITS}
    else:
        parts = split_classes(_class_names(source), ratio, lists, seed)
        classes = {split: _classes(source, parts[split]) for split in SPLITS}
    return RawData(
        name=source.resolve().name,
        image_shape=(size, size, 1 if grey else 3),
        classes=classes,
        origin={"source": "folder", "split": "folders" if ready else described(ratio, lists, seed)},
    )


def _unwrapped(folder: Path) -> Path:
    """The folder itself, or the only one in it if that is what archives often make: a folder around the data."""
    inside = _class_names(folder)
    if len(inside) == 1 and _class_names(folder / inside[0]):
        return folder / inside[0]
    return folder


def _class_names(folder: Path) -> list[str]:
    hidden = (".", "__MACOSX")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(hidden))


def _classes(folder: Path, names: Sequence[str]) -> list[RawClass]:
    return [RawClass(name=name, images=_images(folder / name)) for name in names]


def _images(folder: Path) -> list[RawImage]:
    """The images of a class folder and of the folders in it, in the order of their names."""
    files = sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    )
    if not files:
        raise DataError(
            f"{folder}: expected images in every class ({', '.join(SUFFIXES)}), found none; add some, or remove it"
        )
    return [RawImage(where=str(file), data=file) for file in files]
