"""Every source of raw data on small generated files, and the splitting by class."""

import hashlib
import io
import json
import pickle
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tasks.data import pickles
from tasks.data.catalogue import prepare_source
from tasks.data.decode import decode
from tasks.data.errors import BrokenImage, DataError
from tasks.data.sources import cifar, folder, mini_imagenet, omniglot, parquet
from tasks.data.sources.base import RawData
from tasks.data.splits import by_counts, by_ratio, shuffled
from tasks.data.store import ImageStore
from tasks.family import SPLITS

CIFAR = Path(__file__).parents[3] / "shared" / "data" / "cifar100"


def noise(seed: int, shape: tuple[int, ...] = (5, 5, 3)) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form)
    return stream.getvalue()


def names(data: RawData) -> dict[str, list[str]]:
    return {split: [one.name for one in data.classes[split]] for split in SPLITS}


def together(data: RawData) -> list[str]:
    return [name for members in names(data).values() for name in members]


def pixels(data: RawData, split: str, number: int) -> np.ndarray:
    images = data.classes[split][number].images
    return np.stack([decode(image, data.image_shape, data.invert) for image in images])


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Give a folder an address for the duration of a test."""
    servers = []

    def serve(place: Path) -> str:
        class Quiet(SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(place))

            def log_message(self, *arguments: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Quiet))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


class TestSplits:
    @given(st.sets(st.text(max_size=5), min_size=3, max_size=40), st.integers(0, 2**64 - 1))
    def test_every_class_goes_to_one_split(self, found, seed):
        parts = by_ratio(found, "0.5,0.25,0.25", seed)
        together = [name for split in SPLITS for name in parts[split]]
        assert len(together) == len(found)
        assert set(together) == found
        assert by_ratio(sorted(found), "2,1,1", seed) == by_ratio(sorted(found, reverse=True), "2,1,1", seed)

    def test_the_usual_ratio_and_other_seeds(self):
        everything = [f"c{number:03d}" for number in range(100)]
        parts = by_ratio(everything, "0.64,0.16,0.2", 0)
        assert [len(parts[split]) for split in SPLITS] == [64, 16, 20]
        assert by_ratio(everything, "0.64,0.16,0.2", 1) != parts
        assert shuffled(everything, 0)[:4] == ["c097", "c014", "c007", "c062"]  # stores of old stay reproducible

    @pytest.mark.parametrize("ratio", ["", "1,1", "1,1,1,1", "1,0,1", "1,-1,1", "a,b,c", "nan,1,1", "inf,1,1"])
    def test_bad_ratios(self, ratio):
        with pytest.raises(DataError, match="expected a ratio of three positive numbers"):
            by_ratio(["a", "b", "c"], ratio, 0)

    def test_too_few_classes_and_bad_seeds(self):
        with pytest.raises(DataError, match="expected 6 classes to split, received 2"):
            by_counts(["a", "b"], (2, 2, 2), 0)
        with pytest.raises(DataError, match="expected a seed"):
            by_ratio(["a", "b", "c"], "1,1,1", -1)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Eight classes of three photos in all formats, and things that are no photos."""
    for number in range(8):
        place = tmp_path / "photos" / f"class {number}"
        place.mkdir(parents=True)
        for form, suffix in (("PNG", "png"), ("JPEG", "JPG"), ("WEBP", "webp")):
            (place / f"x.{suffix}").write_bytes(encoded(noise(number), form))
        (place / "notes.txt").touch()
        (place / ".hidden.png").touch()
    (tmp_path / "photos" / ".thumbnails").mkdir()
    (tmp_path / "photos" / "README").touch()
    return tmp_path / "photos"


class TestFolder:
    def test_class_folders(self, photos):
        data = folder.raw_data(photos, size=5, ratio="4,2,2")
        assert data.name == "photos"
        assert sorted(together(data)) == [f"class {number}" for number in range(8)]
        assert {split: len(classes) for split, classes in data.classes.items()} == {"train": 4, "val": 2, "test": 2}
        one = data.classes["val"][0]
        assert [image.data.name for image in one.images] == ["x.JPG", "x.png", "x.webp"]
        np.testing.assert_array_equal(pixels(data, "val", 0)[1], noise(int(one.name[-1])))
        assert folder.raw_data(photos, grey=True).image_shape == (84, 84, 1)

    def test_lists(self, photos, tmp_path):
        for split, members in (("train", "01"), ("val", "23"), ("test", "56")):
            (tmp_path / f"{split}.txt").write_text("".join(f"class {number}\n\n" for number in members))
        data = folder.raw_data(photos, lists=tmp_path)
        assert names(data) == {
            "train": ["class 0", "class 1"],
            "val": ["class 2", "class 3"],
            "test": ["class 5", "class 6"],
        }
        with pytest.raises(DataError, match="--ratio or --lists, received both"):
            folder.raw_data(photos, lists=tmp_path, ratio="1,1,1")
        (tmp_path / "test.txt").write_text("class 1\n")
        with pytest.raises(DataError, match=r"test\.txt: .*received 'class 1', which train\.txt names too"):
            folder.raw_data(photos, lists=tmp_path)
        (tmp_path / "test.txt").write_text("class 9\n")
        with pytest.raises(DataError, match=r"test\.txt: .*received 'class 9', which the source has not"):
            folder.raw_data(photos, lists=tmp_path)
        (tmp_path / "test.txt").unlink()
        with pytest.raises(DataError, match=r"found no test\.txt"):
            folder.raw_data(photos, lists=tmp_path)

    def test_folders_that_are_split_already(self, photos, tmp_path):
        for number, split in enumerate(("train", "val", "test", "train", "val", "test", "train", "train")):
            (tmp_path / "ready" / split).mkdir(parents=True, exist_ok=True)
            (photos / f"class {number}").rename(tmp_path / "ready" / split / f"class {number}")
        expected = {
            "train": ["class 0", "class 3", "class 6", "class 7"],
            "val": ["class 1", "class 4"],
            "test": ["class 2", "class 5"],
        }
        assert names(folder.raw_data(tmp_path / "ready")) == expected
        with pytest.raises(DataError, match="split into train, val and test already"):
            folder.raw_data(tmp_path / "ready", ratio="1,1,1")

    def test_an_empty_class(self, photos):
        (photos / "class 9").mkdir()
        with pytest.raises(DataError, match=r"class 9: expected images in every class .*, found none"):
            folder.raw_data(photos)

    def test_no_folder_and_an_empty_one(self, tmp_path):
        with pytest.raises(DataError, match="expected a folder of class folders"):
            folder.raw_data(tmp_path / "nothing")
        with pytest.raises(DataError, match="received train 0, val 0, test 0"):
            prepare_source("folder", tmp_path, str(tmp_path / "s"), {})

    def test_archives_with_and_without_a_folder_around(self, photos, tmp_path):
        with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as archive:
            archive.add(photos, "photos")
        with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
            for path in sorted(photos.rglob("*.*")):
                archive.write(path, path.relative_to(photos))
        options = {"size": 5, "ratio": "4,2,2"}
        manifests = [
            prepare_source("folder", tmp_path / name, str(tmp_path / "s" / name), options)
            for name in ("photos", "photos.tar.gz", "flat.zip")
        ]
        assert len({manifest.fingerprint for manifest in manifests}) == 1
        assert [manifest.name for manifest in manifests] == ["photos", "photos", "flat"]
        assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["flat.zip", "photos", "photos.tar.gz"]

    @pytest.mark.parametrize("name", ["old", "lock", "store"])
    def test_archives_named_like_what_a_preparation_makes(self, photos, tmp_path, name):
        shutil.make_archive(str(tmp_path / name), "zip", photos)
        root = tmp_path / "s" / "here"
        with pytest.raises(DataError, match="ratio of three"):
            prepare_source("folder", tmp_path / f"{name}.zip", str(root), {"ratio": "1"})
        assert not (tmp_path / "s").exists()
        options = {"size": 5, "ratio": "4,2,2"}
        assert prepare_source("folder", tmp_path / f"{name}.zip", str(root), options).name == name
        assert [path.name for path in (tmp_path / "s").iterdir()] == ["here"]


class TestOmniglot:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch):
        monkeypatch.setattr(omniglot, "SPLIT", (6, 2, 2))

    @staticmethod
    def drawings(number: int) -> np.ndarray:
        return noise(number, (3, 10, 9)) > 60

    def npz(self, place: Path) -> Path:
        place.mkdir()
        for part, numbers in zip(omniglot.PARTS, (range(7), range(7, 10)), strict=True):
            images = np.stack([self.drawings(number) for number in numbers])
            np.savez_compressed(place / f"{part}.npz", images=images)
        return place

    def png(self, place: Path) -> Path:
        for number in range(10):
            part = omniglot.PARTS[number >= 7]
            character = place / part / f"Alphabet_{9 - number // 2}" / f"character{number % 2:02d}"
            character.mkdir(parents=True)
            for at, drawing in enumerate(self.drawings(number)):
                Image.fromarray(drawing).save(character / f"{number + 1:04d}_{at + 1:02d}.png")
        return place

    def test_both_forms_are_one_data_set(self, tmp_path):
        sources = [self.npz(tmp_path / "npz"), self.png(tmp_path / "root" / "omniglot-py").parent]
        stores = []
        for number, source in enumerate(sources):
            prepare_source("omniglot", source, str(tmp_path / str(number)), {"seed": 4})
            stores.append(ImageStore(tmp_path / str(number)))
        assert stores[0].manifest.fingerprint == stores[1].manifest.fingerprint
        assert stores[0].manifest.image_shape == (28, 28, 1)
        name = stores[0].names("val")[1]
        paper = Image.fromarray(self.drawings(int(name) - 1)[2] * np.uint8(255))
        ink = 255 - np.asarray(paper.resize((28, 28), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(stores[0].images("val", 1)[2, :, :, 0], ink)
        assert names(omniglot.raw_data(sources[0], seed=5)) != names(omniglot.raw_data(sources[0], seed=4))

    def test_a_wrong_checksum(self, tmp_path):
        place = self.npz(tmp_path / "npz")
        for part in omniglot.PARTS:
            digest = hashlib.sha256((place / f"{part}.npz").read_bytes()).hexdigest()
            (place / f"{part}.npz.sha256").write_text(f"{digest}  {part}.npz\n")
        omniglot.raw_data(place)
        (place / "images_evaluation.npz.sha256").write_text(f"{'0' * 64}  images_evaluation.npz\n")
        with pytest.raises(DataError, match=r"images_evaluation\.npz: expected SHA-256 000"):
            omniglot.raw_data(place)

    def test_what_is_not_omniglot(self, tmp_path):
        with pytest.raises(DataError, match="found neither; add --download"):
            omniglot.raw_data(tmp_path)
        place = self.npz(tmp_path / "npz")
        (place / "images_evaluation.npz").unlink()
        with pytest.raises(DataError, match=r"found no images_evaluation\.npz"):
            omniglot.raw_data(place)
        np.savez(place / "images_evaluation.npz", images=np.zeros((3, 3, 2, 2)))
        with pytest.raises(DataError, match="expected bool images of shape"):
            omniglot.raw_data(place)
        np.savez(place / "images_evaluation.npz", images=np.array([None]))
        with pytest.raises(DataError, match="cannot read it: Object arrays cannot be loaded"):
            omniglot.raw_data(place)
        np.savez_compressed(place / "images_evaluation.npz", images=noise(0, (3, 3, 40, 40)) > 60)
        data = bytearray((place / "images_evaluation.npz").read_bytes())
        data[100:200] = bytes([255]) * 100
        (place / "images_evaluation.npz").write_bytes(bytes(data))
        with pytest.raises(DataError, match=r"images_evaluation\.npz: .* array 'images' .*cannot read it: Error"):
            omniglot.raw_data(place)
        with (place / "images_evaluation.npz").open("wb") as stream:
            np.save(stream, np.zeros((3, 3, 2, 2), bool))  # not a .npz
        with pytest.raises(DataError, match=r"images_evaluation\.npz: expected an array 'images'"):
            omniglot.raw_data(place)
        np.savez(place / "images_evaluation.npz", images=np.zeros((2, 3, 10, 9), bool))
        with pytest.raises(DataError, match="expected 10 characters, received 9"):
            omniglot.raw_data(place)

    def test_download(self, tmp_path, monkeypatch, served):
        from tasks.vision import torchvision

        source = torchvision.datasets.Omniglot
        far, sums = tmp_path / "far", {}
        for part in omniglot.PARTS:
            made = shutil.make_archive(str(far / part), "zip", self.png(tmp_path / part), part)
            sums[part] = hashlib.md5(Path(made).read_bytes()).hexdigest()
        monkeypatch.setattr(source, "download_url_prefix", served(far))
        monkeypatch.setattr(source, "zips_md5", sums | {"images_evaluation": "0" * 32})
        with pytest.raises(DataError, match=r"images_evaluation\.zip: expected a file with MD5 0000"):
            omniglot.raw_data(tmp_path / "new", download=True)
        fetched = tmp_path / "new" / "omniglot-py"
        assert sorted(path.name for path in fetched.iterdir()) == ["images_background", "images_background.zip"]
        monkeypatch.setattr(source, "zips_md5", sums)
        data = omniglot.raw_data(tmp_path / "new", download=True)
        assert sum(len(one) for one in names(data).values()) == 10
        shutil.rmtree(far)
        assert names(omniglot.raw_data(tmp_path / "new", download=True)) == names(data)
        with pytest.raises(DataError, match=r"images_background\.zip: cannot fetch it .*; fetch it by other means"):
            omniglot.raw_data(tmp_path / "other", download=True)


def table(place: Path, labels: list, features: dict | None = None, images: list | None = None, **columns) -> Path:
    rows = images if images is not None else [encoded(noise(number)) for number in range(len(labels))]
    struct = pa.array(
        [{"bytes": row, "path": None} for row in rows], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    made = pa.table({"img": struct, "label": labels, **columns})
    if features is not None:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, place, row_group_size=4)
    return place


class TestParquet:
    def test_names_and_rows(self, tmp_path):
        labels = [number % 6 for number in range(30)]
        table(tmp_path / "a.parquet", labels[:13], {"label": {"names": list("uvwxyz")}})
        table(tmp_path / "b.parquet", labels[13:], {"label": {"names": list("uvwxyz")}})
        for source in (tmp_path, tmp_path / "*.parquet"):
            data = parquet.raw_data(source, size=5, ratio="1,1,1")
            assert sorted(together(data)) == list("uvwxyz")
            for split in SPLITS:
                for number, name in enumerate(names(data)[split]):
                    rows = range("uvwxyz".index(name), 30, 6)
                    expected = np.stack([noise(row if row < 13 else row - 13) for row in rows])
                    np.testing.assert_array_equal(pixels(data, split, number), expected)

    def test_strings_and_plain_numbers_as_labels(self, tmp_path):
        data = parquet.raw_data(table(tmp_path / "x.parquet", list("abcdef") * 2), ratio="1,1,1", grey=True)
        assert sorted(together(data)) == list("abcdef")
        data = parquet.raw_data(table(tmp_path / "x.parquet", list(range(6))), ratio="1,1,1")
        assert sorted(together(data)) == list("012345")
        assert data.name == "x"

    @pytest.mark.parametrize(
        "kind",
        [
            pa.large_string(),
            pa.string_view(),
            pa.dictionary(pa.int32(), pa.string()),
            pa.dictionary(pa.int8(), pa.large_string()),
        ],
        ids=str,
    )
    def test_other_forms_of_text_as_labels(self, tmp_path, kind):
        names_of = ["a", "b", "c", "d", "e", "f"] * 2
        labels = pa.array(names_of).cast(kind) if pa.types.is_dictionary(kind) else pa.array(names_of, kind)
        data = parquet.raw_data(table(tmp_path / "x.parquet", labels), ratio="1,1,1")
        assert sorted(together(data)) == list("abcdef")
        assert all(len(one.images) == 2 for split in SPLITS for one in data.classes[split])

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
    @pytest.mark.parametrize("struct", [False, True])
    def test_other_forms_of_bytes_as_images(self, tmp_path, kind, struct):
        rows = pa.array([encoded(noise(number)) for number in range(5)] + [None], kind)
        images = pa.StructArray.from_arrays([rows], ["bytes"]) if struct else rows
        pq.write_table(pa.table({"img": images, "label": list("abcdef")}), tmp_path / "x.parquet")
        data = parquet.raw_data(tmp_path / "x.parquet", ratio="1,1,1", size=5)
        for split in SPLITS:
            for one in data.classes[split]:
                if one.name != "f":
                    found = decode(one.images[0], data.image_shape, False)
                    np.testing.assert_array_equal(found, noise("abcdef".index(one.name)))

    def test_columns_are_chosen_or_asked_for(self, tmp_path):
        labels = list(range(6))
        path = table(tmp_path / "x.parquet", labels, other=pa.array([b"x"] * 6), kind=list("abcdef"))
        with pytest.raises(DataError, match=r"expected one column of images .* found img, other.*--image-column"):
            parquet.raw_data(path)
        data = parquet.raw_data(path, image_column="img", label_column="kind")
        assert set(together(data)) == set("abcdef")
        with pytest.raises(DataError, match=r"expected a column 'nothing' of images .* received columns img \(struct"):
            parquet.raw_data(path, image_column="nothing")
        with pytest.raises(
            DataError, match=r"expected a column 'other' of integers, .* the column is there, but holds binary"
        ):
            parquet.raw_data(path, image_column="img", label_column="other")

    def test_bad_rows(self, tmp_path):
        path = tmp_path / "x.parquet"
        with pytest.raises(DataError, match="row 1: expected a label, received none"):
            parquet.raw_data(table(path, [0, None]))
        with pytest.raises(DataError, match="row 1: expected a label from 0 to 1, received -1"):
            parquet.raw_data(table(path, [0, -1], {"label": {"names": ["a", "b"]}}))
        data = parquet.raw_data(table(path, list(range(6)), images=[None] * 6), ratio="1,1,1")
        with pytest.raises(BrokenImage, match=r"x\.parquet, row \d: expected an image.*it is empty"):
            pixels(data, "train", 0)

    def test_no_tables(self, tmp_path):
        with pytest.raises(DataError, match=r"expected Parquet files at .*, found none"):
            parquet.raw_data(tmp_path)
        if sys.version_info < (3, 13):  # later ones read it as x*y/*
            with pytest.raises(DataError, match=r"expected a pattern of Parquet files, received '.*x\*\*y/\*': "):
                parquet.raw_data(tmp_path / "x**y" / "*")
        (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing PAR1")
        with pytest.raises(DataError, match=r"x\.parquet: expected a Parquet file, cannot read it"):
            parquet.raw_data(tmp_path)
        whole = table(tmp_path / "x.parquet", list("abcdef")).read_bytes()
        (tmp_path / "x.parquet").write_bytes(whole[:-30])
        with pytest.raises(DataError, match=r"x\.parquet: expected a Parquet file, cannot read it"):
            parquet.raw_data(tmp_path)


class TestCifar:
    LABELS = tuple(f"kind{number}" for number in range(6))
    LISTS: ClassVar = {"train": ["kind0", "kind3"], "val": ["kind1", "kind4"], "test": ["kind5", "kind2"]}

    @pytest.fixture
    def small(self, tmp_path, monkeypatch):
        (tmp_path / "lists.json").write_text(json.dumps({"cifar_fs": self.LISTS}))
        monkeypatch.setattr(cifar, "LISTS", tmp_path / "lists.json")

    def python_folder(self, place: Path, monkeypatch) -> Path:
        place.mkdir(parents=True)
        contents = {
            "train": {"data": noise(1, (12, 3072)), "fine_labels": list(range(6)) * 2},
            "test": {"data": noise(2, (6, 3072)), "fine_labels": list(range(6))},
            "meta": {"fine_label_names": list(self.LABELS)},
        }
        for part, value in contents.items():
            (place / part).write_bytes(pickle.dumps(value, protocol=2))
        sums = {part: hashlib.md5((place / part).read_bytes()).hexdigest() for part in contents}
        monkeypatch.setattr(cifar, "PICKLES", sums)
        return place

    @pytest.mark.usefixtures("small")
    def test_torchvisions_folder(self, tmp_path, monkeypatch):
        place = self.python_folder(tmp_path / "data" / "cifar-100-python", monkeypatch)
        for source in (place, place.parent):
            data = cifar.cifar_fs(source)
            assert names(data) == self.LISTS
            both = np.concatenate([noise(1, (12, 3072))[[2, 8]], noise(2, (6, 3072))[[2]]])
            np.testing.assert_array_equal(pixels(data, "test", 1), both.reshape(3, 3, 32, 32).transpose(0, 2, 3, 1))
        (place / "test").unlink()
        with pytest.raises(DataError, match="found no test"):
            cifar.cifar_fs(place)
        (place / "test").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(DataError, match="expected MD5"):
            cifar.cifar_fs(place)
        monkeypatch.setitem(cifar.PICKLES, "test", hashlib.md5((place / "test").read_bytes()).hexdigest())
        with pytest.raises(DataError, match=r"asks for 'os\.system'"):
            cifar.cifar_fs(place)

    @pytest.mark.usefixtures("small")
    def test_tables(self, tmp_path):
        path = tmp_path / "x.parquet"
        features = {"fine_label": {"names": list(self.LABELS)}}
        table(path, [0] * 12, features, fine_label=list(range(6)) * 2)
        assert names(cifar.cifar_fs(path)) == self.LISTS
        table(path, [0] * 5, features, fine_label=list(range(5)))
        with pytest.raises(DataError, match="received 5 without kind5"):
            cifar.cifar_fs(path)
        with pytest.raises(DataError, match=r"found none \(a folder of torchvision's"):
            cifar.cifar_fs(tmp_path / "nothing")

    def test_the_lists_are_shipped_and_disjoint(self):
        superclasses = {"cifar_fs": [64, 16, 20], "fc100": [60, 20, 20]}
        for name, counts in superclasses.items():
            lists = json.loads(cifar.LISTS.read_text())[name]
            assert [len(lists[split]) for split in SPLITS] == counts
            assert len({one for split in SPLITS for one in lists[split]}) == 100

    @pytest.mark.skipif(not CIFAR.is_dir(), reason="needs CIFAR-100 in ../shared/data")
    def test_the_lists_are_those_of_the_real_data(self):
        assert json.loads(cifar.LISTS.read_text()) == json.loads((CIFAR / "splits.json").read_text())
        metadata = pq.read_schema(sorted(CIFAR.glob("*.parquet"))[0]).metadata[b"huggingface"]
        real = json.loads(metadata)["info"]["features"]["fine_label"]["names"]
        lists = json.loads(cifar.LISTS.read_text())["fc100"]
        assert set(real) == {one for split in SPLITS for one in lists[split]}


class TestMiniImagenet:
    def folder(self, place: Path) -> Path:
        (place / "images").mkdir(parents=True)
        for at, split in enumerate(SPLITS):
            lines = ["filename,label"]
            for number in range(6):
                label = f"n{at}{number % 2}"
                file = f"{label}0000000{number}.jpg"
                (place / "images" / file).write_bytes(encoded(noise(at * 6 + number)))
                lines.append(f"{file},{label}")
            (place / f"{split}.csv").write_text("\n".join(lines) + "\n")
        return place

    def pickles(self, place: Path) -> Path:
        place.mkdir()
        for at, split in enumerate(SPLITS):
            groups = {f"n{at}{one}": list(range(one, 6, 2)) for one in range(2)}
            content = {"image_data": np.stack([noise(at * 6 + n) for n in range(6)]), "class_dict": groups}
            (place / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
        return place

    @pytest.mark.parametrize("form", ["folder", "pickles", "lists"])
    def test_all_forms(self, tmp_path, monkeypatch, form):
        monkeypatch.setattr(mini_imagenet, "SIZE", 5)
        place = self.pickles(tmp_path / "x") if form == "pickles" else self.folder(tmp_path / "x")
        lists = None
        if form == "lists":
            lists = tmp_path / "lists"
            lists.mkdir()
            for split in SPLITS:
                (place / f"{split}.csv").rename(lists / f"{split}.csv")
        data = mini_imagenet.raw_data(place, lists=lists)
        assert names(data) == {"train": ["n00", "n01"], "val": ["n10", "n11"], "test": ["n20", "n21"]}
        np.testing.assert_array_equal(pixels(data, "val", 1), np.stack([noise(n) for n in (7, 9, 11)]))

    def test_lists_that_do_not_fit(self, tmp_path):
        place = self.folder(tmp_path / "x")
        good = (place / "val.csv").read_text()

        def received(text: str) -> str:
            (place / "val.csv").write_text(text)
            with pytest.raises(DataError) as caught:
                mini_imagenet.raw_data(place)
            return str(caught.value)

        assert "val.csv, line 8: expected the image" in (message := received(good + "gone.jpg,n10\n"))
        assert "gone.jpg', which is not there" in message
        assert "received 'n0000000000.jpg', which train.csv names too" in received(good + "n0000000000.jpg,n10\n")
        assert "expected columns filename and label, received file, label" in received("file,label\n")
        assert "received none" in received("")
        assert "line 2: expected a file's name and a label" in received("filename,label\n../x.jpg,n1\n")
        assert "cannot read it" in received(f'filename,label\n"{"x" * 200_000}",n1\n')
        (place / "val.csv").unlink()
        with pytest.raises(DataError, match=r"expected a list at .*val\.csv"):
            mini_imagenet.raw_data(place)

    def test_classes_in_two_lists(self, tmp_path):
        place = self.folder(tmp_path / "x")
        (place / "images" / "more.jpg").touch()
        with (place / "test.csv").open("a") as stream:
            stream.write("more.jpg,n00\n")
        with pytest.raises(DataError, match="received 'n00' in train and test"):
            prepare_source("mini_imagenet", place, str(tmp_path / "s"), {})

    def test_pickles_that_do_not_fit(self, tmp_path):
        place = self.pickles(tmp_path / "x")
        path = place / "mini-imagenet-cache-val.pkl"
        images = np.zeros((2, 5, 5, 3), np.uint8)
        for content, message in (
            ({"image_data": images}, "expected 'image_data' and 'class_dict'"),
            ([1], "expected 'image_data' and 'class_dict'"),
            ({"image_data": images, "class_dict": {"a": [10**30]}}, "indices of images from 0 to 1, class 'a'"),
            ({"image_data": images, "class_dict": {"a": [0, 2]}}, "indices of images from 0 to 1, class 'a'"),
            ({"image_data": images[0], "class_dict": {}}, "expected uint8 images of shape"),
        ):
            path.write_bytes(pickle.dumps(content))
            with pytest.raises(DataError, match=message):
                mini_imagenet.raw_data(place)
        path.unlink()
        with pytest.raises(DataError, match="expected a pickle at"):
            mini_imagenet.raw_data(place)

    def test_neither(self, tmp_path):
        with pytest.raises(DataError, match=r"expected train\.csv, val\.csv and test\.csv, or mini-imagenet-cache"):
            mini_imagenet.raw_data(tmp_path)
        with pytest.raises(DataError, match="expected a folder with mini-ImageNet"):
            mini_imagenet.raw_data(tmp_path / "nothing")


def test_nobody_unpickles_by_other_means():
    sources = [path.read_text() for path in Path(pickles.__file__).parent.rglob("*.py")]
    assert sum("import pickle\n" in source for source in sources) == 1
    assert not any("pickle.load" in source for source in sources)
