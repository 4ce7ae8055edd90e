"""The description of a store in its file ``manifest.json``."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from tasks.data.errors import DataError
from tasks.family import SPLITS, Split

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """The file of one split.

    Attributes:
        file: its name.
        sha256: its SHA-256, in hexadecimal.
        bytes: its size.
    """

    file: str
    sha256: str
    bytes: int

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
class SplitInfo(StoredFile):
    """The file of one split of an image store.

    Attributes:
        classes: number of classes.
        images: number of images.
        smallest: images of the smallest class.
    """

    classes: int
    images: int
    smallest: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of an image store.

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

    def with_files(self, names: Mapping[Split, str]) -> Self:
        """Returns the manifest of an equal store whose files have other names.

        Args:
            names: of the files by split.
        """
        splits = {split: replace(info, file=names[split]) for split, info in self.splits.items()}
        return replace(self, splits=splits)

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
        plain = read_plain(text, where)
        try:
            height, width, channels = (int(size) for size in plain["image_shape"])
            return cls(
                schema=SCHEMA,
                name=str(plain["name"]),
                image_shape=(height, width, channels),
                origin=dict(plain["origin"]),
                splits=read_splits(plain, SplitInfo),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{where}: expected a store's manifest, received a damaged one ({error!r})") from error


def read_plain(text: str, where: str) -> dict[str, Any]:
    """Returns the plain values of a ``manifest.json`` of any kind of store.

    Args:
        text: contents of the file.
        where: name of the file, for the message.

    Raises:
        DataError: if it is not a manifest, or of another schema version.
    """
    try:
        plain: dict[str, Any] = json.loads(text)
        schema = plain["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where}: expected a store's manifest, received another file ({error!r})") from error
    if schema != SCHEMA:
        raise DataError(
            f"{where}: expected a store of schema version {SCHEMA}, received version {schema}; "
            "prepare the data again with this version of metaray"
        )
    return plain


Info = TypeVar("Info", bound=StoredFile)


def read_splits(plain: Mapping[str, Any], cls: type[Info]) -> dict[Split, Info]:
    """Returns the files by split.

    Args:
        plain: as :func:`read_plain` returns them.
        cls: class of a split's description.

    Raises:
        ValueError: if a file lies outside the store.
    """
    splits: dict[Split, Info] = {split: cls(**plain["splits"][split]) for split in SPLITS if split in plain["splits"]}
    if any("/" in info.file or info.file.startswith(".") for info in splits.values()):
        raise ValueError("a file outside the store")
    return splits
