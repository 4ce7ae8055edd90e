"""Bounds on what raw data grows to while it is unpacked and decoded: a small file must not fill memory or disk."""

from dataclasses import dataclass, fields

from tasks.data.errors import DataError

GIB = 1 << 30
FREE = 64 << 20  # bytes up to which no ratio is looked at
FREE_STORE = 1 << 30  # the same for the pixels of a store
ROW = 64  # bytes that a row of a table or an entry of an archive counts for beside its contents


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds; each is an option ``--max-NAME`` of ``metaray data prepare``.

    Attributes:
        size: GiB of everything that is unpacked from one file, and of the pixels of the store.
        ratio: how many times larger than its file something is when unpacked, beyond the first 64 MiB; the same
            for the store's pixels and the raw data, beyond the first GiB.
        files: entries of an archive, files below a folder, rows of all tables.
        pixels: pixels of one encoded image.
        memory: GiB that one pickle or array, or all images that are being decoded, take in memory.
    """

    size: float = 256.0
    ratio: float = 200.0
    files: int = 4_000_000
    pixels: int = 89_478_485
    memory: float = 4.0

    def __post_init__(self) -> None:
        """Check that every bound is a positive number.

        Raises:
            DataError: if not.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise DataError(f"expected --max-{field.name} above 0, received {value}")

    def check_unpacked(self, where: str, unpacked: int, packed: int) -> None:
        """Compare bytes after unpacking with ``size`` and, with the file's own bytes, with ``ratio``.

        Raises:
            DataError: if there are more.
        """
        if unpacked > self.size * GIB:
            raise DataError(
                f"{where}: expected at most {self.size:g} GiB when unpacked, received more; if the data are trusted, "
                "raise --max-size"
            )
        if unpacked > max(FREE, self.ratio * packed):
            raise DataError(
                f"{where}: expected data that grow at most {self.ratio:g} times when unpacked, received "
                f"{in_words(unpacked)} or more from {in_words(packed)}; do not trust this file, or raise --max-ratio"
            )

    def check_files(self, where: str, count: int) -> None:
        """Compare a number of files, entries or rows with ``files``.

        Raises:
            DataError: if there are more.
        """
        if count > self.files:
            raise DataError(
                f"{where}: expected at most {self.files:,} files or rows, received {count:,} or more; if the data "
                "are trusted, raise --max-files"
            )

    def check_memory(self, where: str, needed: int) -> None:
        """Compare the bytes that something will take in memory with ``memory``.

        Raises:
            DataError: if there are more.
        """
        if needed > self.memory * GIB:
            raise DataError(
                f"{where}: expected at most {self.memory:g} GiB in memory, received contents that may take "
                f"{in_words(needed)}; do not trust this file, or raise --max-memory"
            )

    def check_store(self, where: str, pixels: int, raw: int | None) -> None:
        """Compare the bytes of a store's pixels with ``size`` and, with the raw data's bytes, with ``ratio``.

        Raises:
            DataError: if there are more.
        """
        if pixels > self.size * GIB:
            raise DataError(
                f"{where}: expected a store of at most {self.size:g} GiB, the images would take {in_words(pixels)}; "
                "lower --size, or raise --max-size"
            )
        if raw is not None and pixels > max(FREE_STORE, self.ratio * raw):
            raise DataError(
                f"{where}: expected a store at most {self.ratio:g} times as large as the raw data, the images would "
                f"take {in_words(pixels)} from {in_words(raw)}; lower --size, or raise --max-ratio"
            )


class Meter:
    """Counts what comes out of one file and stops it at the limits."""

    def __init__(self, where: str, packed: int, limits: Limits) -> None:
        """``packed`` is the file's own size in bytes; ``where`` names it in messages."""
        self._where, self._packed, self._limits = where, packed, limits
        self._bytes = self._entries = 0

    def add(self, count: int) -> None:
        """Count so many bytes.

        Raises:
            DataError: if there are too many now.
        """
        self._bytes += count
        self._limits.check_unpacked(self._where, self._bytes, self._packed)

    def entry(self) -> None:
        """Count one entry or row.

        Raises:
            DataError: if there are too many now.
        """
        self._entries += 1
        self._limits.check_files(self._where, self._entries)
        self.add(ROW)


def in_words(size: float) -> str:
    """A number of bytes with its unit.

    >>> in_words(1400), in_words(3 << 30)
    ('1.4 KiB', '3 GiB')
    """
    unit = 0
    while size >= 1024 and unit < 4:
        size, unit = size / 1024, unit + 1
    return f"{round(size, 1):g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"
