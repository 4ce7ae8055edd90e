"""Few-shot image classification: N-way K-shot episodes out of an Arrow store (Finn et al. 2017, 5.2)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from meta.episode import Episode, Examples
from tasks.data.cache import open_store
from tasks.data.errors import DataError
from tasks.data.store import ImageStore, Pixels
from tasks.family import SPLITS, FamilySpec, Split, TaskKey


@dataclass(frozen=True, kw_only=True)
class Images:
    """Tasks of classifying images into ``way`` classes, drawn from the classes of the split, from few images of each.

    Classes, and images within a class, are drawn without replacement. Support images are the first of a
    class's permutation and query images the last, so tests with one and with five shots have the same classes and
    the same query images. Pixels are scaled to [0, 1].

    Attributes:
        root: folder or URI of a store made by ``metaray data prepare``, or ``glyphs``: characters drawn with
            the fonts that come with matplotlib, made on first use.
        way: classes per task N.
        shot: support images per class K.
        query: query images per class in training.
        eval_shot: support images per class in validation and test; ``None``: as in training.
        eval_query: query images per class in validation and test; ``None``: as in training.
        rotations: rotate each drawn class by a random multiple of 90°, at test too, as the paper does with Omniglot.
    """

    root: str
    way: int = 5
    shot: int = 1
    query: int = 15
    eval_shot: int | None = None
    eval_query: int | None = None
    rotations: bool = False

    def __post_init__(self) -> None:
        """Checks the numbers; the store is opened when it is first needed."""
        for name in ("way", "shot", "query", "eval_shot", "eval_query"):
            value = getattr(self, name)
            least = 2 if name == "way" else 1
            if value is not None and value < least:
                raise DataError(f"expected {name} of at least {least}, received {value}")

    @cached_property
    def store(self) -> ImageStore:
        """The store, opened at first use.

        Raises:
            DataError: if there is none, or a split of it has too few classes or images.
        """
        store = open_store(self.root)
        height, width, _ = store.manifest.image_shape
        if self.rotations and height != width:
            raise DataError(f"rotations expects square images, received {height}×{width} in '{self.root}'")
        for split in SPLITS:
            self._check(store, split)
        return store

    def _check(self, store: ImageStore, split: Split) -> None:
        sizes = store.sizes(split)
        shot, query = self._shots(split)
        where = f"the {split} split of '{self.root}'"
        if len(sizes) < self.way:
            raise DataError(f"way {self.way} expects as many classes, {where} has {len(sizes)}; lower task.way")
        small = int(np.argmin(sizes))
        if sizes[small] < shot + query:
            raise DataError(
                f"{shot} support and {query} query images expect {shot + query} images of every class, "
                f"'{store.names(split)[small]}' in {where} has {sizes[small]}; lower task.shot or task.query"
                f"{'' if split == 'train' else ' (task.eval_shot, task.eval_query)'}, or leave the class out"
            )

    @property
    def spec(self) -> FamilySpec:
        """Input shape [channels, height, width], one logit per class."""
        height, width, channels = self.store.manifest.image_shape
        return FamilySpec(
            input_shape=(channels, height, width),
            outputs=self.way,
            objective="cross_entropy",
            data=self.store.manifest.fingerprint,
        )

    def draw(self, key: TaskKey) -> Episode:
        """Returns one task: support [N·K, C, H, W] and query, float32, class after class, int64 labels 0 to N - 1."""
        shot, query = self._shots(key.split)
        sizes = self.store.sizes(key.split)
        classes = key.rng("classes").permutation(len(sizes))[: self.way]
        turns = key.rng("turns").integers(4, size=self.way) if self.rotations else np.zeros(self.way, dtype=np.int64)
        rng = key.rng("images")
        support, queries = [], []
        for number, turn in zip(classes.tolist(), turns.tolist(), strict=True):
            order = rng.permutation(sizes[number])
            images = self.store.images(key.split, number)
            support.append(np.rot90(images[order[:shot]], turn, axes=(1, 2)))
            queries.append(np.rot90(images[order[-query:]], turn, axes=(1, 2)))
        return Episode(_examples(support), _examples(queries), torch.zeros(0))

    def _shots(self, split: Split) -> tuple[int, int]:
        """Support and query images per class."""
        if split == "train":
            return self.shot, self.query
        return self.eval_shot or self.shot, self.eval_query or self.query


def _examples(classes: list[Pixels]) -> Examples:
    """Returns images by class as inputs [N·B, C, H, W] in [0, 1] and their labels [N·B]."""
    pixels: NDArray[np.float32] = np.concatenate(classes).transpose(0, 3, 1, 2).astype(np.float32, order="C")
    labels = np.repeat(np.arange(len(classes)), len(classes[0]))
    return Examples(torch.from_numpy(pixels).div_(255), torch.from_numpy(labels))
