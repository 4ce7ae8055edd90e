"""What unit and integration tests share."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.data.tables.prepare import prepare_table
from tasks.data.tables.request import TableSource
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


@pytest.fixture(scope="session")
def write_csv() -> Callable[[Path, Sequence[str], Iterable[Sequence[Any]]], Path]:
    """Write a CSV file of a header and rows."""

    def write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


@pytest.fixture(scope="session")
def make_table(
    tmp_path_factory: pytest.TempPathFactory, write_csv: Callable[[Path, Sequence[str], Iterable[Sequence[Any]]], Path]
) -> Callable[..., Path]:
    """Prepare a small store of tables: y = slope · x + noise with a slope for each group, day after day."""

    def make(groups: int = 20, rows: int = 40, seed: int = 0, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("table")
        rng = np.random.Generator(np.random.Philox(key=[seed, 0]))
        table = []
        for group, slope in enumerate(rng.normal(size=groups)):
            for day, x in enumerate(rng.normal(size=rows)):
                y = slope * x + 0.1 * rng.normal()
                table.append((f"shop{group:02}", day, x, "abc"[day % 3], y, "low" if y < 0 else "high"))
        header = ("shop", "day", "x", "kind", "y", "level")
        path = write_csv(folder / "sales.csv", header, (table[place] for place in rng.permutation(len(table))))
        asked = {"group": "shop", "inputs": ("x", "kind"), "categorical": ("kind",), "targets": ("y",)} | options
        prepare_table(TableSource(path, **asked), str(folder / "store"))
        return folder / "store"

    return make
