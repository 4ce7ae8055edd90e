"""Small files that would fill memory or disk, and archives that lead out of their folder."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tasks.data import limits
from tasks.data.archives import extract
from tasks.data.catalogue import prepare_source
from tasks.data.decode import bounded, decode
from tasks.data.errors import BrokenImage, DataError
from tasks.data.limits import Limits
from tasks.data.pickles import load_pickle
from tasks.data.sources import mini_imagenet, omniglot, parquet
from tasks.data.sources.base import RawImage

FREE = 1 << 20
LARGE = 3 << 20  # bytes of zeros: above what is free of the ratio


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Less is free of the ratios than else, so that small files do for tests."""
    monkeypatch.setattr(limits, "FREE", FREE)
    monkeypatch.setattr(limits, "FREE_STORE", 100 << 20)


def png(shape: tuple[int, ...] = (4, 4), mode: str = "L") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, shape).save(stream, "PNG")
    return stream.getvalue()


class Zeros(io.RawIOBase):
    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1, /) -> bytes:
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, target, size
    return made


def bomb(path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/x.png", "w") as file:
            for _ in range(LARGE >> 20):
                file.write(bytes(1 << 20))
    else:
        with tarfile.open(
            path,
            f"w:{path.suffix[1:]}",
        ) as tar:
            tar.addfile(member("a/x.png", size=LARGE), Zeros(LARGE))
    return path


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class TestArchives:
    @pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
    def test_bombs_are_stopped_while_they_are_unpacked(self, tmp_path, ending):
        path = bomb(tmp_path / f"x.{ending}")
        with pytest.raises(DataError, match=rf"x\.{ending}: expected data that grow at most 200 times .* --max-ratio"):
            extract(path, tmp_path / "target")
        assert bytes_below(tmp_path / "target") <= FREE + (1 << 20)
        with pytest.raises(DataError, match=r"at most 0\.001 GiB when unpacked.*--max-size"):
            extract(path, tmp_path / "other", Limits(size=0.001, ratio=10**5))
        assert bytes_below(tmp_path / "other") <= FREE + (1 << 20)

    def test_a_trusted_bomb_is_unpacked(self, tmp_path):
        extract(bomb(tmp_path / "x.zip"), tmp_path / "target", Limits(ratio=2000))
        assert bytes_below(tmp_path / "target") == LARGE

    @pytest.mark.parametrize("ending", ["zip", "tar"])
    def test_entries_are_counted(self, tmp_path, ending):
        path = tmp_path / f"x.{ending}"
        if ending == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for number in range(20):
                    archive.writestr(f"a/{number}", "")
        else:
            with tarfile.open(path, "w") as tar:
                for number in range(20):
                    tar.addfile(member(f"a/{number}"))
        with pytest.raises(DataError, match=r"at most 10 files or rows, received 11 or more.*--max-files"):
            extract(path, tmp_path / "target", Limits(files=10))
        extract(path, tmp_path / "all", Limits(files=20))
        assert len(list((tmp_path / "all" / "a").iterdir())) == 20

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
    def test_a_header_as_large_as_the_memory(self, tmp_path, kind):
        with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
            file.write(member("x", kind, size=2 << 20).tobuf(tarfile.USTAR_FORMAT))
            file.write(bytes(2 << 20))
            file.write(member("a/x.png").tobuf() + bytes(1024))
        with pytest.raises(DataError, match="a header of 2097152 bytes, expected at most 1048576"):
            extract(tmp_path / "x.tar.gz", tmp_path / "target")

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            (tarfile.SYMTYPE, "the link 'a/l'"),
            (tarfile.LNKTYPE, "the hard link 'a/l'"),
            (tarfile.CHRTYPE, "the device 'a/l'"),
            (tarfile.BLKTYPE, "the device 'a/l'"),
            (tarfile.FIFOTYPE, "the pipe 'a/l'"),
            (b"M", "the entry of unknown kind b'M' 'a/l'"),
        ],
    )
    @pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
    def test_links_and_devices_in_tar(self, tmp_path, kind, said, ending):
        with tarfile.open(tmp_path / f"x.{ending}", f"w:{ending[4:]}") as tar:
            tar.addfile(member("a/first", size=1), io.BytesIO(b"x"))
            tar.addfile(member("a/l", kind, "first"))
        with pytest.raises(DataError, match=f"expected plain files inside the target, received {said}"):
            extract(tmp_path / f"x.{ending}", tmp_path / "target")
        assert not os.path.lexists(tmp_path / "target" / "a" / "l")

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
    def test_links_and_devices_in_zip(self, tmp_path, kind):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("first", "x")
            info = zipfile.ZipInfo("a/l")
            info.external_attr = (kind | 0o777) << 16
            archive.writestr(info, "first")
        with pytest.raises(DataError, match=r"expected plain files .* received the (link|special file) 'a/l'"):
            extract(tmp_path / "x.zip", tmp_path / "target")
        assert not any((tmp_path / "target").iterdir())

    def test_a_chain_of_overlong_links(self, tmp_path):
        """CVE-2025-4517: names that only together are too long for realpath, which then stops following links."""
        steps = "abcdefghijklmnop"
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            place = ""
            for step in steps:
                tar.addfile(member(place + (long := "d" * 247), tarfile.DIRTYPE))
                tar.addfile(member(place + step, tarfile.SYMTYPE, long))
                place += f"{long}/"
            chain = "/".join(steps) + "/" + "l" * 254
            tar.addfile(member(chain, tarfile.SYMTYPE, "../" * len(steps)))
            tar.addfile(member("escape", tarfile.SYMTYPE, chain + "/../../../victims"))
            tar.addfile(member("flag", tarfile.LNKTYPE, "escape/victim"))
            tar.addfile(member("flag", size=4), io.BytesIO(b"evil"))
        (tmp_path / "victims").mkdir()
        (tmp_path / "victims" / "victim").write_text("good")
        with pytest.raises(DataError, match="received the link 'a'"):
            prepare_source("folder", tmp_path / "x.tar", str(tmp_path / "deep" / "store"), {})
        assert (tmp_path / "victims" / "victim").read_text() == "good"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["victims", "x.tar"]

    def test_a_link_that_is_there_before(self, tmp_path):
        """Every resolved target is compared, however the link came into the folder."""
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "a").symlink_to(tmp_path)
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("a/x.png", "evil")
        with pytest.raises(DataError, match=r"received 'a/x\.png', which leads out"):
            extract(tmp_path / "x.zip", tmp_path / "target")
        assert not (tmp_path / "x.png").exists()

    @pytest.mark.parametrize("names", [("a/x", "a/x"), ("a", "a/x"), ("a/x", "a")])
    def test_paths_that_are_there_twice(self, tmp_path, names):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for number, name in enumerate(names):
                tar.addfile(member(name, size=1), io.BytesIO(bytes([number])))
        with pytest.raises(DataError, match="expected every path once, received 'a"):
            extract(tmp_path / "x.tar", tmp_path / "target")

    def test_holes_overlong_names_and_entries_that_overlap(self, tmp_path):
        sparse = member("a/x", tarfile.GNUTYPE_SPARSE, size=0).tobuf(tarfile.GNU_FORMAT)
        (tmp_path / "holes.tar").write_bytes(sparse + bytes(1024))
        with pytest.raises(DataError, match="the file with holes 'a/x'"):
            extract(tmp_path / "holes.tar", tmp_path / "1")
        with tarfile.open(tmp_path / "name.tar", "w") as tar:
            tar.addfile(member("n" * 300))
        with pytest.raises(DataError, match=r"names that this system takes, received 'nnn.*of 300 characters"):
            extract(tmp_path / "name.tar", tmp_path / "2")
        back = bytearray(member("a/x").tobuf(tarfile.GNU_FORMAT))
        back[124:136] = b"\xff" * 10 + b"\xfe\x00"  # a size below zero
        back[148:156] = b"%06o\0 " % (256 + sum(back[:148]) + sum(back[156:512]))
        (tmp_path / "back.tar").write_bytes(bytes(back) + bytes(1024))
        with pytest.raises(DataError, match="cannot unpack it"):
            extract(tmp_path / "back.tar", tmp_path / "3")

    def test_nothing_vanishes_behind_an_end_mark_or_a_damaged_header(self, tmp_path):
        parts = []
        for number in range(2):
            with tarfile.open(tmp_path / "part.tar", "w") as tar:
                tar.addfile(member(f"a/{number}", size=600), io.BytesIO(bytes([7]) * 600))
            parts.append((tmp_path / "part.tar").read_bytes())
        for name, data, message in (
            ("two", parts[0] + parts[1], "more data come after its end mark"),
            ("damaged", parts[0][:1536] + b"\x01" * 512 + parts[1], "damaged header in the middle"),
            ("cut", parts[0][:1536], "it has no end mark"),
        ):
            (tmp_path / f"{name}.tar").write_bytes(data)
            with pytest.raises(DataError, match=message):
                extract(tmp_path / f"{name}.tar", tmp_path / name)

    def test_a_tar_archive_that_ends_with_a_zip_archive(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "inner.zip", "w") as archive:
            archive.writestr("inside", "x")
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            tar.add(tmp_path / "inner.zip", "a/inner.zip")
        extract(tmp_path / "x.tar", tmp_path / "target")
        assert [path.name for path in (tmp_path / "target").iterdir()] == ["a"]

    @pytest.mark.parametrize("opened", [open, gzip.open, bz2.open, lzma.open])
    def test_any_compression_under_any_name(self, tmp_path, opened):
        with opened(tmp_path / "x.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
            for number in range(30):
                tar.addfile(member(f"a/{number}", size=number), io.BytesIO(bytes(number)))
        extract(tmp_path / "x.tar", tmp_path / "target")
        assert [(tmp_path / "target" / "a" / str(n)).stat().st_size for n in range(30)] == list(range(30))


def repeated(path: Path, value: bytes, rows: int, **columns: object) -> Path:
    """A table that holds one image, and says that it stands in every row."""
    images = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value], pa.binary()))
    labels = np.sort(np.arange(rows, dtype=np.int32) % 12)
    made = pa.table({"image": images, "label": labels, **columns})
    pq.write_table(
        made, path, row_group_size=rows, store_schema=False, compression="zstd", dictionary_pagesize_limit=1 << 30
    )
    return path


class TestTables:
    def test_rows_are_counted_before_they_are_read(self, tmp_path):
        path = repeated(tmp_path / "x.parquet", png(), 50_000)
        assert path.stat().st_size < 3000
        with pytest.raises(DataError, match=r"x\.parquet: expected at most 20,000 files or rows, received 50,000"):
            parquet.raw_data(path, limits=Limits(files=20_000))
        one, other = repeated(tmp_path / "a.parquet", png(), 60), repeated(tmp_path / "b.parquet", png(), 60)
        assert (one.exists(), other.exists()) == (True, True)
        with pytest.raises(DataError, match="at most 100 files or rows, received 120"):
            parquet.raw_data(tmp_path / "[ab].parquet", limits=Limits(files=100))

    def test_rows_that_repeat_one_image(self, tmp_path):
        path = repeated(tmp_path / "x.parquet", png((100, 100), "RGB"), 20_000)
        with pytest.raises(DataError, match=r"x\.parquet: expected data that grow at most 200 times .*--max-ratio"):
            parquet.raw_data(path)

    def test_one_value_as_large_as_the_memory(self, tmp_path):
        path = repeated(tmp_path / "x.parquet", bytes(LARGE), 300)
        with pytest.raises(DataError, match=r"x\.parquet: expected data that grow at most 200 times"):
            parquet.raw_data(path)

    def test_few_rows_of_large_values_are_read_at_a_time(self, tmp_path):
        path = repeated(tmp_path / "x.parquet", bytes(40 << 20), 24)
        with pq.ParquetFile(path) as table:
            assert parquet._batch(table.metadata, "image") == 6
            rows = [batch.num_rows for batch in table.iter_batches(6, columns=["image"])]
        assert max(rows) <= 6

    def test_a_store_much_larger_than_the_raw_data(self, tmp_path, monkeypatch):
        monkeypatch.setattr(limits, "FREE", 1 << 30)
        path = repeated(tmp_path / "x.parquet", png(), 12_000)
        with pytest.raises(DataError, match=r"a store at most 200 times .* would take 242\.2 MiB from .*--max-ratio"):
            prepare_source("parquet", path, str(tmp_path / "s"), {})
        with pytest.raises(DataError, match=r"a store of at most 0\.1 GiB, .* would take 242\.2 MiB; lower --size"):
            prepare_source("parquet", path, str(tmp_path / "s"), {}, limits=Limits(size=0.1))
        assert not (tmp_path / "s").exists()


class TestPickles:
    @pytest.mark.parametrize(
        ("program", "message"),
        [
            (b"Nr\xff\xff\xff\x0f.", "opcode LONG_BINPUT says 268435455, the file has room for"),
            (b"Np268435455\n.", "opcode PUT says 268435455"),
            (b"Np-1\n.", "opcode PUT says -1"),
            (b"\x96" + (1 << 30).to_bytes(8, "little") + b".", "opcode BYTEARRAY8 says 1073741824"),
            (b"\x8e" + (1 << 40).to_bytes(8, "little") + b".", "opcode BINBYTES8 says 1099511627776"),
            (b"\x8d" + (1 << 40).to_bytes(8, "little") + b".", "opcode BINUNICODE8 says"),
            (b"B\xff\xff\xff\x7f.", "opcode BINBYTES says 2147483647"),
            (b"T\xff\xff\xff\x7f.", "opcode BINSTRING says 2147483647"),
            (b"\x8b\xff\xff\xff\x7f.", "opcode LONG4 says 2147483647"),
            (b"\x95" + (1 << 40).to_bytes(8, "little") + b"N.", "opcode FRAME says"),
            (b"\xff.", "unknown opcode"),
            (b"N", "it has no end"),
        ],
    )
    def test_lengths_that_are_not_there(self, tmp_path, program, message):
        (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + program)
        with pytest.raises(DataError, match=rf"x\.pkl: expected a pickle of arrays, cannot read it: .*{message}"):
            load_pickle(tmp_path / "x.pkl")

    def test_more_than_the_limit(self, tmp_path):
        (tmp_path / "x.pkl").write_bytes(b"\x80\x04(" + b"\x8f" * 100_000 + b"l.")  # empty sets, a byte each
        assert len(load_pickle(tmp_path / "x.pkl")) == 100_000
        with pytest.raises(DataError, match=r"at most 0\.01 GiB in memory, .* may take 24\.4 MiB.*--max-memory"):
            load_pickle(tmp_path / "x.pkl", Limits(memory=0.01))

    @pytest.mark.parametrize(
        "copy",
        [
            b"cbuiltins\nset\nh\x00\x85R0",
            b"cbuiltins\nfrozenset\nh\x00\x85R0",
            b"cbuiltins\nbytearray\nh\x01\x85R0",
            b"c_codecs\nencode\nh\x02\x85R0",
        ],
    )
    def test_calls_that_copy_one_thing_many_times(self, tmp_path, copy):
        numbers = b"(" + b"".join(b"M" + bytes([n % 256, n // 256]) for n in range(20_000)) + b"tq\x000"
        data = b"B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b"q\x010"
        text = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20) + b"q\x020"
        program = b"\x80\x04" + numbers + data + text + copy * 2000 + b"N."
        (tmp_path / "x.pkl").write_bytes(program)
        with pytest.raises(DataError, match=r"x\.pkl: expected at most 0\.5 GiB in memory"):
            load_pickle(tmp_path / "x.pkl", Limits(memory=0.5))

    def test_one_text_for_many_arrays(self, tmp_path):
        array = (
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\x01btR(K\x01J\x00\x00\x10\x00\x85"
            b"cnumpy\ndtype\n(X\x02\0\0\0u1tR\x89h\x01tb0"
        )
        data = b"B" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b"q\x010"
        (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + data + array * 600 + b"N.")
        with pytest.raises(DataError, match=r"x\.pkl: expected at most 0\.5 GiB in memory"):
            load_pickle(tmp_path / "x.pkl", Limits(memory=0.5))

    def test_lists_of_lists_of_lists(self, tmp_path):
        """A hundred references to a hundred references …: what would be built from them has no end."""
        nested: object = [0]
        for _ in range(40):
            nested = [nested] * 100
        key: object = ()
        for _ in range(25):
            key = (key, key)
        images = np.zeros((2, 5, 5, 3), np.uint8)
        rows = list(range(2))
        for content, message in (
            ({"image_data": nested, "class_dict": {}}, "expected uint8 images of shape"),
            ({"image_data": images, "class_dict": {"a": nested}}, "with lists of indices, class 'a' has others"),
            ({"image_data": images, "class_dict": {key: [0]}}, "with names of classes, received a tuple"),
            ({"image_data": images, "class_dict": dict.fromkeys("abcd", rows)}, "2 images and 4 or more indices"),
            ({"image_data": np.zeros(3, np.dtype("S9"))[:, None], "class_dict": {}}, "expected uint8 images"),
        ):
            for split in ("train", "val", "test"):
                (tmp_path / f"mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(content))
            with pytest.raises(DataError, match=message) as caught:
                mini_imagenet.raw_data(tmp_path)
            assert len(str(caught.value)) < 2000
        shape = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85C\x01btR(K\x01X\x03\0\0\0abcNNNtb."
        (tmp_path / "x.pkl").write_bytes(b"\x80\x04" + shape)
        with pytest.raises(DataError, match="an array of shape 'abc'"):
            load_pickle(tmp_path / "x.pkl")


def test_arrays_say_their_size_before_there_is_room_made(tmp_path):
    path = tmp_path / "images_background.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        header = {"descr": "|b1", "fortran_order": False, "shape": (1 << 20, 1 << 10, 1 << 10, 1)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match=r"images_background\.npz: expected at most 4 GiB in memory, .*1 TiB"):
        omniglot.raw_data(tmp_path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("images.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (LARGE, 1, 1, 1)})
        for _ in range(LARGE >> 20):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match=r"images_background\.npz: expected data that grow at most 200 times"):
        omniglot.raw_data(tmp_path)


class TestImages:
    def test_pixels_have_a_limit_of_their_own(self):
        image = RawImage(where="x", data=png((300, 300)))
        with (
            bounded(Limits(pixels=80_000)),
            pytest.raises(BrokenImage, match=r"90000 pixels.*--max-pixels"),
        ):
            decode(image, (4, 4, 1), False)
        with bounded(Limits(pixels=90_000)):
            assert decode(image, (4, 4, 1), False).shape == (4, 4, 1)

    def test_devices_pipes_and_folders_are_no_images(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "loop.png").symlink_to("loop.png")
        for name, said in (
            ("pipe", "pipe"),
            ("zero", "device"),
            ("folder", "directory"),
            ("loop", "link to 'loop.png'"),
        ):
            with pytest.raises(BrokenImage, match=said):
                decode(RawImage(where="x", data=tmp_path / f"{name}.png"), (4, 4, 1), False)


@pytest.mark.parametrize("name", ["size", "ratio", "files", "pixels", "memory"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_positive(name, value):
    with pytest.raises(DataError, match=f"expected --max-{name} above 0, received"):
        Limits(**{name: value})
