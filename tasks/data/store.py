"""The Arrow store: uint8 images by class and split in files that any number of workers map into memory.

A store is a folder:

``manifest.json``
    Schema version, name, image shape, origin, and for each split its file, classes, images and SHA-256.
``train.arrow``, ``val.arrow``, ``test.arrow``
    Arrow IPC files, uncompressed. Record batch k holds class k: ``image`` (fixed-size binary, rows of height ×
    width × channels) and ``class`` (int32, k). Class names stand in the schema's metadata under ``classes``.

A class is read as a view of the mapped file: nothing is copied before pixels are asked for, and the workers of a
node share one copy through the page cache.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.data.errors import DataError
from tasks.data.manifest import MANIFEST, Manifest
from tasks.data.tables.manifest import AnyManifest, any_manifest
from tasks.family import Split

Pixels = NDArray[np.uint8]


class FolderStore:
    """A store of any kind on this machine's disk: its manifest, and checks of its files."""

    manifest: AnyManifest

    def __init__(self, root: Path, kind: str) -> None:
        """Reads the manifest.

        Args:
            root: the folder.
            kind: of the store, for the message.

        Raises:
            DataError: if there is none, or it is damaged.
        """
        self.root = root
        try:
            text = (root / MANIFEST).read_bytes().decode()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(
                f"expected {kind} store at '{root}', found none; make one with: metaray data prepare NAME "
                f"--source SOURCE --root {root}"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"{root / MANIFEST}: expected a store's manifest, received a file that is not UTF-8 text ({error}); "
                "prepare the data again"
            ) from error
        self.manifest = any_manifest(text, str(root / MANIFEST))

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """A copy in another process maps the files anew."""
        return type(self), (self.root,)

    def verify(self) -> None:
        """Reads every file and compares its checksum with the manifest's.

        Raises:
            DataError: if a file has another one, or does not exist.
        """
        for split, info in self.manifest.splits.items():
            path = self._file(split)
            with path.open("rb") as stream:
                info.check(hashlib.file_digest(stream, "sha256").hexdigest(), str(path))

    def _file(self, split: Split) -> Path:
        """Returns the path of a split's file, after checking its size."""
        info = self.manifest.splits.get(split)
        if info is None:
            raise DataError(f"expected a {split} split in the store '{self.root}', it has {list(self.manifest.splits)}")
        path = self.root / info.file
        size = path.stat().st_size if path.is_file() else 0
        if size != info.bytes:
            raise DataError(f"{path}: expected {info.bytes} bytes, found {size}; prepare the data again")
        return path


class ImageStore(FolderStore):
    """A store on this machine's disk, open for reading. Class ``k`` of a split is a read-only array of images."""

    manifest: Manifest

    def __init__(self, root: Path) -> None:
        """Reads the manifest; a split's file is mapped when it is first used.

        Raises:
            DataError: if there is no store, it is damaged, or of another schema version.
        """
        super().__init__(root, "an image")
        if not isinstance(self.manifest, Manifest):
            raise DataError(
                f"expected an image store at '{root}', received one of tables; name a store of images, or set "
                "task.family to table or series"
            )
        self._splits: dict[Split, tuple[tuple[str, ...], list[Pixels]]] = {}

    def names(self, split: Split) -> tuple[str, ...]:
        """Returns the class names of a split, by class number."""
        return self._opened(split)[0]

    def images(self, split: Split, number: int) -> Pixels:
        """Returns the images of a class, uint8 [N, height, width, channels], a view of the mapped file.

        Args:
            split: the split.
            number: number of the class within the split.
        """
        return self._opened(split)[1][number]

    def sizes(self, split: Split) -> list[int]:
        """Returns the number of images of each class of a split."""
        return [len(images) for images in self._opened(split)[1]]

    def _opened(self, split: Split) -> tuple[tuple[str, ...], list[Pixels]]:
        if split not in self._splits:
            self._splits[split] = self._open(split)
        return self._splits[split]

    def _open(self, split: Split) -> tuple[tuple[str, ...], list[Pixels]]:
        path = self._file(split)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            names = tuple(json.loads(reader.schema.metadata[b"classes"]))
            columns = [reader.get_batch(number).column("image") for number in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: expected an Arrow file of images, received a damaged one ({error})") from error
        return names, [_view(column, self.manifest.image_shape) for column in columns]


def _view(column: Any, shape: tuple[int, int, int]) -> Pixels:
    """A fixed-size binary column as an array of images, without a copy; it keeps the mapped file open."""
    pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8)
    size = math.prod(shape)
    start = column.offset * size
    return pixels[start : start + len(column) * size].reshape(len(column), *shape)
