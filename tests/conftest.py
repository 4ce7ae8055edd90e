"""What unit and integration tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.data.writer import StoreWriter
from tasks.family import SPLITS


@pytest.fixture(autouse=True, scope="session")
def _compiled_anew(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs are compiled by these tests, not taken from an earlier run's cache, and gone with them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("METARAY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a small store of random pixels; its classes' names tell the split and the number."""

    def make(shape: tuple[int, int, int] = (8, 8, 1), classes: int = 20, images: int = 40, seed: int = 0) -> Path:
        root = tmp_path_factory.mktemp("store") / "store"
        rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
        with StoreWriter(root, name="noise", image_shape=shape) as writer:
            for split in SPLITS:
                writer.begin(split, [f"{split}{number}" for number in range(classes)])
                for _ in range(classes):
                    writer.add(rng.integers(256, size=(images, *shape), dtype=np.uint8))
                writer.end()
        return root

    return make
