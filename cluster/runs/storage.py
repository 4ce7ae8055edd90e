"""Files that are whole or absent, in a local folder or wherever ``pyarrow.fs`` reaches (s3://, gs://, hdfs://)."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyarrow import fs

from cluster.errors import CheckpointError, MetarayError
from meta.engine.files import write_whole

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota, or limit of a file's size


class Store:
    """A folder of files that are written once and never half."""

    def __init__(self, root: str) -> None:
        """Open a folder by path or URI; it need not exist yet.

        Raises:
            CheckpointError: if the URI's scheme is unknown or its file system cannot be reached.
        """
        self.root = root
        self._fs: Any = fs.LocalFileSystem()
        self._path = str(Path(root).absolute())
        try:
            if "://" in root:
                self._fs, self._path = fs.FileSystem.from_uri(root)
        except (ValueError, OSError) as error:
            raise CheckpointError(
                f"expected a folder or a URI that pyarrow.fs reads, received '{root}': {error}"
            ) from error
        self._local = isinstance(self._fs, fs.LocalFileSystem)

    def where(self, name: str) -> str:
        """The path or URI of a file, for messages."""
        return f"{self.root.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Write a file under a temporary name, bring it to the disk, and only then give it its name.

        Args:
            name: file name in the store.
            data: the contents.
        """
        if self._local:
            write_file(Path(self._path) / name, data)
            return
        # Object stores publish an upload when it is closed; other file systems need the rename.
        direct = self._fs.type_name in {"s3", "gcs", "abfs"}
        target = f"{self._path}/{name}"
        with room_for(self.where(name)):
            self._fs.create_dir(self._path, recursive=True)
            with self._fs.open_output_stream(target if direct else target + ".partial") as stream:
                stream.write(data)
            if not direct:
                self._fs.move(target + ".partial", target)

    def read(self, name: str) -> bytes:
        """The contents of a file.

        Raises:
            FileNotFoundError: if there is none of that name.
        """
        with self._fs.open_input_stream(f"{self._path}/{name}") as stream:
            data: bytes = stream.read()
        return data

    def names(self) -> list[str]:
        """Names of the files, sorted; temporary ones left out."""
        selector: Any = fs.FileSelector(self._path, allow_not_found=True)
        files = [info.base_name for info in self._fs.get_file_info(selector) if info.is_file]
        return sorted(name for name in files if not name.endswith(".partial"))

    def delete(self, name: str) -> None:
        """Remove a file."""
        self._fs.delete_file(f"{self._path}/{name}")


@contextlib.contextmanager
def room_for(path: Path | str) -> Iterator[None]:
    """Name the file, and what to do, if writing it fails for want of room.

    Raises:
        MetarayError: if the disk or the user's share of it is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise MetarayError(
            f"{path}: expected room to write this file, received: {error.strerror}; free some on its disk, or give "
            "another folder (checkpoint.root for runs), and go on with --resume"
        ) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a local file so that after a crash it is there whole, or as it was before.

    Args:
        path: the file.
        data: the contents.

    Raises:
        MetarayError: if the disk or the user's share of it is full.
    """
    with room_for(path):
        write_whole(path, data)
