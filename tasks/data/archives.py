"""Safe unpacking of untrusted archives."""

import bz2
import errno
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Protocol

from tasks.data.checksums import verify
from tasks.data.errors import DataError
from tasks.data.limits import Limits, Meter

BLOCK = 1 << 20  # bytes read at a time, and the most that a header of a tar archive may have
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")


def is_archive(path: Path) -> bool:
    """Returns whether a path is a file with an archive's ending."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def stem(path: Path) -> str:
    """Returns an archive's name without its endings."""
    ending = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(ending)]


def extract(archive: Path, folder: Path, limits: Limits | None = None) -> None:
    """Unpacks a .zip or .tar archive into a folder. The caller removes the folder if this fails.

    Only plain files and folders are taken. The path of every entry is resolved and compared with the folder's before
    it is written, nothing is written over, and every byte is counted.

    Args:
        archive: the file.
        folder: a new or empty folder.
        limits: bounds on what comes out of it.

    Raises:
        DataError: if an entry is a link or a device, would land outside the folder or on another entry; if there is
            more in it than the limits allow; if the archive is damaged, or its checksum is wrong.
    """
    verify(archive)
    folder.mkdir(parents=True, exist_ok=True)
    meter = Meter(str(archive), archive.stat().st_size, limits or Limits())
    target = _Target(archive, folder)
    try:
        if _is_zip(archive):
            _extract_zip(archive, target, meter)
        else:
            _extract_tar(archive, target, meter)
    except DataError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of this machine's disk; the decompressors give no number
        raise _damaged(archive, " ".join(str(error).split())) from error  # tarfile tells its attempts one a line


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
_TAKEN = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_BAD_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


_READERS: dict[bytes, Callable[[IO[bytes]], _Source]] = {  # by the first bytes of a file
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class _Target:
    """The folder that an archive is unpacked in. Nothing is written outside it, and no file is overwritten."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive = archive
        self._root = folder.resolve()
        self._known = {self._root}

    def check(self, name: str) -> None:
        """Raise a DataError if a name leads out of a folder on any system."""
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.anchor or ".." in windows.parts:
            raise self._outside(name)

    def folder(self, name: str) -> None:
        """Make a folder and those above it."""
        self.check(name)
        self._make(self._root / name, name)

    def write(self, name: str, source: _Source) -> None:
        """Write a new file."""
        self.check(name)
        path = self._root / name
        self._make(path.parent, name)
        try:
            file = path.open("xb")  # follows no link
        except OSError as error:
            raise self._refused(error, name) from error
        with file:
            while block := source.read(BLOCK):
                file.write(block)

    def _make(self, folder: Path, name: str) -> None:
        if folder in self._known:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            resolved = folder.resolve(strict=True)
        except OSError as error:
            raise self._refused(error, name) from error
        if not resolved.is_relative_to(self._root):
            raise self._outside(name)
        self._known.add(folder)

    def _outside(self, name: str) -> DataError:
        return DataError(
            f"{self._archive}: expected entries inside the target, received '{name}', which leads out; {_ADVICE}"
        )

    def _refused(self, error: OSError, name: str) -> Exception:
        """Returns the error to raise for an operating system's error: a DataError if the entry is the cause."""
        if error.errno in _TAKEN:
            return DataError(
                f"{self._archive}: expected every path once, received '{name}' again or as both a file and a folder; "
                f"{_ADVICE}"
            )
        if error.errno in _BAD_NAME:
            return DataError(
                f"{self._archive}: expected names that this system takes, received '{name[:200]}' of {len(name)} "
                f"characters ({os.strerror(error.errno)}); unpack it by other means and name the folder"
            )
        return error


class _Metered(io.RawIOBase):
    """A stream that only goes forward and counts what is read."""

    def __init__(self, source: _Source, meter: Meter) -> None:
        super().__init__()
        self._source, self._meter = source, meter
        self._position = 0
        self.last = b""  # what was read last

    def read(self, size: int = -1, /) -> bytes:
        if not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header of {size} bytes, expected at most {BLOCK}")
        self.last = self._source.read(size)
        self._position += len(self.last)
        self._meter.add(len(self.last))
        return self.last

    def seek(self, position: int, whence: int = 0, /) -> int:
        if whence != 0 or position < self._position:
            raise tarfile.ReadError("an entry that begins before the end of the one before it")
        while self._position < position and self.read(min(BLOCK, position - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position


def _is_zip(archive: Path) -> bool:
    """Whether a file is a zip archive; a tar archive may hold one at its end, where zip archives have their mark."""
    with archive.open("rb") as stream:
        start = stream.read(512)
    return zipfile.is_zipfile(archive) and not start.startswith(tuple(_READERS)) and start[257:262] != b"ustar"


def _extract_zip(archive: Path, target: _Target, meter: Meter) -> None:
    with zipfile.ZipFile(archive) as file:
        for entry in file.infolist():  # all of them before the first is written
            meter.entry()
            for name in (entry.filename, entry.orig_filename):
                target.check(name)
            if (kind := stat.S_IFMT(entry.external_attr >> 16)) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(archive, "link" if kind == stat.S_IFLNK else "special file", entry.filename)
        for entry in file.infolist():
            if entry.is_dir():
                target.folder(entry.filename)
                continue
            with file.open(entry) as source:
                target.write(entry.filename, _Metered(source, meter))


def _extract_tar(archive: Path, target: _Target, meter: Meter) -> None:
    with archive.open("rb") as raw:
        start = raw.read(6)
        opened = next((opened for magic, opened in _READERS.items() if start.startswith(magic)), None)
        raw.seek(0)
        plain = raw if opened is None else opened(raw)
        stream = _Metered(plain, meter)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in _members(tar):
                meter.entry()
                target.check(member.name)
                if member.isdir():
                    target.folder(member.name)
                elif (file := _plain_file(archive, tar, member)) is not None:
                    target.write(member.name, file)
        _check_end(archive, stream)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Member after member; tarfile itself would keep all of them in memory."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined] # tarfile's documented attribute, missing in the stubs


_KINDS = {
    tarfile.SYMTYPE: "link",
    tarfile.LNKTYPE: "hard link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "pipe",
}


def _plain_file(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes] | None:
    if member.sparse is not None:
        raise _not_plain(archive, "file with holes", member.name)
    if member.type not in tarfile.REGULAR_TYPES:
        raise _not_plain(archive, _KINDS.get(member.type, f"entry of unknown kind {member.type!r}"), member.name)
    return tar.extractfile(member)


def _check_end(archive: Path, stream: _Metered) -> None:
    """Checks that tarfile has stopped at the end mark, and that only padding follows it.

    Reading to the end also compares the checksums that gzip and the others store there.
    """
    if len(stream.last) != tarfile.BLOCKSIZE or any(stream.last):
        raise _damaged(archive, "it has no end mark, or a damaged header in the middle")
    while rest := stream.read(BLOCK):
        if any(rest):
            raise _damaged(archive, "more data come after its end mark")


def _damaged(archive: Path, reason: str) -> DataError:
    return DataError(
        f"{archive}: expected a whole .zip or .tar archive without a password, cannot unpack it: {reason}; "
        "fetch it again"
    )


def _not_plain(archive: Path, kind: str, name: str) -> DataError:
    return DataError(f"{archive}: expected plain files inside the target, received the {kind} '{name}'; {_ADVICE}")
