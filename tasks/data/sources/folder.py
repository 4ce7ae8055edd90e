"""Images in one folder per class."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasks.data.decode import SUFFIXES
from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.names import joined
from tasks.data.sources.base import RawClass, RawData, files
from tasks.data.splits import described, split_classes
from tasks.data.walk import Walk, in_order
from tasks.family import SPLITS, Split

NESTED = ("merge", "split")  # what may be done with images in several folders of a class
Found = dict[str, list[str]]  # paths of images by class


def raw_data(
    source: Path,
    *,
    size: int = 84,
    grey: bool = False,
    ratio: str | None = None,
    lists: Path | None = None,
    seed: int = 0,
    nested: str | None = None,
    limits: Limits | None = None,
) -> RawData:
    """Returns the data set of a folder of class folders, or of ``train``, ``val`` and ``test`` with class folders.

    Links are followed. A class is named by its folder; names that differ in spaces or the form of their Unicode only
    are one class. Files without an image's ending (:data:`SUFFIXES`) are left out and counted.

    Args:
        source: the folder.
        size: height and width of the store's images.
        grey: one channel instead of three.
        ratio: shares of the classes for train, val and test, by default ``0.64,0.16,0.2``.
        lists: a folder with class lists instead, see :func:`tasks.data.splits.by_lists`.
        seed: of the split by ratio.
        nested: for class folders with images in several folders: ``merge`` takes them for one class, ``split`` takes
            every folder with images for a class.
        limits: bounds on the number of files.

    Raises:
        DataError: if there are no classes, a class has no images, images of a class lie in several folders and
            ``nested`` is not given, or the split does not fit.
    """
    if not source.is_dir():
        raise DataError(f"expected a folder of class folders at '{source}', found none")
    if nested not in (None, *NESTED):
        raise DataError(f"expected --nested {' or '.join(NESTED)}, received '{nested}'")
    walk, warnings = Walk(SUFFIXES, limits or Limits()), list[str]()
    source = _unwrapped(source, walk)
    inside = walk.folders_in(str(source))
    ready = all(split in inside for split in SPLITS)
    if ready and (ratio is not None or lists is not None):
        raise DataError(f"'{source}' is split into train, val and test already; leave out --ratio and --lists")
    if ready:
        for name in sorted(set(inside) - set(SPLITS)):
            walk.left_out.add("a folder beside train, val and test", str(source / name))
        classes = {split: _joined(source / split, walk, nested, warnings) for split in SPLITS}
    else:
        classes = _split(_joined(source, walk, nested, warnings, inside), ratio, lists, seed, walk)
    return RawData(
        name=source.resolve().name,
        image_shape=(size, size, 1 if grey else 3),
        classes={split: _raw_classes(classes[split]) for split in SPLITS},
        origin={"source": "folder", "split": "folders" if ready else described(ratio, lists, seed)},
        left_out=walk.left_out,
        warnings=warnings,
        raw_bytes=walk.bytes,
    )


def _raw_classes(class_paths: Found) -> list[RawClass]:
    return [RawClass(name=name, images=files(paths)) for name, paths in class_paths.items()]


def _unwrapped(folder: Path, walk: Walk) -> Path:
    """Returns the folder, or the only one inside it, which many archives add around the data."""
    looked = Walk(walk.suffixes, Limits())  # what lies here is counted when the folder is read
    inside = looked.folders_in(str(folder))
    if len(inside) == 1 and looked.folders_in(str(folder / inside[0])):
        walk.folders_in(str(folder))
        return folder / inside[0]
    return folder


def _split(classes: Found, ratio: str | None, lists: Path | None, seed: int, walk: Walk) -> dict[Split, Found]:
    parts = split_classes(classes, ratio, lists, seed)
    chosen = {name for names in parts.values() for name in names}
    for name in classes.keys() - chosen:
        walk.left_out.add("a class on no list", name)
    return {split: {name: classes[name] for name in names} for split, names in parts.items()}


def _joined(
    folder: Path, walk: Walk, nested: str | None, warnings: list[str], inside: Sequence[str] | None = None
) -> Found:
    """Returns the paths of the images of each class of a folder; names that stand for the same class are joined."""
    names = walk.folders_in(str(folder)) if inside is None else inside
    classes, more = joined(_classes(str(folder), names, walk, nested), str(folder))
    warnings += more
    return {name: sorted(paths, key=in_order) for name, paths in sorted(classes.items())}


def _classes(folder: str, names: Sequence[str], walk: Walk, nested: str | None) -> Iterator[tuple[str, list[str]]]:
    for name in names:
        place = os.path.join(folder, name)  # noqa: PTH118 - a text for every file of millions, no path object
        by_folder = walk.files_below(place)
        if nested == "split" and by_folder:
            yield from ((os.path.relpath(inner, folder), paths) for inner, paths in by_folder.items())
            continue
        if len(by_folder) > 1 and nested is None:
            raise _ambiguous(folder, name, names, list(by_folder))
        if not by_folder:
            raise DataError(
                f"{place}: expected images in every class ({', '.join(SUFFIXES)}), found none; add some, or remove it"
            )
        yield name, [path for paths in by_folder.values() for path in paths]


def _ambiguous(folder: str, name: str, names: Sequence[str], inner: list[str]) -> DataError:
    splits = [split for split in SPLITS if split in names]
    hint = f" ({folder} has {' and '.join(splits)}, but not all of {', '.join(SPLITS)})" if splits else ""
    return DataError(
        f"{folder}: expected the images of a class in one folder, class '{name}' has them in {len(inner)}, "
        f"{inner[0]} and {inner[1]} among them{hint}; add --nested merge to take them for one class, or --nested "
        "split to take every folder with images for a class"
    )
