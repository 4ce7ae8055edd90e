"""Local files that are whole after a crash, or as they were before."""

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside its place, bring it to the disk, and only then give it its name.

    Its folder is made if it is not there. The permissions are those that the process gives new files.

    Args:
        path: the file.
        data: the contents.

    Raises:
        OSError: if it cannot be written; the temporary file is removed, an older one stays as it was.
    """
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the error above says more
            partial.unlink(missing_ok=True)
        raise
    # The rename is on the disk when the folder is.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
