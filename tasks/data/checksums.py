"""Verification of files against checksums stored beside them."""

import hashlib
import re
from pathlib import Path

from tasks.data.errors import DataError

LISTS = ("SHA256SUMS", "CHECKSUMS", "sha256sums.txt")  # lines of «checksum  file name»
_LINE = re.compile(r"\\?([0-9a-fA-F]{64})(?:\s+\*?(.+))?")
_TAGGED = re.compile(r"SHA(?:2-)?256 ?\((.+)\) ?= ?([0-9a-fA-F]{64})")  # as BSD's tools and openssl write it


def verify(path: Path) -> None:
    """Compares a file with the SHA-256 that ``FILE.sha256`` or a list in its folder states, if one does.

    Raises:
        DataError: if the file's checksum is another, or ``FILE.sha256`` exists and states none.
    """
    expected = _stated(path)
    if expected:
        with path.open("rb") as stream:
            received = hashlib.file_digest(stream, "sha256").hexdigest()
        if received not in expected:
            compare(path, "SHA-256", " or ".join(sorted(expected)), received)


def verify_md5(path: Path, expected: str) -> None:
    """Compares a file with the MD5 that its publisher states.

    Args:
        path: the file.
        expected: the MD5, in hexadecimal.

    Raises:
        DataError: if the file's MD5 is another.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    compare(path, "MD5", expected, digest)


def compare(path: Path, kind: str, expected: str, received: str) -> None:
    """Compares two checksums.

    Args:
        path: the file, for the message.
        kind: name of the checksum, for the message.
        expected: in hexadecimal.
        received: in hexadecimal.

    Raises:
        DataError: if they differ.
    """
    if received != expected:
        raise DataError(f"{path}: expected {kind} {expected}, received {received}; download the file again")


def _stated(path: Path) -> set[str]:
    """Returns the checksums stated for the file: none, or several if a list has files of the same name."""
    own = path.with_name(path.name + ".sha256")
    if own.is_file():
        lines = _lines(own)
        stated = _named(path, lines) or {checksum for checksum, _ in lines}
        if len(stated) != 1:
            raise DataError(
                f"{own}: expected the SHA-256 of '{path.name}', 64 hexadecimal digits, received "
                f"{len(stated) or 'none'}; write it anew (sha256sum {path.name} > {own.name}), or remove it"
            )
        return stated
    lists = (path.with_name(name) for name in LISTS)
    return next((stated for one in lists if one.is_file() and (stated := _named(path, _lines(one)))), set())


def _named(path: Path, lines: list[tuple[str, str]]) -> set[str]:
    """Returns the checksums of lines that name the file: with the list's own folder, or else with any folder."""
    exact = {checksum for checksum, name in lines if name.removeprefix("./") == path.name}
    return exact or {checksum for checksum, name in lines if re.split(r"[/\\]", name)[-1] == path.name}


def _lines(listing: Path) -> list[tuple[str, str]]:
    """Returns checksum and name of every line that has a checksum; the name may be empty."""
    entries = []
    for line in listing.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if plain := _LINE.fullmatch(line.strip()):
            entries.append((plain[1].lower(), plain[2] or ""))
        elif tagged := _TAGGED.fullmatch(line.strip()):
            entries.append((tagged[2].lower(), tagged[1]))
    return entries
