"""Stores on remote file systems that ``pyarrow.fs`` reaches by URI (file://, s3://, gs://, hdfs://)."""

import hashlib
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from tasks.data.errors import DataError
from tasks.data.manifest import MANIFEST, StoredFile
from tasks.data.tables.manifest import AnyManifest, any_manifest
from tasks.family import SPLITS
from tasks.secrets import has_secret

BLOCK = 1 << 22  # bytes copied at a time
MANIFEST_NEW = f"{MANIFEST}.new"
_OURS = re.compile(rf"({'|'.join(SPLITS)})(-[0-9a-f]{{12}})?\.arrow")

_SAFE = re.compile(r"([a-z][a-z0-9+.-]*://)(?:[^/?#:@]*@)?([a-z0-9._-]*)(?=[/?#:]|$)", re.I)


def is_remote(root: str) -> bool:
    """Returns whether ``root`` is a URI and not a path."""
    return "://" in root


class RemoteStore:
    """A store by URI."""

    def __init__(self, root: str) -> None:
        """Connects to the file system; the store need not exist.

        Raises:
            DataError: if the URI holds a password or another secret, or its file system cannot be reached. The
                message names no more of it than its scheme and host.
        """
        safe = _SAFE.match(root)
        if has_secret(root):
            raise DataError(
                "expected an address of a store without a password, key or token (and no ':' before an '@'), received "
                f"one with it at '{safe[1] if safe else ''}…'; give credentials in the environment "
                "(AWS_ACCESS_KEY_ID, …)"
            )
        self.root = root
        self._fs: Any
        try:
            self._fs, self._path = fs.FileSystem.from_uri(root)
        except (ValueError, OSError, pa.ArrowException):  # whose message may repeat what was meant to stay secret
            raise DataError(
                "expected a folder or a URI that pyarrow.fs reads (file://, s3://, gs://, hdfs://, …), received one "
                f"at '{''.join(safe.groups()) if safe else '…'}' that it cannot; check the address, its parameters "
                "and the connection"
            ) from None

    def exists(self) -> bool:
        """Returns whether there is a store."""
        return bool(self._fs.get_file_info(self._at(MANIFEST)).is_file)

    def manifest(self) -> AnyManifest:
        """Returns the store's manifest.

        Raises:
            DataError: if there is none, or it cannot be read.
        """
        try:
            with self._fs.open_input_stream(self._at(MANIFEST)) as stream:
                text = stream.read().decode()
        except FileNotFoundError as error:
            raise DataError(
                f"expected a store at '{self.root}', found none; make one with: metaray data prepare NAME "
                f"--source SOURCE --root {self.root}"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"expected a store at '{self.root}', cannot read it: {error}") from error
        return any_manifest(text, f"{self.root}/{MANIFEST}")

    def download(self, folder: Path, manifest: AnyManifest) -> None:
        """Copies the store into a new folder and checks every file.

        Args:
            folder: the new folder.
            manifest: the store's manifest.

        Raises:
            DataError: if a file has another checksum than the manifest says, or does not exist.
            OSError: if a file cannot be read or written.
        """
        folder.mkdir()
        for info in manifest.splits.values():
            with (folder / info.file).open("wb") as copy:
                self._check(info, copy.write)
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")

    def verify(self, manifest: AnyManifest) -> None:
        """Reads every file and compares its checksum with the manifest's.

        Raises:
            DataError: if a file has another one, or does not exist.
        """
        for info in manifest.splits.values():
            self._check(info, len)

    def check_place(self, *, replace: bool) -> None:
        """Checks that a store may be written here.

        Raises:
            DataError: if there is a store already and ``replace`` is False, or something else.
        """
        if self.exists():
            if not replace:
                raise DataError(
                    f"there is a store at '{self.root}' already; add --replace to write it anew, or name another"
                )
        elif entries := self._entries(self._path):
            names = ", ".join(sorted(info.base_name for info in entries)[:3]) + (" …" if len(entries) > 3 else "")
            raise DataError(
                f"expected a new folder for the store, '{self.root}' holds something else ({names}); name another "
                "one, or remove what an upload that was killed has left there"
            )

    def upload(self, folder: Path, manifest: AnyManifest, *, replace: bool = False) -> None:
        """Copies a local store here, the manifest last: without it there is no store. On failure the copy is removed.

        A store that is replaced keeps its manifest and files until the new ones exist under other names, so that
        it is as before if anything fails.

        Args:
            folder: the local store.
            manifest: its manifest.
            replace: whether a store here may be overwritten.

        Raises:
            DataError: as :meth:`check_place`.
        """
        self.check_place(replace=replace)
        new = manifest
        if replace and self.exists():
            new = manifest.with_files({split: f"{split}-{uuid.uuid4().hex[:12]}.arrow" for split in manifest.splits})
        there = {info.base_name for info in self._entries(self._path)}
        made = [
            (manifest.splits[split].file, info.file) for split, info in new.splits.items() if info.file not in there
        ]
        with self._nothing_left((MANIFEST_NEW, *(name for _, name in made), *({MANIFEST} - there))):
            self._fs.create_dir(self._path, recursive=True)
            for name, far in made:
                with (folder / name).open("rb") as source, self._fs.open_output_stream(self._at(far)) as copy:
                    while block := source.read(BLOCK):
                        copy.write(block)
            with self._fs.open_output_stream(self._at(MANIFEST_NEW)) as copy:
                copy.write(new.to_json().encode())
            self._fs.move(self._at(MANIFEST_NEW), self._at(MANIFEST))
        kept = {info.file for info in new.splits.values()}
        for name in there - kept:
            if _OURS.fullmatch(name):  # of the store before, or of an upload that was killed
                self._delete(name)

    @contextmanager
    def _nothing_left(self, names: tuple[str, ...]) -> Iterator[None]:
        """Removes files, and folders that did not exist before, if the block fails."""
        path, missing = self._path.rstrip("/"), []
        while path and self._fs.get_file_info(path).type == fs.FileType.NotFound:
            missing.append(path)
            path = path.rpartition("/")[0]
        try:
            yield
        except BaseException:
            with suppress(OSError):  # what went wrong first is the better message
                for name in names:
                    self._delete(name)
                for made in missing:
                    if self._fs.get_file_info(made).type == fs.FileType.Directory and not self._entries(made):
                        self._fs.delete_dir(made)
            raise

    def _entries(self, path: str) -> list[Any]:
        """Returns the entries of a folder, or the file at its path."""
        info = self._fs.get_file_info(path)
        return [info] if info.is_file else self._fs.get_file_info(fs.FileSelector(path, allow_not_found=True))

    def _check(self, info: StoredFile, take: Callable[[bytes], object]) -> None:
        """Reads a split's file, passes each block to ``take``, and compares the checksum."""
        digest = hashlib.sha256()
        try:
            source = self._fs.open_input_stream(self._at(info.file))
        except FileNotFoundError as error:
            raise DataError(f"{self.root}/{info.file}: expected a split's file; prepare the data again") from error
        with source:
            while block := source.read(BLOCK):
                digest.update(block)
                take(block)
        info.check(digest.hexdigest(), f"{self.root}/{info.file}")

    def _delete(self, name: str) -> None:
        if self._fs.get_file_info(self._at(name)).is_file:
            self._fs.delete_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"
