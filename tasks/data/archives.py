"""Unpacking archives that somebody else has made."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tasks.data.checksums import verify
from tasks.data.errors import DataError

BLOCK = 1 << 20  # bytes read at a time
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def is_archive(path: Path) -> bool:
    """Whether a file's name is that of an archive."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def stem(path: Path) -> str:
    """An archive's name without its endings."""
    ending = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]


def extract(archive: Path, folder: Path) -> None:
    """Unpack a .zip or .tar archive into a folder. The caller removes the folder if this fails.

    Raises:
        DataError: if an entry would land outside the folder, the archive is damaged, or its checksum is wrong.
    """
    verify(archive)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if zipfile.is_zipfile(archive):
            _extract_zip(archive, folder)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter=lambda member, target: _checked(archive, member, target))
                # tarfile stops at the end mark; the checksum that gzip and the others keep comes after it.
                while tar.fileobj is not None and tar.fileobj.read(BLOCK):
                    pass
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: expected plain files inside the target, received {error}; {_ADVICE}") from error
    except DataError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine's disk; the decompressors give no number
        reason = " ".join(str(error).split())  # tarfile tells its attempts one a line
        raise DataError(
            f"{archive}: expected a whole .zip or .tar archive without a password, cannot unpack it: {reason}; "
            "fetch it again"
        ) from error


_DAMAGED = (  # among them gzip.BadGzipFile, an OSError, and what bytes that are no text give, a ValueError
    tarfile.TarError,
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
_ADVICE = "nothing of it was kept, do not trust this archive"


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():  # all of them before the first is written
            if _leaves(entry.filename) or _leaves(entry.orig_filename):
                raise _outside(archive, entry.orig_filename)
            if stat.S_ISLNK(entry.external_attr >> 16):
                raise DataError(f"{archive}: expected plain files, received the link '{entry.filename}'; {_ADVICE}")
        file.extractall(folder)


def _checked(archive: Path, member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    # The standard filter would make an absolute name a relative one and go on.
    if _leaves(member.name):
        raise _outside(archive, member.name)
    return tarfile.data_filter(member, target)


def _leaves(name: str) -> bool:
    """Whether a name leads out of the folder it is unpacked in, on any system."""
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    return posix.is_absolute() or bool(windows.anchor) or ".." in windows.parts


def _outside(archive: Path, name: str) -> DataError:
    return DataError(f"{archive}: expected entries inside the target, received '{name}', which leads out; {_ADVICE}")
