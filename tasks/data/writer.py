"""Writing an Arrow store (see :mod:`tasks.data.store` and :mod:`tasks.data.tables.store`): it is whole or absent."""

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa

from tasks.data.errors import DataError
from tasks.data.manifest import MANIFEST, SCHEMA, Manifest, SplitInfo
from tasks.data.places import OLD, scratch
from tasks.data.store import Pixels
from tasks.family import Split


@dataclass
class _File:
    """A split's file while it is written."""

    split: Split
    schema: Any
    writer: Any
    sizes: list[int] = field(default_factory=list)


def check_place(root: Path, *, replace: bool) -> None:
    """Checks that a store may be written at ``root``.

    Args:
        root: the store's folder.
        replace: whether a store there may be overwritten.

    Raises:
        DataError: if there is a store already and ``replace`` is False, or something else.
    """
    is_store = (root / MANIFEST).is_file()
    if root.exists() and not is_store and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"expected a new folder for the store, '{root}' holds something else; name another one")
    if is_store and not replace:
        raise DataError(f"there is a store at '{root}' already; add --replace to write it anew, or name another")


class FolderWriter(ABC):
    """Writes a store that is whole or absent: a folder beside ``root`` that is renamed to it at the end.

    A context manager: leaving the block without an error publishes the store; leaving it by an error removes
    everything.
    """

    def __init__(self, root: Path, *, replace: bool = False) -> None:
        """Checks the place; nothing is written yet.

        Args:
            root: the store's folder.
            replace: whether a store at ``root`` may be overwritten.

        Raises:
            DataError: if ``root`` exists and ``replace`` is False, or is not a store.
        """
        check_place(root, replace=replace)
        self.root = root
        self._replace = replace
        self._sink: Any = None

    def __enter__(self) -> Self:
        """Makes a folder beside ``root`` and removes the folders of killed writers.

        Raises:
            DataError: if one of them was replacing a store, which is restored now, and ``replace`` is False.
        """
        with ExitStack() as stack:
            self._scratch = stack.enter_context(scratch(self.root.resolve()))
            check_place(self.root, replace=self._replace)
            self._partial = self._scratch / "store"
            self._partial.mkdir()
            self._stack = stack.pop_all()
        return self

    @abstractmethod
    def _describe(self) -> str:
        """Returns the contents of ``manifest.json``, when every file is complete."""

    def _open(self, split: Split, schema: Any) -> Any:
        """Returns a writer of record batches for a split's new file."""
        self._path = self._partial / f"{split}.arrow"
        self._sink = pa.OSFile(str(self._path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        return self._writer

    def _seal(self) -> dict[str, Any]:
        """Completes the open file and flushes it to the disk; returns its name, SHA-256 and size."""
        self._writer.close()
        self._sink.close()
        self._sink = None
        with self._path.open("rb+") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"file": self._path.name, "sha256": digest, "bytes": self._path.stat().st_size}

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """Publishes the store, or removes everything after an error."""
        with self._stack:
            if self._sink is not None:
                self._sink.close()
            if kind is None:
                self._publish(self._describe())

    def _publish(self, manifest: str) -> None:
        with (self._partial / MANIFEST).open("w", encoding="utf-8") as stream:
            stream.write(manifest)
            stream.flush()
            os.fsync(stream.fileno())
        root = self.root.resolve()
        if self._replace and (root / MANIFEST).is_file():
            root.rename(self._scratch / OLD)  # from where it comes back if the next line is not reached
        try:
            self._partial.rename(root)  # refused by the system if the folder is there and not empty
        except OSError as error:
            if root.exists():
                raise DataError(f"another process has written '{self.root}' meanwhile; name another root") from error
            raise
        folder = os.open(root.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StoreWriter(FolderWriter):
    """Writes a store of images. :meth:`begin` starts a split, :meth:`add` appends its classes one after the other.

    Attributes:
        manifest: of the published store.
    """

    manifest: Manifest

    def __init__(self, root: Path, *, name: str, image_shape: tuple[int, int, int], replace: bool = False) -> None:
        """Checks the place; nothing is written yet.

        Args:
            root: the store's folder.
            name: name of the data set.
            image_shape: (height, width, channels).
            replace: whether a store at ``root`` may be overwritten.

        Raises:
            DataError: if ``root`` exists and ``replace`` is False, or is not a store.
        """
        super().__init__(root, replace=replace)
        self.name = name
        self.image_shape = image_shape
        self._splits: dict[Split, SplitInfo] = {}
        self._taken: dict[str, Split] = {}
        self._file: _File | None = None
        self._schema: Any = pa.schema([("image", pa.binary(math.prod(image_shape))), ("class", pa.int32())])
        self.origin: dict[str, Any] = {}

    def begin(self, split: Split, classes: Iterable[str]) -> None:
        """Starts a split's file.

        Args:
            split: the split.
            classes: its class names, in the order in which they will be added.

        Raises:
            DataError: if a class name occurs twice in the split or is in another split already.
        """
        names = list(classes)
        for name in names:
            if name in self._taken:
                raise DataError(
                    f"expected splits without a common class, received '{name}' in {self._taken[name]} and {split}; "
                    "give every class to one split"
                )
            self._taken[name] = split
        schema = self._schema.with_metadata({"classes": json.dumps(names)})
        self._file = _File(split, schema, self._open(split, schema))

    def add(self, images: Pixels) -> None:
        """Appends the next class of the current split, uint8 [N, height, width, channels]."""
        assert self._file is not None, "begin a split first"
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise DataError(
                f"expected uint8 images of shape {self.image_shape}, received {images.dtype} of {images.shape[1:]}"
            )
        buffer = pa.py_buffer(np.ascontiguousarray(images))
        column = pa.FixedSizeBinaryArray.from_buffers(self._schema.field("image").type, len(images), [None, buffer])
        number = np.full(len(images), len(self._file.sizes), dtype=np.int32)
        self._file.writer.write_batch(pa.record_batch([column, pa.array(number)], schema=self._file.schema))
        self._file.sizes.append(len(images))

    def end(self) -> None:
        """Completes the current split and flushes its file to the disk."""
        assert self._file is not None, "begin a split first"
        written, self._file = self._file, None
        self._splits[written.split] = SplitInfo(
            **self._seal(),
            classes=len(written.sizes),
            images=sum(written.sizes),
            smallest=min(written.sizes, default=0),
        )

    def _describe(self) -> str:
        self.manifest = Manifest(
            schema=SCHEMA, name=self.name, image_shape=self.image_shape, origin=self.origin, splits=self._splits
        )
        return self.manifest.to_json()
