"""Limits on the size of raw data when unpacked and decoded, so that a small file cannot fill memory or disk."""

from dataclasses import dataclass, fields

from tasks.data.errors import DataError

GIB = 1 << 30
FREE = 64 << 20  # bytes up to which no ratio is looked at
FREE_STORE = 1 << 30  # the same for the pixels of a store
ROW = 64  # bytes that a row of a table or an entry of an archive counts for beside its contents


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a preparation; each is an option ``--max-NAME`` of ``metaray data prepare``.

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
        """Checks that every limit is a positive number.

        Raises:
            DataError: if not.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise DataError(f"expected --max-{field.name} above 0, received {value}")

    def check_unpacked(self, where: str, unpacked: int, packed: int) -> None:
        """Compares bytes after unpacking with ``size`` and, relative to the file's own bytes, with ``ratio``.

        Args:
            where: name of the file, for the message.
            unpacked: bytes after unpacking.
            packed: bytes of the file.

        Raises:
            DataError: if a limit is exceeded.
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
        """Compares a number of files, entries or rows with ``files``.

        Args:
            where: the folder, archive or table, for the message.
            count: the number.

        Raises:
            DataError: if the limit is exceeded.
        """
        if count > self.files:
            raise DataError(
                f"{where}: expected at most {self.files:,} files or rows, received {count:,} or more; if the data "
                "are trusted, raise --max-files"
            )

    def check_memory(self, where: str, needed: int) -> None:
        """Compares the bytes that something will take in memory with ``memory``.

        Args:
            where: name of it, for the message.
            needed: bytes.

        Raises:
            DataError: if the limit is exceeded.
        """
        if needed > self.memory * GIB:
            raise DataError(
                f"{where}: expected at most {self.memory:g} GiB in memory, received contents that may take "
                f"{in_words(needed)}; do not trust this file, or raise --max-memory"
            )

    def check_store(self, where: str, pixels: int, raw: int | None) -> None:
        """Compares the bytes of a store's pixels with ``size`` and, relative to the raw data's bytes, with ``ratio``.

        Args:
            where: name of the store, for the message.
            pixels: bytes of all pixels.
            raw: bytes of the encoded images; None if they are not encoded.

        Raises:
            DataError: if a limit is exceeded.
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
    """Counts what is unpacked from one file and raises once a limit is exceeded."""

    def __init__(self, where: str, packed: int, limits: Limits) -> None:
        """Starts the counts at zero.

        Args:
            where: name of the file, for messages.
            packed: bytes of the file.
            limits: the limits.
        """
        self._where, self._packed, self._limits = where, packed, limits
        self._bytes = self._entries = 0

    def add(self, count: int) -> None:
        """Counts ``count`` bytes.

        Raises:
            DataError: if a limit is exceeded.
        """
        self._bytes += count
        self._limits.check_unpacked(self._where, self._bytes, self._packed)

    def entry(self) -> None:
        """Counts one entry or row.

        Raises:
            DataError: if a limit is exceeded.
        """
        self._entries += 1
        self._limits.check_files(self._where, self._entries)
        self.add(ROW)


def in_words(size: float) -> str:
    """Returns a number of bytes with its unit.

    >>> in_words(1400), in_words(3 << 30)
    ('1.4 KiB', '3 GiB')
    """
    unit = 0
    while size >= 1024 and unit < 4:
        size, unit = size / 1024, unit + 1
    return f"{round(size, 1):g} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}"
