"""Nothing vanishes and no class is split without a word: what is left out, class identity, duplicates, bit depths."""

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.data import limits, spill
from tasks.data.catalogue import prepare_source
from tasks.data.decode import SUFFIXES
from tasks.data.errors import BrokenImage, DataError
from tasks.data.limits import Limits
from tasks.data.manifest import Manifest
from tasks.data.names import class_name, joined
from tasks.data.sources import folder, parquet
from tasks.data.sources.base import RawData
from tasks.data.store import ImageStore
from tasks.family import SPLITS


def noise(seed: int, shape: tuple[int, ...] = (6, 6, 3)) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def images(data: RawData) -> dict[str, int]:
    return {one.name: len(one.images) for split in SPLITS for one in data.classes[split]}


def other_warnings(manifest: Manifest) -> list[str]:
    """Those that say nothing of equal images."""
    return [warning for warning in manifest.origin["warnings"] if "the same pixels" not in warning]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Nine classes of two images."""
    for number in range(9):
        place = tmp_path / "photos" / f"k{number}"
        place.mkdir(parents=True)
        for image in range(2):
            (place / f"{image}.png").write_bytes(encoded(noise(10 * number + image)))
    return tmp_path / "photos"


@pytest.fixture
def prepared(tmp_path):
    def prepare(source: Path, name: str = "folder", **options: object) -> Manifest:
        flags = {key: options.pop(key) for key in ("skip_broken", "limits") if key in options}
        if "lists" not in options and not (source / "train").is_dir():
            options.setdefault("ratio", "5,2,2")
        return prepare_source(name, source, str(tmp_path / "store"), {"size": 6, **options}, replace=True, **flags)

    return prepare


class TestWhatIsLeftOut:
    @pytest.mark.parametrize("suffix", [end for end in SUFFIXES if end not in (".pfm", ".apng")])
    def test_whatever_the_decoder_reads_is_read(self, photos, prepared, suffix):
        stream = io.BytesIO()
        grey = suffix in (".pbm", ".pgm")
        picture = Image.fromarray(noise(100, (6, 6)) if grey else noise(100))
        (picture.convert("1") if suffix == ".pbm" else picture).save(stream, Image.registered_extensions()[suffix])
        (photos / "k0" / f"x{suffix}").write_bytes(stream.getvalue())
        (photos / "k1" / f"x{suffix.upper()}").write_bytes(stream.getvalue())
        manifest = prepared(photos)
        assert sum(info.images for info in manifest.splits.values()) == 20
        assert manifest.origin["left_out"] == {}

    def test_suffixes_of_every_format(self):
        assert {".tif", ".tiff", ".gif", ".jfif", ".jpe", ".ppm", ".pgm", ".pnm", ".bmp", ".webp"} < {*SUFFIXES}
        assert not {".eps", ".pdf", ".svg", ".mpo", ".ico"} & {*SUFFIXES}

    def test_files_are_counted_and_named_by_reason(self, photos, prepared, tmp_path):
        (photos / "k0" / "a.heic").touch()
        (photos / "k1" / "b.HEIC").touch()
        (photos / "k1" / "noending").touch()
        (photos / "k2" / ".c.png").touch()
        (photos / "stray.png").touch()
        (photos / "README.md").touch()
        (photos / "gone").symlink_to("nowhere")
        os.mkfifo(photos / "k3" / "pipe.png")
        (photos / "k4" / "zero.png").symlink_to("/dev/zero")
        left_out = prepared(photos).origin["left_out"]
        assert {reason: found["count"] for reason, found in left_out.items()} == {
            "a .heic file": 2,
            "a pipe, socket or device": 2,
            "a .md file": 1,
            "a .png file outside the class folders": 1,
            "a file without an ending": 1,
            "a link to nothing": 1,
            "hidden": 1,
        }
        assert left_out["a .heic file"]["first"] == [str(photos / "k0" / "a.heic"), str(photos / "k1" / "b.HEIC")]
        for number in range(20):
            (photos / "k0" / f"{number}.txt").touch()
        found = prepared(photos).origin["left_out"]["a .txt file"]
        assert (found["count"], len(found["first"])) == (20, 5)

    def test_linked_folders_are_read_once(self, photos, prepared, tmp_path):
        shutil.copytree(photos / "k0", tmp_path / "elsewhere")
        shutil.rmtree(photos / "k0")
        (photos / "k0").symlink_to(tmp_path / "elsewhere")
        (photos / "k1" / "back").symlink_to(photos)
        (photos / "k2" / "more").symlink_to(photos / "k2")
        with pytest.raises(DataError, match="class 'k1' has them in 9"):
            folder.raw_data(photos)
        (photos / "k1" / "back").unlink()
        (photos / "k1" / "back").symlink_to(photos / "k1")
        manifest = prepared(photos)
        assert sum(info.images for info in manifest.splits.values()) == 18
        assert manifest.origin["left_out"]["a linked folder that is read already"]["count"] == 2

    def test_broken_images_are_named_whatever_breaks_them(self, photos, prepared):
        (photos / "k0" / "gone.png").symlink_to("nowhere.png")
        (photos / "k1" / "loop.png").symlink_to("loop.png")
        (photos / "k2" / "cut.png").write_bytes(encoded(noise(1))[:-60])
        with pytest.raises(BrokenImage, match=r"gone\.png: .*a link to 'nowhere\.png'; No such file"):
            prepared(photos)
        origin = prepared(photos, skip_broken=True).origin
        assert origin["skipped"] == len(origin["skipped_first"]) == 3
        assert all(name in "".join(origin["skipped_first"]) for name in ("gone.png", "loop.png", "cut.png"))

    def test_more_files_than_the_limit(self, photos, prepared):
        with pytest.raises(DataError, match=r"at most 12 files or rows.*--max-files"):
            prepared(photos, limits=Limits(files=12))

    def test_folders_beside_the_splits_and_classes_on_no_list(self, photos, tmp_path):
        for split, numbers in zip(SPLITS, ("012", "34", "56"), strict=True):
            (tmp_path / f"{split}.txt").write_text("".join(f"k{number} \n" for number in numbers))
        plain = folder.raw_data(photos, lists=tmp_path).left_out.as_plain()
        assert {name: found["count"] for name, found in plain.items()} == {"a class on no list": 2}
        for split, numbers in zip((*SPLITS, "holdout"), ("012", "34", "56", "78"), strict=True):
            (tmp_path / "ready" / split).mkdir(parents=True)
            for number in numbers:
                (photos / f"k{number}").rename(tmp_path / "ready" / split / f"k{number}")
        plain = folder.raw_data(tmp_path / "ready").left_out.as_plain()
        assert plain == {
            "a folder beside train, val and test": {"count": 1, "first": [str(tmp_path / "ready" / "holdout")]}
        }

    def test_names_in_archives_are_those_of_the_archive(self, photos, prepared, tmp_path):
        (photos / "k0" / "notes.txt").touch()
        (photos / "k1" / "copy.png").write_bytes((photos / "k0" / "0.png").read_bytes())
        shutil.make_archive(str(tmp_path / "x"), "gztar", photos)
        origin = prepared(tmp_path / "x.tar.gz").origin
        assert origin["left_out"]["a .txt file"]["first"] == [str(tmp_path / "x.tar.gz" / "k0" / "notes.txt")]
        assert "partial" not in json.dumps(dict(origin))
        (photos / "k2" / "0.png").write_bytes(b"broken")
        shutil.make_archive(str(tmp_path / "y"), "zip", photos)
        with pytest.raises(BrokenImage, match=rf"^{tmp_path / 'y.zip' / 'k2' / '0.png'}: expected an image"):
            prepared(tmp_path / "y.zip")


class TestClassIdentity:
    @pytest.mark.parametrize("written", ["k0 ", " k0", "k0\t", "k0\u00a0", "\ufeffk0", "k\u200b0"])
    def test_spaces_make_no_other_class(self, written):
        assert class_name(written, "here") == "k0"

    def test_unicode_forms_make_no_other_class_and_case_does(self):
        found, warnings = joined([("Cafe\u0301", [1]), ("Café", [2]), ("café", [3]), ("a", [4]), ("A", [5])], "here")
        assert found == {"Café": [1, 2], "café": [3], "a": [4], "A": [5]}
        assert len(warnings) == 2
        assert "are taken for one class" in warnings[0]
        assert "'Café', 'café' are taken for classes of their own" in warnings[1]
        with pytest.raises(DataError, match="here: expected a class name, received ' '"):
            class_name(" ", "here")

    def test_folders(self, photos, prepared):
        (photos / "k0 ").mkdir()
        (photos / "k0 " / "2.png").write_bytes(encoded(noise(7)))
        data = folder.raw_data(photos)
        assert images(data) == {f"k{number}": 3 if number == 0 else 2 for number in range(9)}
        assert data.warnings == [
            "'k0', 'k0 ' are taken for one class: they differ in spaces or in the form of their Unicode only"
        ]
        assert prepared(photos).origin["warnings"] == data.warnings

    def test_one_class_in_two_ready_splits(self, photos, tmp_path, prepared):
        for number in range(9):
            place = tmp_path / "ready" / SPLITS[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            (photos / f"k{number}").rename(place / ("k0 " if number == 1 else f"k{number}"))
        with pytest.raises(DataError, match="received 'k0' in train and val"):
            prepared(tmp_path / "ready")

    def test_nested_trees_are_not_merged_unasked(self, photos, tmp_path):
        for number in range(9):
            place = tmp_path / "tree" / f"alphabet{number // 3}"
            place.mkdir(parents=True, exist_ok=True)
            (photos / f"k{number}").rename(place / f"c{number % 3}")
        with pytest.raises(DataError, match=r"class 'alphabet0' has them in 3, .*--nested merge .* or --nested split"):
            folder.raw_data(tmp_path / "tree")
        split = images(folder.raw_data(tmp_path / "tree", nested="split"))
        assert split == {f"alphabet{a}/c{c}": 2 for a in range(3) for c in range(3)}
        merged = images(folder.raw_data(tmp_path / "tree", nested="merge", ratio="1,1,1"))
        assert merged == {f"alphabet{a}": 6 for a in range(3)}
        with pytest.raises(DataError, match="expected --nested merge or split, received 'x'"):
            folder.raw_data(tmp_path / "tree", nested="x")

    def test_a_folder_of_images_within_each_class_is_no_tree(self, photos):
        for number in range(9):
            (photos / f"k{number}").rename(photos / "x")
            (photos / f"k{number}").mkdir()
            (photos / "x").rename(photos / f"k{number}" / "images")
        assert images(folder.raw_data(photos)) == {f"k{number}": 2 for number in range(9)}

    def test_splits_that_are_not_all_there(self, photos, tmp_path):
        for number in range(9):
            place = tmp_path / "two" / ("train", "test")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            (photos / f"k{number}").rename(place / f"k{number}")
        with pytest.raises(DataError, match=r"two has train and test, but not all of train, val, test"):
            folder.raw_data(tmp_path / "two")


def shard(path: Path, labels: object, names: list[str] | None = None, first: int = 0) -> Path:
    rows = [{"bytes": encoded(noise(first + number)), "path": None} for number in range(len(labels))]
    made = pa.table({"image": rows, "label": labels})
    if names:
        features = {"info": {"features": {"label": {"names": names}}}}
        made = made.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(made, path)
    return path


NAMES = [f"name{number}" for number in range(6)]


class TestShards:
    @pytest.mark.parametrize("bare_first", [False, True])
    def test_with_and_without_names(self, tmp_path, bare_first):
        names = [None, NAMES] if bare_first else [NAMES, None]
        for number, one in enumerate(names):
            shard(tmp_path / "x" / f"{number}.parquet", list(range(6)), one, 10 * number)
        data = parquet.raw_data(tmp_path / "x", ratio="1,1,1")
        assert images(data) == dict.fromkeys(NAMES, 2)
        assert "1 of the files state no class names" in data.warnings[0]

    def test_names_in_another_order(self, tmp_path):
        shard(tmp_path / "x" / "0.parquet", list(range(6)), NAMES)
        shard(tmp_path / "x" / "1.parquet", [0], NAMES[::-1], 10)
        data = parquet.raw_data(tmp_path / "x", ratio="1,1,1")
        assert images(data) == dict.fromkeys(NAMES, 1) | {"name5": 2}
        assert "numbers the classes otherwise" in data.warnings[0]
        shard(tmp_path / "x" / "2.parquet", [0], None, 20)
        with pytest.raises(DataError, match="expected one naming of the classes in all files, received two"):
            parquet.raw_data(tmp_path / "x", ratio="1,1,1")

    def test_other_names(self, tmp_path):
        shard(tmp_path / "x" / "0.parquet", list(range(6)), NAMES)
        shard(tmp_path / "x" / "1.parquet", list(range(6)), [f"class_{number}" for number in range(6)])
        with pytest.raises(DataError, match=r"0\.parquet has 6 names \('name0', .*1\.parquet has 6 names \('class_0'"):
            parquet.raw_data(tmp_path / "x")

    def test_text_beside_numbers(self, tmp_path):
        shard(tmp_path / "x" / "0.parquet", NAMES)
        shard(tmp_path / "x" / "1.parquet", list(range(6)), None, 10)
        with pytest.raises(DataError, match=r"1\.parquet has numbers without names, .*0\.parquet has text"):
            parquet.raw_data(tmp_path / "x")
        shard(tmp_path / "x" / "1.parquet", list(range(6)), NAMES, 10)
        assert images(parquet.raw_data(tmp_path / "x", ratio="1,1,1")) == dict.fromkeys(NAMES, 2)
        shard(tmp_path / "x" / "2.parquet", ["Name0"], None, 20)
        with pytest.raises(DataError, match=r"2\.parquet, row 0: expected one of the class names .* 'Name0'"):
            parquet.raw_data(tmp_path / "x")

    def test_spaces_and_forms_of_numbers(self, tmp_path):
        shard(tmp_path / "x" / "0.parquet", [*NAMES, "name0 ", " name1"])
        data = parquet.raw_data(tmp_path / "x", ratio="1,1,1")
        assert images(data) == dict.fromkeys(NAMES, 1) | {"name0": 2, "name1": 2}
        assert [warning[:17] for warning in data.warnings] == ["'name0', 'name0 '", "' name1', 'name1'"]
        shard(tmp_path / "x" / "0.parquet", list(range(6)))
        shard(tmp_path / "x" / "1.parquet", [float(number) for number in range(6)], None, 10)
        shard(tmp_path / "x" / "2.parquet", [True, False], None, 20)
        assert images(parquet.raw_data(tmp_path / "x", ratio="1,1,1")) == dict.fromkeys("012345", 3) | dict.fromkeys(
            "2345", 2
        )

    def test_float_labels(self, tmp_path):
        path = shard(tmp_path / "x" / "0.parquet", [float(number) for number in range(6)], NAMES)
        assert images(parquet.raw_data(path, ratio="1,1,1")) == dict.fromkeys(NAMES, 1)
        assert images(parquet.raw_data(path, ratio="1,1,1", label_column="label")) == dict.fromkeys(NAMES, 1)
        for value, message in ((0.5, "row 1: expected a whole number as label, received 0.5"), (None, "received none")):
            with pytest.raises(DataError, match=message):
                parquet.raw_data(shard(path, [0.0, value]))
        for value in (float("nan"), float("inf")):
            with pytest.raises(DataError, match="row 1: expected a "):
                parquet.raw_data(shard(path, [0.0, value]))

    @pytest.mark.parametrize("asked", [None, "label"])
    def test_a_column_that_cannot_be_used_is_said_to_be_there(self, tmp_path, asked):
        path = shard(tmp_path / "x" / "0.parquet", [[1], [2]])
        with pytest.raises(DataError, match=r"a column 'label' of .*the column is there, but holds list<.*--label-col"):
            parquet.raw_data(path, label_column=asked)

    def test_other_files_are_counted(self, tmp_path):
        shard(tmp_path / "x" / "0.PARQUET", list(range(6)))
        shard(tmp_path / "x" / "1.pq", list(range(6)), None, 10)
        (tmp_path / "x" / "README.md").touch()
        data = parquet.raw_data(tmp_path / "x", ratio="1,1,1")
        assert images(data) == dict.fromkeys("012345", 2)
        assert list(data.left_out.as_plain()) == ["a .md file"]


class TestDuplicates:
    def test_each_kind_is_counted_and_named(self, photos, prepared, tmp_path):
        for split, numbers in zip(SPLITS, ("0123", "45", "678"), strict=True):
            (tmp_path / f"{split}.txt").write_text("".join(f"k{number}\n" for number in numbers))
        (photos / "k0" / "again.png").write_bytes((photos / "k0" / "0.png").read_bytes())
        (photos / "k2" / "other.bmp").write_bytes(encoded(noise(10), "BMP"))  # of k1, in another form
        (photos / "k8" / "held.png").write_bytes((photos / "k3" / "1.png").read_bytes())
        origin = prepared(photos, lists=tmp_path).origin
        assert origin["duplicates"] == {
            "within_class": 1,
            "across_classes": 1,
            "across_splits": 1,
            "first": {
                "within_class": [[str(photos / "k0" / "0.png"), str(photos / "k0" / "again.png")]],
                "across_classes": [[str(photos / "k1" / "0.png"), str(photos / "k2" / "other.bmp")]],
                "across_splits": [[str(photos / "k3" / "1.png"), str(photos / "k8" / "held.png")]],
            },
        }
        assert len(origin["warnings"]) == 3
        assert origin["warnings"][0].startswith("1 images of one split are the same pixels as an image of another")

    def test_many_equal_images(self, photos, prepared):
        for number in range(9):
            for image in range(40):
                (photos / f"k{number}" / f"w{image}.png").write_bytes(encoded(np.full((6, 6, 3), 255, np.uint8)))
        assert prepared(photos).origin["duplicates"]["across_splits"] == 359

    def test_no_duplicates(self, photos, prepared):
        found = prepared(photos).origin["duplicates"]
        assert found == {"within_class": 0, "across_classes": 0, "across_splits": 0, "first": {}}


class TestDepths:
    def deep(self, photos: Path, most: int, form: str = "PNG") -> None:
        for number in range(9):
            for image in range(2):
                (photos / f"k{number}" / f"{image}.png").unlink(missing_ok=True)
                values = np.linspace(0, most, 36, dtype=np.uint16).reshape(6, 6)
                values[0, 1] = number * 2 + image
                suffix = {"PNG": "png", "TIFF": "tif"}[form]
                (photos / f"k{number}" / f"{image}.{suffix}").write_bytes(encoded(values, form))

    @pytest.mark.parametrize("form", ["PNG", "TIFF"])
    @pytest.mark.parametrize(("most", "bits"), [(65535, 16), (4095, 12), (1023, 10), (16000, 14), (255, 8)])
    def test_the_bits_that_are_used_are_scaled_to_8(self, photos, prepared, tmp_path, form, most, bits):
        self.deep(photos, most, form)
        manifest = prepared(photos, grey=True)
        pixels = ImageStore(tmp_path / "store").images("train", 0)
        assert pixels.max() == most >> (bits - 8)
        assert pixels.mean() > 100
        warnings = [f"the images of 16 bits use {bits} at most; these were scaled to 8"] if bits < 16 else []
        assert other_warnings(manifest) == warnings

    def test_dark_ones_beside_others_are_named(self, photos, prepared):
        self.deep(photos, 65535)
        (photos / "k3" / "dark.png").write_bytes(encoded(np.full((6, 6), 4000, np.uint16)))
        (warning,) = other_warnings(prepared(photos, grey=True))
        assert warning.startswith("1 images of 16 bits come out nearly black")
        assert warning.endswith("k3/dark.png")

    @pytest.mark.parametrize("most", [4095, 65535])
    def test_colour_of_16_bits(self, photos, prepared, tmp_path, most):
        """Pillow writes none, so this is a PPM-like PNG made by hand."""
        import struct
        import zlib

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        values = np.linspace(0, most, 108, dtype=">u2").reshape(6, 18)
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (photos / "k0" / "deep.png").write_bytes(data)
        if most == 65535:
            assert prepared(photos).origin["warnings"] == []
            return
        with pytest.raises(DataError, match=r"16-bit colour images .* of 12 bits, .*k0/deep\.png.*scale them"):
            prepared(photos)
        assert not (tmp_path / "store").exists()

    def test_other_kinds_of_pictures(self, photos, prepared, tmp_path):
        pgm = b"P5 6 6 4095\n" + np.full((6, 6), 2048, ">u2").tobytes()
        (photos / "k0" / "2.pgm").write_bytes(pgm)
        picture = Image.fromarray(noise(50))
        picture.convert("P").save(photos / "k1" / "palette.gif")
        picture.convert("1").save(photos / "k2" / "bits.tif")
        picture.convert("CMYK").save(photos / "k3" / "ink.jpg")
        picture.convert("LA").save(photos / "k4" / "alpha.png")
        more = [Image.fromarray(noise(number)) for number in (51, 52)]
        picture.save(photos / "k5" / "film.gif", save_all=True, append_images=more)
        picture.save(photos / "k6" / "pages.tiff", save_all=True, append_images=more)
        manifest = prepared(photos)
        assert sum(info.images for info in manifest.splits.values()) == 25
        warning = "2 images have several frames or pages, of which the first is used; first: "
        assert [one[: len(warning)] for one in other_warnings(manifest)] == [warning]
        store = ImageStore(tmp_path / "store")
        split, number = next((s, store.names(s).index("k0")) for s in SPLITS if "k0" in store.names(s))
        assert abs(int(store.images(split, number)[2].mean()) - 128) <= 1


def test_large_classes_lie_on_the_disk_while_they_are_decoded(photos, prepared, monkeypatch):
    plain = prepared(photos).fingerprint
    monkeypatch.setattr(spill, "IN_MEMORY", 0)
    assert prepared(photos).fingerprint == plain


def test_room_is_compared_before_the_first_image(photos, prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(DataError, match=r"expected room for the store .*, 1\.9 KiB, there are 1000 bytes; make room"):
        prepared(photos)
    assert not (tmp_path / "store").exists()


def test_a_store_is_much_larger_than_its_images_only_if_asked(photos, prepared, monkeypatch):
    monkeypatch.setattr(limits, "FREE_STORE", 1 << 20)
    with pytest.raises(DataError, match=r"photos: expected a store at most 200 times as large .*--max-ratio"):
        prepared(photos, size=500)
