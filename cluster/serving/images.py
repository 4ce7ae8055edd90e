"""Image files as parts of a form: PNG or JPEG, brought to the pixels that the model takes as its training data were."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from python_multipart.multipart import MultipartParser, parse_options_header

from cluster.registry.fields import Field, ImageFiles
from tasks.data.decode import decode
from tasks.data.errors import BrokenImage
from tasks.data.sources.base import RawImage

PARTS = 4096  # of a form
LINE = 1000  # letters of a part's header
LARGEST = 2**24  # pixels of one image as it is sent: 16.8 million
PIXELS_PER_BYTE = 4  # pixels of all images as they are sent, at most, for each byte that a body may have
SCANS = 100  # of a JPEG file: each goes over all pixels again
FORMATS = ("PNG", "JPEG")

Parts = Mapping[str, Sequence[bytes]]


class _Form:
    """Receives a form's parts from the parser."""

    def __init__(self) -> None:
        self.parts: dict[str, list[bytes]] = {}
        self._count = 0
        self._header, self._value, self._disposition = b"", b"", b""
        self._data: list[bytes] = []
        self.ended = False

    def callbacks(self) -> Any:
        """By the parser's names for them."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._add("_header", data[start:end]),
            "on_header_value": lambda data, start, end: self._add("_value", data[start:end]),
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._count += 1
        if self._count > PARTS:
            raise ValueError(f"body: expected at most {PARTS} parts, received more; ask in several requests")
        self._header, self._value, self._disposition, self._data = b"", b"", b"", []

    def _add(self, name: str, more: bytes) -> None:
        setattr(self, name, getattr(self, name) + more)

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header, self._value = b"", b""

    def _end(self) -> None:
        kind, options = parse_options_header(self._disposition.decode("latin-1"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if kind != b"form-data" or not name:
            raise ValueError("body: expected parts with Content-Disposition: form-data and a name, received another")
        self.parts.setdefault(name, []).append(b"".join(self._data))

    def _finish(self) -> None:
        self.ended = True


def parts(body: bytes, content_type: str) -> dict[str, list[bytes]]:
    """The parts of a multipart form by name; parts of one name are in order.

    Args:
        body: the form.
        content_type: value of the header, with the boundary.

    Raises:
        ValueError: if the body is no such form, or ends before it does.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise ValueError("Content-Type: expected multipart/form-data with a boundary, received none")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks(), max_header_size=LINE)
        parser.write(body)
        parser.finalize()
    except ValueError as error:  # the parser's own errors are some
        text = str(error)
        raise ValueError(text if text.startswith("body: ") else f"body: expected a form, received {text}") from error
    if not form.ended:
        raise ValueError("body: expected a form, received one that ends before its last boundary")
    return form.parts


def decoding_bytes(most: int) -> int:
    """Bytes that decoding takes beside the result, one image at a time, where a body may have ``most``."""
    return 8 * min(LARGEST, PIXELS_PER_BYTE * most)


def pixels(
    files: ImageFiles, parts: Mapping[str, Sequence[bytes]], tasks: int, most: int
) -> dict[str, NDArray[np.uint8]]:
    """Images [T, B, H, W, C] of each field of a model that takes image files.

    Args:
        files: which fields, and the images' shape.
        parts: encoded images by field, those of the first task first.
        tasks: T.
        most: bytes of a body; it bounds what is decoded.

    Raises:
        ValueError: naming the image that is none, or is too large.
    """
    opened = {
        name: [_opened(data, f"{name}[{number}]") for number, data in enumerate(images)]
        for name, images in parts.items()
    }
    shapes = [image.size for images in opened.values() for image in images]
    if (total := sum(width * height for width, height in shapes)) > PIXELS_PER_BYTE * most:
        raise ValueError(
            f"body: expected images of at most {PIXELS_PER_BYTE * most} pixels in all, received {total}; scale them "
            f"down to {files.shape[1]} × {files.shape[0]}, or ask in parts"
        )
    if (total := len(shapes) * math.prod(files.shape)) > most:
        raise ValueError(f"body: expected at most {most} bytes of pixels, received {total}; ask in parts")
    return {name: _stacked(files, name, parts[name], images, tasks) for name, images in opened.items()}


def _stacked(
    files: ImageFiles, name: str, encoded: Sequence[bytes], opened: Sequence[Image.Image], tasks: int
) -> NDArray[np.uint8]:
    if len(encoded) % tasks:
        raise ValueError(f"{name}: expected as many images for each of {tasks} tasks, received {len(encoded)}")
    stacked = np.empty((len(encoded), *files.shape), np.uint8)
    for number, (data, image) in enumerate(zip(encoded, opened, strict=True)):
        try:
            stacked[number] = _decoded(files, data, image)
        except BrokenImage as error:
            raise ValueError(f"{name}[{number}]: expected a PNG or JPEG file, received {error.__cause__}") from error
    return stacked.reshape(tasks, -1, *files.shape)


def _decoded(files: ImageFiles, data: bytes, image: Image.Image) -> NDArray[np.uint8]:
    """The pixels that :func:`tasks.data.decode.decode` gives; without it where nothing is to be converted."""
    height, width, channels = files.shape
    if image.mode == ("L" if channels == 1 else "RGB") and image.size == (width, height):
        try:
            image.load()
        except Exception as error:  # as above
            raise BrokenImage from error
        if "exif" not in image.info and not image.has_transparency_data:
            plain = np.asarray(image).reshape(files.shape)
            return 255 - plain if files.inverted else plain
    return decode(RawImage(where="", data=data), files.shape, files.inverted)


def _opened(data: bytes, where: str) -> Image.Image:
    """An image of which the header has been read, and nothing decoded."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{where}: expected at most {LARGEST} pixels, received {error}") from error
    except Exception as error:  # Pillow's readers raise whatever their parsers meet
        raise ValueError(f"{where}: expected a PNG or JPEG file, received {data[:8]!r}…") from error
    if width * height > LARGEST:
        raise ValueError(f"{where}: expected at most {LARGEST} pixels, received {width} × {height}; scale it down")
    if image.format == "JPEG" and (scans := data.count(b"\xff\xda")) > SCANS:
        raise ValueError(f"{where}: expected a JPEG file of at most {SCANS} scans, received {scans}")
    return image


def tasks_of(files: ImageFiles, fields: Sequence[Field], arrays: Mapping[str, Any]) -> int:
    """The number of tasks T in a form, read from the parts that are not images.

    Args:
        files: the inputs that are images.
        fields: all inputs.
        arrays: the form's other arrays by name.
    """
    others = [field.name for field in fields if field.name not in files.names]
    return next((len(arrays[name]) for name in others if name in arrays), 1)
