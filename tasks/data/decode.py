"""From an encoded image to pixels of the store's shape."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tasks.data.errors import BrokenImage
from tasks.data.sources.base import RawImage
from tasks.data.store import Pixels

# Only plain pictures: some of Pillow's other readers start programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
BOMB = Image.DecompressionBombWarning


def decode(image: RawImage, shape: tuple[int, int, int], invert: bool) -> Pixels:
    """Pixels [height, width, channels] of one image: turned as its EXIF data says, on white where transparent.

    Args:
        image: an encoded image or pixels.
        shape: (height, width, channels) to bring it to; Lanczos where the size differs.
        invert: give 255 - value.

    Raises:
        BrokenImage: if it is not an image, is cut short, or has more pixels than Pillow takes for an honest one.
        OSError: if its file cannot be read.
    """
    height, width, channels = shape
    mode = "L" if channels == 1 else "RGB"
    data = image.data.read_bytes() if isinstance(image.data, Path) else image.data
    picture = _opened(data, mode, image.where) if isinstance(data, bytes) else Image.fromarray(data).convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.asarray(picture).reshape(shape)
    return 255 - pixels if invert else pixels


def _opened(data: bytes, mode: str, where: str) -> Image.Image:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as file:
            if file.width * file.height > (Image.MAX_IMAGE_PIXELS or float("inf")):
                raise ValueError(f"{file.width} × {file.height} pixels are too many")
            picture: Image.Image = file
            picture.load()
            if "exif" in file.info:
                picture = ImageOps.exif_transpose(picture)
            return _plain(picture, mode)
    except Exception as error:  # Pillow's readers raise whatever their parsers meet
        raise BrokenImage(
            f"{where}: expected an image, received one that cannot be read ({_reason(error, data)}); "
            "replace it, or add --skip-broken to go on without it"
        ) from error


def _plain(picture: Image.Image, mode: str) -> Image.Image:
    """In grey or RGB, with 8 bits per channel."""
    if picture.mode.startswith("I;16"):  # conversion to grey would clip at 255
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert(mode)
    if picture.mode in ("I", "F"):
        raise ValueError(f"8 or 16 bits per channel are expected, mode '{picture.mode}' has 32")
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return picture.convert(mode)


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "it is empty"
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    return str(error)
