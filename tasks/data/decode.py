"""Decoding of one image to pixels of the store's shape."""

import errno
import io
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.data.errors import BrokenImage
from tasks.data.limits import GIB, Limits, in_words
from tasks.data.sources.base import RawImage
from tasks.data.store import Pixels

# Only plain pictures: some of Pillow's other readers start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
Image.init()
SUFFIXES = tuple(sorted(end for end, form in Image.registered_extensions().items() if form in FORMATS))

LARGEST = 1 << 30  # bytes of an encoded image
DEEP = 16  # bits that a channel of an image has at most
PER_PIXEL = 12  # bytes in memory while an image is decoded, turned and brought to grey or RGB
_UNREADABLE = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO}
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Properties of one image that decoding reveals beside the pixels.

    Attributes:
        most: the largest value of an image of more than 8 bits per channel; -1 for others.
        colour: whether such an image has colours, of which Pillow gives the upper 8 bits only.
        frames: whether it has further frames, which are not used.
    """

    most: int = -1
    colour: bool = False
    frames: bool = False


class _Room:
    """Memory for the images that are being decoded; a thread waits until there is enough for its image."""

    def __init__(self) -> None:
        self._free = self._all = int(Limits().memory * GIB)
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Waits for ``size`` bytes; an image that would need more than the total waits for all of it."""
        size = min(size, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()

    def resize(self, size: int) -> None:
        """Sets the total in bytes, while no image is being decoded."""
        self._free = self._all = size


_room = _Room()


@contextmanager
def bounded(limits: Limits) -> Iterator[None]:
    """Decodes within bounds on pixels and memory; one preparation at a time in a process.

    Pillow's own bound on pixels is one number for the process, so several threads must not enter the block at once.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, limits.pixels
    _room.resize(int(limits.memory * GIB))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
        _room.resize(int(Limits().memory * GIB))


def decode(image: RawImage, shape: tuple[int, int, int], invert: bool) -> Pixels:
    """Returns pixels uint8 [height, width, channels] of one image; see :func:`decode_deep`.

    Args:
        image: an encoded image or pixels.
        shape: (height, width, channels) of the result.
        invert: return 255 - value.
    """
    return decode_deep(image, shape, invert, DEEP)[0]


def decode_deep(image: RawImage, shape: tuple[int, int, int], invert: bool, bits: int) -> tuple[Pixels, Found]:
    """Returns pixels uint8 [height, width, channels] of one image and its properties.

    The image is rotated as its EXIF data says, and transparent pixels are laid on white.

    Args:
        image: an encoded image or pixels. Of several frames the first is used.
        shape: (height, width, channels) of the result; Lanczos where the size differs.
        invert: return 255 - value.
        bits: bits that a grey image of 16 bits per pixel really uses; the upper 8 of these are taken.

    Raises:
        BrokenImage: if it is not an image, is cut short, has too many pixels, or its file cannot be read.
        OSError: if the disk that it lies on fails.
    """
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    data, properties = image.data, Found()
    if isinstance(data, Path):
        data = _read(data, image.where)
    if isinstance(data, bytes):
        picture, properties = _opened(data, mode, image.where, (width, height), bits)
    else:
        picture = _resized(Image.fromarray(data).convert(mode), (width, height))
    pixels = np.asarray(picture).reshape(shape)
    return (255 - pixels if invert else pixels), properties


def _read(path: Path, where: str) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe does not keep us waiting
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _broken(where, "it is a folder, pipe or device")
            if status.st_size > LARGEST:
                raise _broken(where, f"a file of {in_words(status.st_size)}, expected at most {in_words(LARGEST)}")
            return file.read()
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        target = f"a link to '{path.readlink()}'; " if path.is_symlink() else ""
        raise _broken(where, f"{target}{os.strerror(error.errno or 0)}") from error


def _opened(data: bytes, mode: str, where: str, size: tuple[int, int], bits: int) -> tuple[Image.Image, Found]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            pixels = file.width * file.height
            if pixels > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise ValueError(f"{file.width} × {file.height} pixels are more than --max-pixels")
            frames = file.format != "MPO" and bool(getattr(file, "is_animated", False))
            colour = _sixteen_bit_colour(file, data)
            picture: Image.Image = file
            with _room.taken(PER_PIXEL * pixels):
                picture.load()
                if "exif" in file.info:
                    picture = ImageOps.exif_transpose(picture)
                upper = _most(picture) if colour else -1
                picture, most = _plain(picture, mode, bits)
                most = upper << 8 | 0xFF if colour else most
                return _resized(picture, size), Found(most=most, colour=colour, frames=frames)
    except Exception as error:  # Pillow's readers raise whatever their parsers meet
        raise _broken(where, _reason(error, data)) from error


def _broken(where: str, reason: str) -> BrokenImage:
    return BrokenImage(
        f"{where}: expected an image, received one that cannot be read ({reason}); "
        "replace it, or add --skip-broken to go on without it"
    )


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _sixteen_bit_colour(file: Image.Image, data: bytes) -> bool:
    """Returns whether an image has 16 bits for each of several channels."""
    if file.format == "PNG":
        return data[24] == DEEP and data[25] != 0  # bits and kind of colour, of the first block
    if file.format == "TIFF":
        depths = file.tag_v2.get(258, ())  # type: ignore[attr-defined] # bits of each channel
        return isinstance(depths, tuple) and len(depths) > 1 and max(depths) == DEEP
    return False


def _most(picture: Image.Image) -> int:
    """The largest value of any channel but the opacity."""
    extrema = dict(zip(picture.getbands(), np.reshape(picture.getextrema(), (-1, 2)).tolist(), strict=True))
    return max(int(high) for band, (_, high) in extrema.items() if band != "A")


def _plain(picture: Image.Image, mode: str, bits: int) -> tuple[Image.Image, int]:
    """Converts to grey or RGB with 8 bits per channel.

    Also returns the largest value of a grey image that had more bits, else -1.
    """
    deep = picture.mode.startswith("I;16")
    if deep or (picture.mode == "I" and picture.format == "PPM"):  # conversion to grey would clip at 255
        values = np.asarray(picture)
        scaled = np.minimum(values >> (bits - 8), 255).astype(np.uint8)
        return Image.fromarray(scaled).convert(mode), int(values.max(initial=0))
    if picture.mode in ("I", "F"):
        raise ValueError(f"8 or 16 bits per channel are expected, mode '{picture.mode}' has 32")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return picture.convert(mode), -1


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"{error} The limit is --max-pixels"
    return str(error)
