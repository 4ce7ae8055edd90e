"""Tasks as pictures: class folders to adapt on, a folder of pictures to predict for."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.adapt.task import Sources, Task
from cluster.errors import ConfigError
from cluster.registry.fields import ImageFiles
from cluster.registry.models import AdaptableModel
from tasks.data.decode import SUFFIXES, decode
from tasks.data.errors import BrokenImage, DataError
from tasks.data.left_out import in_lines
from tasks.data.limits import Limits
from tasks.data.sources.base import RawImage
from tasks.data.walk import Walk, in_order


def pictures_task(model: AdaptableModel, sources: Sources, query: Path) -> Task:
    """The task in two folders. Pictures are brought to the model's size as ``metaray data prepare`` does.

    Args:
        model: what is adapted to it.
        sources: the support's folder, with a folder of pictures for each class.
        query: a folder of pictures, or one picture.

    Raises:
        ConfigError: if the model's inputs are no images.
        DataError: if there are not as many classes as the model has, a class or the query is empty, or a picture cannot
            be read.
    """
    files = model.images
    if files is None:
        raise ConfigError(
            f"--support: expected a table or arrays, the model's inputs are no images; received the folder "
            f"'{sources.support}'"
        )
    if sources.inputs or sources.targets:
        raise ConfigError("--inputs, --targets: expected only beside tables, received with folders of pictures")
    walk = Walk(SUFFIXES, Limits())
    names = walk.folders_in(str(sources.support))
    if len(names) != model.classes:
        raise DataError(
            f"{sources.support}: expected {model.classes} class folders, as many as the model has classes, received "
            f"{len(names)}: {', '.join(names[:10]) or 'none'}"
        )
    classes = [_pictures(walk, sources.support / name, "class folder") for name in names]
    asked = [str(query)] if query.is_file() else _pictures(walk, query, "folder of queries")
    labels = [number for number, paths in enumerate(classes) for _ in paths]
    arrays: dict[str, NDArray[Any]] = {
        "support_inputs": _decoded(files, [path for paths in classes for path in paths])[None],
        "support_targets": np.array(labels, dtype=np.int64)[None],
        "query_inputs": _decoded(files, asked)[None],
    }
    counts = {len(paths) for paths in classes}
    notes = in_lines(walk.left_out.as_plain())
    if len(counts) > 1:
        sizes = ", ".join(f"{name} {len(paths)}" for name, paths in zip(names, classes, strict=True))
        notes.append(
            f"{sources.support}: classes differ in their number of pictures, each of which counts alike: {sizes}"
        )
    base = query if query.is_dir() else query.parent
    return Task(arrays=arrays, queries=[os.path.relpath(path, base) for path in asked], targets=names, notes=notes)


def _pictures(walk: Walk, folder: Path, what: str) -> list[str]:
    """Paths of the pictures in a folder and below it, sorted."""
    paths = [path for inside in walk.files_below(str(folder)).values() for path in inside]
    if not paths:
        raise DataError(f"{folder}: expected pictures in every {what} ({', '.join(SUFFIXES)}), found none")
    return sorted(paths, key=in_order)


def _decoded(files: ImageFiles, paths: Sequence[str]) -> NDArray[np.uint8]:
    """Pixels of pictures, uint8 [B, H, W, C]."""
    pixels = np.empty((len(paths), *files.shape), np.uint8)
    for number, path in enumerate(paths):
        try:
            pixels[number] = decode(RawImage(where=path, data=Path(path)), files.shape, files.inverted)
        except BrokenImage as error:
            reason = str(error).partition("; replace it")[0]
            raise DataError(f"{reason}; replace it, or take it out of the folder") from error
    return pixels
