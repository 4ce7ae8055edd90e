"""Stores on other machines: wherever ``pyarrow.fs`` reaches by URI (file://, s3://, gs://, hdfs://)."""

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from tasks.data.errors import DataError
from tasks.data.manifest import MANIFEST, Manifest

BLOCK = 1 << 22  # bytes copied at a time


def is_remote(root: str) -> bool:
    """Whether ``root`` is a URI and not a path."""
    return "://" in root


class RemoteStore:
    """A store by URI."""

    def __init__(self, root: str) -> None:
        """Reach the file system; the store need not exist.

        Raises:
            DataError: if the URI holds a password, or its file system cannot be reached.
        """
        if urlsplit(root).password is not None:
            raise DataError(
                "expected an address of a store without a password, received one with it; give credentials in the "
                "environment (AWS_ACCESS_KEY_ID, …)"
            )
        self.root = root
        self._fs: Any
        try:
            self._fs, self._path = fs.FileSystem.from_uri(root)
        except (ValueError, OSError, pa.ArrowException) as error:
            raise DataError(f"expected a folder or a URI that pyarrow.fs reads, received '{root}': {error}") from error

    def exists(self) -> bool:
        """Whether there is a store."""
        return bool(self._fs.get_file_info(self._at(MANIFEST)).is_file)

    def manifest(self) -> Manifest:
        """What the store says of itself.

        Raises:
            DataError: if there is none, or it cannot be read.
        """
        try:
            with self._fs.open_input_stream(self._at(MANIFEST)) as stream:
                text = stream.read().decode()
        except FileNotFoundError as error:
            raise DataError(
                f"expected an image store at '{self.root}', found none; make one with: metaray data prepare NAME "
                f"--source SOURCE --root {self.root}"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected an image store at '{self.root}', cannot read it: {error}") from error
        return Manifest.from_json(text, f"{self.root}/{MANIFEST}")

    def download(self, folder: Path, manifest: Manifest) -> None:
        """Copy the store into a new folder and check every file.

        Raises:
            DataError: if a file has another checksum than the manifest says.
            OSError: if a file cannot be read or written.
        """
        folder.mkdir()
        for info in manifest.splits.values():
            digest = hashlib.sha256()
            with self._fs.open_input_stream(self._at(info.file)) as source, (folder / info.file).open("wb") as copy:
                while block := source.read(BLOCK):
                    digest.update(block)
                    copy.write(block)
            if digest.hexdigest() != info.sha256:
                raise DataError(
                    f"{self.root}/{info.file}: expected SHA-256 {info.sha256}, received {digest.hexdigest()}; "
                    "prepare the data again"
                )
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")

    def upload(self, folder: Path, manifest: Manifest) -> None:
        """Copy a local store here, the manifest last: without it there is no store. On failure nothing stays."""
        self._fs.create_dir(self._path, recursive=True)
        names = [info.file for info in manifest.splits.values()]
        self._delete(MANIFEST)
        try:
            for name in (*names, MANIFEST):
                with (folder / name).open("rb") as source, self._fs.open_output_stream(self._at(name)) as copy:
                    while block := source.read(BLOCK):
                        copy.write(block)
        except BaseException:
            for name in (MANIFEST, *names):
                self._delete(name)
            raise

    def _delete(self, name: str) -> None:
        if self._fs.get_file_info(self._at(name)).is_file:
            self._fs.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"
