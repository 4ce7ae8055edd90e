"""Decoding the classes of a data set on several threads, in order, with counts of broken and unusual images."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from tasks.data.decode import DEEP, Found, decode_deep
from tasks.data.duplicates import Fingerprints
from tasks.data.errors import BrokenImage, DataError
from tasks.data.sources.base import RawClass, RawData
from tasks.data.spill import stacked
from tasks.data.store import Pixels
from tasks.family import SPLITS, Split

CHUNK = 32  # images per job
NAMED = 20  # broken images whose names are kept
DEPTHS = (8, 10, 12, 14, DEEP)  # bits that cameras and scanners give
DARK = 4  # upper bits that an image leaves empty when it comes out nearly black

Progress = Callable[[int, int], None]


class FewerBits(Exception):  # noqa: N818 - never leaves the preparation
    """All images of 16 bits use fewer; they have to be decoded again."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.bits = bits


class Depths:
    """Largest values of the images that have more than 8 bits per channel."""

    def __init__(self) -> None:
        self._most = -1
        self._dark: dict[int, tuple[int, str]] = {}  # by bits used: how many, and the first
        self._colour = ""

    def add(self, found: Found, where: str) -> None:
        """Records an image.

        Args:
            found: properties of the image.
            where: its name in messages.
        """
        if found.most < 0:
            return
        self._most = max(self._most, found.most)
        used = found.most.bit_length()
        count, first = self._dark.get(used, (0, where))
        self._dark[used] = (count + 1, first)
        if found.colour:
            self._colour = self._colour or where

    def checked(self, name: str, bits: int) -> list[str]:
        """Returns warnings after checking that the images were decoded with as many bits as they use.

        Args:
            name: name of the data set, for the message.
            bits: bits per channel that the images were decoded with.

        Raises:
            FewerBits: if all of them use fewer than ``bits``.
            DataError: the same, if there are colours, of which Pillow gives the upper 8 of 16 bits only.
        """
        if self._most < 0:
            return []
        needed = next(depth for depth in DEPTHS if self._most < 1 << depth)
        if needed < bits and self._colour:
            raise DataError(
                f"{name}: expected 16-bit colour images that use their upper bits, received such of {needed} bits, "
                f"which would come out dark, '{self._colour}' among them; scale them to 8 or 16 bits first"
            )
        if needed < bits:
            raise FewerBits(needed)
        dark = [images for used, images in sorted(self._dark.items()) if used <= bits - DARK]
        warnings = [f"the images of 16 bits use {bits} at most; these were scaled to 8"] if bits < DEEP else []
        if dark:
            warnings.append(
                f"{sum(count for count, _ in dark):,} images of 16 bits come out nearly black beside others of the "
                f"data set, which use {bits} bits; first: {dark[0][1]}"
            )
        return warnings


@dataclass(frozen=True)
class _Decoded:
    pixels: Pixels
    found: Found
    where: str


@dataclass
class _Job:
    """Images of one class that are being decoded; the last job of a class completes it."""

    result: "Future[list[_Decoded | BrokenImage]]"
    numbers: range
    last: bool


class Decoder:
    """Decodes classes on several threads, some jobs ahead, and yields them in order.

    Attributes:
        skipped: number of broken images left out.
        skipped_first: messages of the first of them.
        fingerprints: of every image.
        depths: of the images of more than 8 bits.
    """

    def __init__(
        self, raw: RawData, pool: ThreadPoolExecutor, *, bits: int, skip_broken: bool, progress: Progress | None
    ) -> None:
        self._raw, self._pool, self._bits = raw, pool, bits
        self._skip_broken, self._progress = skip_broken, progress
        self._total = sum(len(one.images) for classes in raw.classes.values() for one in classes)
        self._done = self._animated = 0
        self._first_animated = ""
        self.skipped = 0
        self.skipped_first: list[str] = []
        self.fingerprints = Fingerprints()
        self.depths = Depths()

    def classes(self, split: Split, ahead: int) -> Iterator[Pixels]:
        """Yields the pixels of each class of a split, uint8 [N, height, width, channels].

        Args:
            split: the split.
            ahead: jobs in progress at a time.
        """
        classes = self._raw.classes[split]
        jobs = self._completed((job for one in classes for job in self._jobs(one)), ahead)
        for number, one in enumerate(classes):
            images = self._images(jobs, SPLITS.index(split), number)
            pixels = stacked(images, len(one.images), self._raw.image_shape)
            if not len(pixels):
                raise DataError(f"{one.name}: expected images in every class, all of this one's are broken")
            yield pixels

    def frame_warnings(self) -> list[str]:
        """Returns a warning if there are images of several frames."""
        if not self._animated:
            return []
        return [
            f"{self._animated:,} images have several frames or pages, of which the first is used; "
            f"first: {self._first_animated}"
        ]

    def _jobs(self, one: RawClass) -> Iterator[_Job]:
        count = len(one.images)
        for start in range(0, count, CHUNK):
            numbers = range(start, min(start + CHUNK, count))
            yield _Job(self._pool.submit(self._decode, one, numbers), numbers, numbers.stop == count)

    def _completed(self, jobs: Iterator[_Job], ahead: int) -> Iterator[_Job]:
        """Yields jobs in order as they are done, with ``ahead`` of them in progress at a time."""
        waiting = deque(islice(jobs, ahead))
        while waiting:
            job = waiting.popleft()
            job.result.result()
            waiting.extend(islice(jobs, 1))
            self._done += len(job.numbers)
            if self._progress is not None:
                self._progress(self._done, self._total)
            yield job

    def _images(self, jobs: Iterator[_Job], split: int, number: int) -> Iterator[Pixels]:
        """The pixels of a class, image after image."""
        for job in jobs:
            for at, image in zip(job.numbers, job.result.result(), strict=True):
                if isinstance(image, BrokenImage):
                    self._skip(image)
                    continue
                self._note(image)
                self.fingerprints.add(split, number, at, image.pixels)
                yield image.pixels
            if job.last:
                return

    def _skip(self, image: BrokenImage) -> None:
        self.skipped += 1
        if len(self.skipped_first) < NAMED:
            self.skipped_first.append(str(image).partition("; replace it")[0])

    def _note(self, image: _Decoded) -> None:
        self.depths.add(image.found, image.where)
        if image.found.frames:
            self._animated += 1
            self._first_animated = self._first_animated or image.where

    def _decode(self, one: RawClass, numbers: range) -> "list[_Decoded | BrokenImage]":
        done: list[_Decoded | BrokenImage] = []
        for number in numbers:
            try:
                image = one.images[number]
                pixels, properties = decode_deep(image, self._raw.image_shape, self._raw.invert, self._bits)
                done.append(_Decoded(pixels, properties, image.where))
            except BrokenImage as error:
                if not self._skip_broken:
                    raise
                done.append(error.with_traceback(None))
        return done
