"""The Arrow store: what is written is read, whole or absent, and damage is recognised."""

import json
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.errors import DataError
from tasks.data.manifest import MANIFEST
from tasks.data.places import scratch
from tasks.data.store import ImageStore
from tasks.data.writer import StoreWriter
from tasks.family import SPLITS

SHAPE = (3, 4, 1)


def images(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=seed))
    return rng.integers(0, 256, (count, *shape), dtype=np.uint8)


def write(root: Path, *, replace: bool = False, seed: int = 0) -> None:
    with StoreWriter(root, name="small", image_shape=SHAPE, replace=replace) as writer:
        for number, split in enumerate(SPLITS):
            writer.begin(split, [f"{split}-a", f"{split}-b"])
            writer.add(images(5, SHAPE, seed + number))
            writer.add(images(3, SHAPE, seed + number + 10))
            writer.end()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write(tmp_path / "store")
    return tmp_path / "store"


shapes = st.tuples(st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3]))
class_names = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), min_size=3, unique=True)


@settings(max_examples=25, deadline=None)
@given(shape=shapes, names=class_names, seed=st.integers(0, 9))
def test_what_is_written_is_read(shape, names, seed):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "store"
        parts = {split: names[number :: len(SPLITS)] for number, split in enumerate(SPLITS)}
        data = {name: images(1 + number % 4, shape, seed + number) for number, name in enumerate(names)}
        with StoreWriter(root, name="any", image_shape=shape) as writer:
            for split, members in parts.items():
                writer.begin(split, members)
                for name in members:
                    writer.add(data[name])
                writer.end()
        opened = ImageStore(root)
        assert opened.manifest == writer.manifest
        assert opened.manifest.image_shape == shape
        for split, members in parts.items():
            assert opened.names(split) == tuple(members)
            assert opened.sizes(split) == [len(data[name]) for name in members]
            info = opened.manifest.splits[split]
            assert (info.classes, info.images) == (len(members), sum(opened.sizes(split)))
            for number, name in enumerate(members):
                found = opened.images(split, number)
                assert not found.flags.writeable
                np.testing.assert_array_equal(found, data[name])


def test_a_copy_in_another_process_maps_the_files_anew(store):
    copy = pickle.loads(pickle.dumps(ImageStore(store)))
    np.testing.assert_array_equal(copy.images("val", 1), ImageStore(store).images("val", 1))


def test_the_fingerprint_is_that_of_the_images(tmp_path, store):
    write(tmp_path / "same")
    write(tmp_path / "other", seed=1)
    fingerprints = [ImageStore(tmp_path / name).manifest.fingerprint for name in ("store", "same", "other")]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_an_error_leaves_nothing(tmp_path):
    def fail() -> None:
        with StoreWriter(tmp_path / "a" / "b" / "store", name="x", image_shape=SHAPE) as writer:
            writer.begin("train", ["one"])
            writer.add(images(2, SHAPE))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_only_replaced_when_asked(tmp_path, store):
    before = ImageStore(store).manifest
    with pytest.raises(DataError, match=r"there is a store .* already; add --replace"):
        write(store, seed=5)
    assert ImageStore(store).manifest == before
    write(store, seed=5, replace=True)
    assert ImageStore(store).manifest != before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_other_peoples_folders_are_left_alone(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()
    for replace in (False, True):
        with pytest.raises(DataError, match="holds something else"):
            write(tmp_path / "photos", replace=replace)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["one.jpg"]


def test_an_empty_folder_and_a_link_to_one_will_do(tmp_path):
    (tmp_path / "large-disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large-disk")
    write(tmp_path / "link")
    assert (tmp_path / "large-disk" / MANIFEST).is_file()
    assert ImageStore(tmp_path / "link").sizes("test") == [5, 3]


def test_two_writers_at_once(tmp_path):
    """The second finds the place taken when it ends, and the first has kept its folder meanwhile."""
    root = tmp_path / "store"
    first = StoreWriter(root, name="first", image_shape=SHAPE)

    def second_while_first_writes() -> None:
        with StoreWriter(root, name="second", image_shape=SHAPE) as second:
            with first:
                first.begin("train", ["a"])
                first.add(images(1, SHAPE))
                first.end()
            second.begin("train", ["a"])
            second.end()

    with pytest.raises(DataError, match="another process has written"):
        second_while_first_writes()
    assert ImageStore(root).manifest.name == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_folders_of_dead_processes_are_removed_and_those_of_others_kept(tmp_path):
    dead, alive = tmp_path / ".store.partial-dead", tmp_path / ".store.partial-alive"
    for folder in (dead, alive):
        (folder / "store").mkdir(parents=True)
    holds = "import sys, filelock as f; x = f.FileLock(sys.argv[1]); x.acquire(); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holds, str(alive / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with scratch(tmp_path / "store") as folder:
            assert {path.name for path in tmp_path.iterdir()} == {alive.name, folder.name}
        other.kill()
    with scratch(tmp_path / "store") as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
        with pytest.raises(TimeoutError):
            FileLock(folder / "lock").acquire(timeout=0)


def test_stale_folders_of_stores_with_special_characters(tmp_path):
    (tmp_path / ".st[ab].partial-dead" / "store").mkdir(parents=True)
    (tmp_path / ".sta.partial-other" / "store").mkdir(parents=True)
    write(tmp_path / "st[ab]")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".sta.partial-other", "st[ab]"]


@pytest.mark.parametrize("after", [False, True])
def test_an_interrupt_while_a_store_takes_the_place_of_another(tmp_path, store, monkeypatch, after):
    before = ImageStore(store).manifest
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> None:
        if target != store or path.name != "store":
            rename(path, target)
        else:
            monkeypatch.undo()
            if after:
                rename(path, target)
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(store, seed=5, replace=True)
    assert (ImageStore(store).manifest == before) is not after
    assert ImageStore(store).sizes("val") == [5, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_process_killed_while_its_store_takes_the_place_of_another(tmp_path, store):
    before = ImageStore(store).manifest
    killed = tmp_path / ".store.partial-dead"
    (killed / "store").mkdir(parents=True)
    store.rename(killed / "old")
    with pytest.raises(DataError, match=r"there is a store .* already; add --replace"):
        write(store, seed=5)
    assert ImageStore(store).manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    (killed / "store").mkdir(parents=True)
    store.rename(killed / "old")
    write(store, seed=5, replace=True)
    assert ImageStore(store).manifest != before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_store_that_came_meanwhile_is_kept(tmp_path, store):
    """What a killed process had taken away does not come back over what has been made since."""
    killed = tmp_path / ".store.partial-dead"
    write(killed / "old", seed=5)
    before = ImageStore(store).manifest
    with scratch(store):
        pass
    assert ImageStore(store).manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_class_in_two_splits(tmp_path):
    def write_twice() -> None:
        with StoreWriter(tmp_path / "store", name="x", image_shape=SHAPE) as writer:
            writer.begin("train", ["a", "b"])
            writer.end()
            writer.begin("val", ["b"])

    with pytest.raises(DataError, match="'b' in train and val"):
        write_twice()


@pytest.mark.parametrize("wrong", [np.zeros((2, 4, 3, 1), np.uint8), np.zeros((2, *SHAPE), np.float32)])
def test_images_of_another_shape_or_type(tmp_path, wrong):
    with StoreWriter(tmp_path / "store", name="x", image_shape=SHAPE) as writer:
        writer.begin("train", ["a"])
        with pytest.raises(DataError, match="expected uint8 images of shape"):
            writer.add(wrong)
        writer.end()


def test_no_store(tmp_path):
    with pytest.raises(DataError, match="found none; make one with: metaray data prepare"):
        ImageStore(tmp_path)


def edited(store: Path, **changes: object) -> None:
    plain = json.loads((store / MANIFEST).read_text())
    (store / MANIFEST).write_text(json.dumps(plain | changes))


def test_another_schema_version(store):
    edited(store, schema=99)
    with pytest.raises(DataError, match="schema version 1, received version 99; prepare the data again"):
        ImageStore(store)


@pytest.mark.parametrize("text", ["", "[]", "{}", '"schema"', '{"schema": 1}', "\x00"])
def test_something_else_than_a_manifest(store, text):
    (store / MANIFEST).write_text(text)
    with pytest.raises(DataError, match="expected a store's manifest, received"):
        ImageStore(store)


def test_a_manifest_that_is_not_text(store):
    (store / MANIFEST).write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match=r"manifest\.json: expected a store's manifest, received a file that is not"):
        ImageStore(store)


@pytest.mark.parametrize(
    "changes", [{"image_shape": [1, 2]}, {"splits": {"train": {}}}, {"origin": 3}, {"splits": 3}, {"image_shape": "x"}]
)
def test_a_damaged_manifest(store, changes):
    edited(store, **changes)
    with pytest.raises(DataError, match="damaged"):
        ImageStore(store)


def test_a_manifest_that_names_files_elsewhere(store):
    splits = json.loads((store / MANIFEST).read_text())["splits"]
    splits["val"]["file"] = "../secret"
    edited(store, splits=splits)
    with pytest.raises(DataError, match="outside the store"):
        ImageStore(store)


def test_a_file_that_is_cut_or_gone(store):
    path = store / "val.arrow"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"val.arrow: expected \d+ bytes, found \d+"):
        ImageStore(store).names("val")
    path.unlink()
    with pytest.raises(DataError, match="found 0"):
        ImageStore(store).names("val")


def test_a_file_of_the_right_size_that_is_no_arrow_file(store):
    path = store / "val.arrow"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError, match="expected an Arrow file of images"):
        ImageStore(store).names("val")


def test_verifying_reads_every_file(store):
    opened = ImageStore(store)
    opened.verify()
    for split in SPLITS:
        path = store / f"{split}.arrow"
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        with pytest.raises(DataError, match=rf"{split}\.arrow: expected SHA-256 \w+, received \w+; prepare the data"):
            opened.verify()
        path.write_bytes(data)
    (store / "test.arrow").unlink()
    with pytest.raises(DataError, match=r"test\.arrow: expected \d+ bytes, found 0"):
        opened.verify()


def test_a_split_that_is_not_there(store):
    splits = json.loads((store / MANIFEST).read_text())["splits"]
    edited(store, splits={"train": splits["train"]})
    with pytest.raises(DataError, match="expected a test split"):
        ImageStore(store).names("test")


def test_opening_survives_a_moved_store(tmp_path, store):
    opened = ImageStore(store)
    view = opened.images("train", 0)
    shutil.move(store, tmp_path / "elsewhere")
    np.testing.assert_array_equal(view, images(5, SHAPE))
