"""The raw data that every source passes to the preparation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from tasks.data.left_out import LeftOut
from tasks.data.store import Pixels
from tasks.family import Split


@dataclass(frozen=True, kw_only=True)
class RawImage:
    """One image in the form of its source: an encoded file, its bytes, or its pixels.

    Attributes:
        where: its name in messages.
        data: path of an encoded image, the encoded bytes, or uint8 pixels [height, width] or [height, width, 3].
    """

    where: str
    data: Path | bytes | Pixels


@dataclass(frozen=True)
class LazyImages(Sequence[RawImage]):
    """Images that are made when they are read, by any thread.

    Attributes:
        length: number of images.
        make: number of an image -> the image.
    """

    length: int
    make: Callable[[int], RawImage]

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.length

    @overload
    def __getitem__(self, number: int) -> RawImage: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[RawImage]: ...
    def __getitem__(self, number: int | slice) -> RawImage | Sequence[RawImage]:
        """Make one image, or several."""
        numbers = range(self.length)[number]
        return self.make(numbers) if isinstance(numbers, int) else [self.make(one) for one in numbers]


@dataclass(frozen=True, kw_only=True)
class RawClass:
    """One class.

    Attributes:
        name: unique in the data set.
        images: its images.
    """

    name: str
    images: Sequence[RawImage]


@dataclass(frozen=True, kw_only=True)
class RawData:
    """A data set before it is decoded.

    Attributes:
        name: name of the data set.
        image_shape: (height, width, channels) that every image is brought to; channels 1 (grey) or 3 (RGB).
        classes: the classes of each split, in the order of their numbers.
        invert: store 255 - value, for ink on paper.
        origin: where the data came from and how it was split, plain values for the manifest.
        left_out: what was found and is no part of the data set.
        warnings: what the user should know of it.
        raw_bytes: size of the encoded images; ``None``: the images are pixels.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: Mapping[Split, Sequence[RawClass]]
    invert: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    warnings: Sequence[str] = ()
    raw_bytes: int | None = None


def files(paths: Sequence[str]) -> Sequence[RawImage]:
    """Returns the images of paths as a sequence; a path takes a quarter of the memory of an image."""
    return LazyImages(len(paths), lambda number: RawImage(where=paths[number], data=Path(paths[number])))
