"""Checksums that lie beside downloaded files."""

import hashlib
from pathlib import Path

from tasks.data.errors import DataError

LISTS = ("SHA256SUMS", "CHECKSUMS", "sha256sums.txt")  # lines of «checksum  file name»


def verify(path: Path) -> None:
    """Compare a file with the SHA-256 that ``FILE.sha256`` or a list in its folder gives for it, if one does.

    Raises:
        DataError: if it has another one.
    """
    expected = _stated(path)
    if expected is not None:
        with path.open("rb") as stream:
            compare(path, "SHA-256", expected, hashlib.file_digest(stream, "sha256").hexdigest())


def verify_md5(path: Path, expected: str) -> None:
    """Compare a file with the MD5 that its publisher states.

    Raises:
        DataError: if it has another one.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    compare(path, "MD5", expected, digest)


def compare(path: Path, kind: str, expected: str, received: str) -> None:
    """Raise a DataError if two checksums differ."""
    if received != expected:
        raise DataError(f"{path}: expected {kind} {expected}, received {received}; download the file again")


def _stated(path: Path) -> str | None:
    for listing in (path.with_name(path.name + ".sha256"), *(path.with_name(name) for name in LISTS)):
        if not listing.is_file():
            continue
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            checksum, _, name = line.strip().partition(" ")
            if len(checksum) == 64 and name.strip().lstrip("*") in (path.name, f"./{path.name}", ""):
                return checksum.lower()
    return None
