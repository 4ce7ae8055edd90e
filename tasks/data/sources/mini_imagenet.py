"""mini-ImageNet in the split of Ravi & Larochelle (2017): 64, 16 and 20 classes of 600 images."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.data.checksums import verify
from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.limits import Limits
from tasks.data.names import joined
from tasks.data.pickles import load_pickle
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage
from tasks.data.spill import put_aside
from tasks.data.store import Pixels
from tasks.family import SPLITS, Split

SIZE = 84
COLUMNS = ("filename", "label")
PICKLE = "mini-imagenet-cache-{}.pkl"


def raw_data(source: Path, *, lists: Path | None = None, limits: Limits | None = None) -> RawData:
    """Returns the data set at 84 × 84.

    Args:
        source: a folder with ``images/`` (or the images themselves) and ``train.csv``, ``val.csv`` and ``test.csv``
            of columns filename and label; or one with the three ``mini-imagenet-cache-*.pkl``.
        lists: folder of the three CSV files if they do not lie in ``source``.
        limits: bounds on what a pickle takes in memory.

    Raises:
        DataError: if it is neither, a list names an image that is not there or is in another split, or a pickle
            holds anything but arrays.
    """
    if not source.is_dir():
        raise DataError(f"expected a folder with mini-ImageNet at '{source}', found none")
    folders = [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    packed = next((folder for folder in folders if (folder / PICKLE.format("train")).is_file()), None)
    from_pickles = packed is not None and lists is None
    left_out, warnings = LeftOut(), list[str]()
    classes: Mapping[Split, Mapping[str, Sequence[RawImage]]]
    if packed is not None and lists is None:
        classes = {split: _from_pickle(packed / PICKLE.format(split), limits, warnings) for split in SPLITS}
    else:
        classes = _from_lists(source, lists, left_out, warnings)
    return RawData(
        name="mini_imagenet",
        image_shape=(SIZE, SIZE, 3),
        classes={
            split: [RawClass(name=name, images=images) for name, images in classes[split].items()] for split in SPLITS
        },
        origin={"source": "mini_imagenet", "form": "pickles" if from_pickles else "images"},
        left_out=left_out,
        warnings=warnings,
    )


def _from_lists(
    source: Path, lists: Path | None, left_out: LeftOut, warnings: list[str]
) -> Mapping[Split, Mapping[str, Sequence[RawImage]]]:
    homes = [lists] if lists else [source, *sorted(path for path in source.iterdir() if path.is_dir())]
    home = next((folder for folder in homes if (folder / "train.csv").is_file()), None)
    if home is None:
        raise DataError(
            f"expected train.csv, val.csv and test.csv, or {PICKLE.format('train')} and its like, in "
            f"'{lists or source}', found neither; name the folder of the lists by --lists"
        )
    places = (source / "images", source, home / "images")
    images = next((folder for folder in places if folder.is_dir() and folder.name == "images"), source)
    present = {entry.name for entry in os.scandir(images)}
    taken: dict[str, Path] = {}
    classes = {}
    for split in SPLITS:
        by_label: dict[str, list[RawImage]] = {}
        path = home / f"{split}.csv"
        for line, (file, label) in _rows(path):
            where = f"{path}, line {line}"
            if file not in present:
                raise DataError(f"{where}: expected the image '{images / file}', which is not there; add it")
            if file in taken:
                raise DataError(
                    f"{where}: expected every image once, received '{file}', which {taken[file].name} names "
                    "too; correct the lists"
                )
            taken[file] = path
            by_label.setdefault(label, []).append(RawImage(where=str(images / file), data=images / file))
        classes[split], more = joined(by_label.items(), str(path))
        warnings += more
    if images.name == "images":  # else the lists and other files lie there too
        for file in sorted(present - taken.keys()):
            left_out.add("a file on no list", str(images / file))
    return classes


def _rows(path: Path) -> list[tuple[int, tuple[str, str]]]:
    """Line number, file name and label of each row."""
    if not path.is_file():
        raise DataError(f"expected a list at '{path}', found none; train.csv, val.csv and test.csv belong together")
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        reader = csv.DictReader(stream)
        try:
            columns, rows = reader.fieldnames or [], [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise DataError(f"{path}: expected a table of {' and '.join(COLUMNS)}, cannot read it: {error}") from error
    if not set(COLUMNS) <= set(columns):
        raise DataError(f"{path}: expected columns {' and '.join(COLUMNS)}, received {', '.join(columns) or 'none'}")
    for line, row in rows:
        if not row["filename"] or not row["label"] or Path(row["filename"]).name != row["filename"]:
            raise DataError(f"{path}, line {line}: expected a file's name and a label, received {row}")
    return [(line, (row["filename"], row["label"])) for line, row in rows]


def _selected(where: str, images: Pixels, rows: NDArray[np.int64]) -> Sequence[RawImage]:
    """Some rows of an array of images [N, 84, 84, 3]."""
    return LazyImages(
        len(rows), lambda number: RawImage(where=f"{where}, image {rows[number]}", data=images[rows[number]])
    )


def _from_pickle(path: Path, limits: Limits | None, warnings: list[str]) -> Mapping[str, Sequence[RawImage]]:
    """``image_data`` uint8 [N, 84, 84, 3] and ``class_dict`` from name to indices."""
    if not path.is_file():
        raise DataError(f"expected a pickle at '{path}', found none; train, val and test belong together")
    verify(path)
    loaded: Any = load_pickle(path, limits)
    try:
        images, groups = loaded["image_data"], loaded["class_dict"].items()
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path}: expected 'image_data' and 'class_dict', received other contents: {error!r}"
        ) from error
    del loaded
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        received = f"{images.dtype} of shape {list(images.shape)}" if isinstance(images, np.ndarray) else type(images)
        raise DataError(f"{path}: expected uint8 images of shape [images, height, width, 3], received {received}")
    by_class, more = joined(_rows_by_class(path, groups, len(images)), str(path))
    warnings += more
    aside = put_aside(images)  # three such files would fill a small machine's memory
    return {name: _selected(str(path), aside, np.array(rows, dtype=np.int64)) for name, rows in by_class.items()}


def _rows_by_class(path: Path, groups: Iterable[tuple[Any, Any]], count: int) -> Iterator[tuple[str, list[int]]]:
    """Class names and indices of their images; a pickle may refer to one list of millions a million times."""
    taken = 0
    for name, rows in groups:
        if not isinstance(name, str | bytes | int):
            raise DataError(f"{path}: expected 'class_dict' with names of classes, received a {type(name).__name__}")
        text = name.decode("latin1") if isinstance(name, bytes) else str(name)
        if isinstance(rows, np.ndarray) and rows.ndim == 1 and rows.dtype.kind in "iu":
            rows = rows.tolist()
        if not isinstance(rows, list | tuple) or not all(isinstance(row, int | np.integer) for row in rows):
            raise DataError(f"{path}: expected 'class_dict' with lists of indices, class '{text}' has others")
        taken += len(rows)
        if taken > count:
            raise DataError(
                f"{path}: expected every image in one class, received {count} images and {taken} or more indices; "
                "correct 'class_dict'"
            )
        if rows and not 0 <= min(rows) <= max(rows) < count:
            raise DataError(f"{path}: expected indices of images from 0 to {count - 1}, class '{text}' has others")
        yield text, [int(row) for row in rows]
