"""The description of a store in its file ``manifest.json``."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.data.errors import DataError
from tasks.family import SPLITS, Split

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """The file of one split.

    Attributes:
        file: its name.
        sha256: its SHA-256, in hexadecimal.
        bytes: its size.
        classes: number of classes.
        images: number of images.
        smallest: images of the smallest class.
    """

    file: str
    sha256: str
    bytes: int
    classes: int
    images: int
    smallest: int

    def check(self, sha256: str, where: str) -> None:
        """Compares the file's checksum with ``self.sha256``.

        Args:
            sha256: of the file as read, in hexadecimal.
            where: name of the file, for the message.

        Raises:
            DataError: if they differ.
        """
        if sha256 != self.sha256:
            raise DataError(f"{where}: expected SHA-256 {self.sha256}, received {sha256}; prepare the data again")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of a store.

    Attributes:
        schema: version of the layout, :data:`SCHEMA`.
        name: name of the data set.
        image_shape: (height, width, channels).
        origin: where the data came from and how it was treated, plain values.
        splits: the files by split.
    """

    schema: int
    name: str
    image_shape: tuple[int, int, int]
    origin: Mapping[str, Any]
    splits: Mapping[Split, SplitInfo]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shape and the splits' checksums: equal for stores of the same images in the same order."""
        lines = [f"shape {self.image_shape}\n"]
        lines += [f"{split} {self.splits[split].sha256}\n" for split in SPLITS if split in self.splits]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def to_json(self) -> str:
        """Returns the contents of ``manifest.json``."""
        plain = {
            "schema": self.schema,
            "name": self.name,
            "image_shape": list(self.image_shape),
            "origin": dict(self.origin),
            "splits": {split: vars(info) for split, info in self.splits.items()},
        }
        return json.dumps(plain, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> "Manifest":
        """Returns the manifest of a text; the inverse of :meth:`to_json`.

        Args:
            text: contents of a ``manifest.json``.
            where: name of the store, for the message.

        Raises:
            DataError: if it is not a manifest, or of another schema version.
        """
        try:
            plain = json.loads(text)
            schema = plain["schema"]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: expected a store's manifest, received another file ({error!r})") from error
        if schema != SCHEMA:
            raise DataError(
                f"{where}: expected a store of schema version {SCHEMA}, received version {schema}; "
                "prepare the data again with this version of metaray"
            )
        try:
            height, width, channels = (int(size) for size in plain["image_shape"])
            splits: dict[Split, SplitInfo] = {
                split: SplitInfo(**plain["splits"][split]) for split in SPLITS if split in plain["splits"]
            }
            if any("/" in info.file or info.file.startswith(".") for info in splits.values()):
                raise ValueError("a file outside the store")
            return cls(
                schema=schema,
                name=str(plain["name"]),
                image_shape=(height, width, channels),
                origin=dict(plain["origin"]),
                splits=splits,
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: expected a store's manifest, received a damaged one ({error!r})") from error
