"""CIFAR-100 (Krizhevsky 2009) split by class for few-shot learning: CIFAR-FS and FC100."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.data.checksums import verify_md5
from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.limits import Limits
from tasks.data.pickles import load_pickle
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage
from tasks.data.sources.parquet import Tables, images_by_class
from tasks.data.store import Pixels
from tasks.family import SPLITS

LISTS = Path(__file__).with_name("cifar100_splits.json")
FOLDER = "cifar-100-python"
PICKLES = {  # with the MD5 that torchvision states
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
SIZE = 32


def cifar_fs(source: Path, *, download: bool = False, limits: Limits | None = None) -> RawData:
    """CIFAR-FS: 64 classes to train with, 16 to validate and 20 to test (Bertinetto et al. 2019).

    Args:
        source: torchvision's folder (or its ``cifar-100-python``), or Parquet files as the Hugging Face hub keeps
            them, with a column ``fine_label`` and its class names.
        download: fetch torchvision's folder into ``source`` first, if it is not there.
        limits: bounds on what comes out of a file.

    Raises:
        DataError: if it is neither, a checksum is wrong, or a class is missing.
    """
    return _raw_data("cifar_fs", source, download, limits)


def fc100(source: Path, *, download: bool = False, limits: Limits | None = None) -> RawData:
    """FC100: 60, 20 and 20 classes that share no superclass (Oreshkin et al. 2018).

    Args:
        source: as for :func:`cifar_fs`.
        download: as for :func:`cifar_fs`.
        limits: as for :func:`cifar_fs`.

    Raises:
        DataError: as for :func:`cifar_fs`.
    """
    return _raw_data("fc100", source, download, limits)


def _raw_data(name: str, source: Path, download: bool, limits: Limits | None) -> RawData:
    if download:
        from tasks.data.sources import downloads  # imports torchvision

        downloads.cifar100(source)
    lists: dict[str, list[str]] = json.loads(LISTS.read_text(encoding="utf-8"))[name]
    folders = [folder for folder in (source, source / FOLDER) if (folder / "meta").is_file()]
    tables = None if folders else _from_tables(source, limits)
    images = tables.images if tables else _from_pickles(folders[0], limits)
    missing = [one for split in SPLITS for one in lists[split] if one not in images]
    if missing:
        raise DataError(
            f"{source}: expected the 100 classes of CIFAR-100, received {len(images)} without "
            f"{', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}; fetch the data again"
        )
    left_out = tables.left_out if tables else LeftOut()
    for other in images.keys() - {one for split in SPLITS for one in lists[split]}:
        left_out.add("a class that is none of CIFAR-100", other)
    return RawData(
        name=name,
        image_shape=(SIZE, SIZE, 3),
        classes={split: [RawClass(name=one, images=images[one]) for one in lists[split]] for split in SPLITS},
        origin={"source": "cifar-100", "form": "pickles" if folders else "parquet"},
        left_out=left_out,
        warnings=tables.warnings if tables else (),
        raw_bytes=tables.raw_bytes if tables else None,
    )


def _from_tables(source: Path, limits: Limits | None) -> Tables:
    try:
        return images_by_class(source, None, "fine_label", limits)
    except DataError as error:
        raise DataError(f"{error} (a folder of torchvision's with {FOLDER} would do as well)") from error


def _rows(where: str, images: Pixels, rows: NDArray[np.int64]) -> Sequence[RawImage]:
    """Some rows of an array of images [N, 3, 32, 32]."""

    def make(number: int) -> RawImage:
        row = int(rows[number])
        return RawImage(where=f"{where}, image {row}", data=images[row].transpose(1, 2, 0))

    return LazyImages(len(rows), make)


def _from_pickles(folder: Path, limits: Limits | None) -> Mapping[str, Sequence[RawImage]]:
    """The python version's pickles: 500 images of each class in ``train``, 100 in ``test``."""
    for part, md5 in PICKLES.items():
        if not (folder / part).is_file():
            raise DataError(f"{folder}: expected files {', '.join(PICKLES)}, found no {part}; fetch the data again")
        verify_md5(folder / part, md5)
    try:
        names = [str(name) for name in load_pickle(folder / "meta", limits)["fine_label_names"]]
        loaded = [load_pickle(folder / part, limits) for part in ("train", "test")]
        labels = np.concatenate([np.asarray(part["fine_labels"], dtype=np.int64) for part in loaded])
        images = np.concatenate([np.asarray(part["data"], dtype=np.uint8) for part in loaded])
        images = images.reshape(len(labels), 3, SIZE, SIZE)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{folder}: expected CIFAR-100's labels and images, received others ({error!r})") from error
    return {name: _rows(str(folder), images, np.flatnonzero(labels == number)) for number, name in enumerate(names)}
