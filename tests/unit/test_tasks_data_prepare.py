"""Decoding, preparing, and opening by path or URI."""

import io
import os
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.data.cache import manifest_of, open_store
from tasks.data.catalogue import prepare_source
from tasks.data.decode import decode
from tasks.data.decoder import CHUNK
from tasks.data.errors import BrokenImage, DataError
from tasks.data.prepare import AHEAD, prepare
from tasks.data.remote import RemoteStore, has_secret
from tasks.data.sources import glyphs
from tasks.data.sources.base import LazyImages, RawClass, RawData, RawImage
from tasks.data.spill import Spill, put_aside
from tasks.data.store import ImageStore
from tasks.family import SPLITS

ROOT = Path(__file__).parents[2]


def encoded(pixels: np.ndarray, form: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def noise(seed: int, shape: tuple[int, ...] = (6, 5, 3)) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 256, shape, dtype=np.uint8)


def raw(data: object) -> RawImage:
    return RawImage(where="the image", data=data)


def data_set(count: int = 40, **changes) -> RawData:
    """Noise, encoded, of which image i of class c is ``noise(1000 * c + i)``."""

    def one(split: str, number: int) -> RawClass:
        seed = 1000 * (SPLITS.index(split) * 2 + number)
        return RawClass(
            name=f"{split}{number}",
            images=LazyImages(count, lambda i: RawImage(where=f"{split}{number}/{i}", data=encoded(noise(seed + i)))),
        )

    everything = {split: [one(split, number) for number in range(2)] for split in SPLITS}
    return RawData(**{"name": "noise", "image_shape": (6, 5, 3), "classes": everything} | changes)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("METARAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class TestDecode:
    def test_pixels_and_files_alike(self, tmp_path):
        pixels = noise(1)
        (tmp_path / "x.png").write_bytes(encoded(pixels))
        for data in (pixels, encoded(pixels), tmp_path / "x.png", encoded(pixels, "BMP")):
            np.testing.assert_array_equal(decode(raw(data), (6, 5, 3), False), pixels)
            np.testing.assert_array_equal(decode(raw(data), (6, 5, 3), True), 255 - pixels)
        webp = decode(raw(encoded(pixels, "WEBP", lossless=True)), (6, 5, 3), False)
        np.testing.assert_array_equal(webp, pixels)

    def test_size_and_channels(self):
        grey = noise(2, (9, 7))
        expected = np.asarray(Image.fromarray(grey).resize((5, 6), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(decode(raw(encoded(grey)), (6, 5, 1), False)[..., 0], expected)
        np.testing.assert_array_equal(decode(raw(grey), (6, 5, 3), False)[..., 2], expected)

    def test_pictures_are_turned_as_the_camera_was(self):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90° clockwise
        data = encoded(noise(3, (5, 6, 3)), "PNG", exif=exif)
        np.testing.assert_array_equal(decode(raw(data), (6, 5, 3), False), np.rot90(noise(3, (5, 6, 3)), -1))

    def test_transparent_pictures_lie_on_white(self):
        pixels = np.zeros((2, 2, 4), np.uint8)
        pixels[0, 0] = (10, 20, 30, 255)
        np.testing.assert_array_equal(
            decode(raw(encoded(pixels)), (2, 2, 3), False), [[[10, 20, 30], [255] * 3], [[255] * 3, [255] * 3]]
        )

    def test_sixteen_bits_are_scaled_and_not_clipped(self):
        deep = np.array([[0, 256, 32768, 65535]], np.uint16)
        np.testing.assert_array_equal(decode(raw(encoded(deep)), (1, 4, 1), False)[0, :, 0], [0, 1, 128, 255])

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "it is empty"),
            (b"hello", "not a picture in a known format"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture in a known format"),
            (encoded(noise(4, (64, 64, 3)), "JPEG")[:-200], "truncated"),
            (encoded(noise(4, (64, 64, 3)))[:-400], "truncated"),
            (encoded(noise(4, (64, 64, 3)), "BMP")[:-400], "truncated"),
            (encoded(noise(4, (64, 64, 3)), "WEBP")[:-400], ""),
        ],
    )
    def test_broken_images(self, data, reason):
        with pytest.raises(BrokenImage, match=f"^the image: expected an image, .*{reason}.*--skip-broken"):
            decode(raw(data), (6, 5, 3), False)

    def test_every_cut_of_an_image_is_noticed(self):
        whole = encoded(noise(5, (16, 16, 3)), "JPEG")
        for length in range(0, len(whole) - 40, 7):
            with pytest.raises(BrokenImage):
                decode(raw(whole[:length]), (16, 16, 3), False)

    def test_too_many_pixels(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
        with pytest.raises(BrokenImage):
            decode(raw(encoded(noise(1))), (6, 5, 3), False)


class TestPrepare:
    @pytest.mark.parametrize("workers", [1, 3])
    def test_every_image_comes_to_its_place(self, tmp_path, workers):
        seen = []
        manifest = prepare(
            data_set(), str(tmp_path / "s"), workers=workers, progress=lambda done, total: seen.append((done, total))
        )
        store = ImageStore(tmp_path / "s")
        assert store.manifest == manifest
        for at, split in enumerate(SPLITS):
            assert store.names(split) == (f"{split}0", f"{split}1")
            for number in range(2):
                expected = np.stack([noise(1000 * (at * 2 + number) + i) for i in range(40)])
                np.testing.assert_array_equal(store.images(split, number), expected)
        assert seen == sorted(seen)
        assert seen[-1] == (240, 240)

    def test_the_number_of_threads_changes_no_bit(self, tmp_path):
        prints = {prepare(data_set(), str(tmp_path / str(n)), workers=n).fingerprint for n in (1, 2, 5)}
        assert len(prints) == 1

    def test_systems_that_do_not_tell_which_cores_may_be_used(self, tmp_path, monkeypatch):
        monkeypatch.delattr(os, "sched_getaffinity")
        for cores in (3, None):
            monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
            assert prepare(data_set(2), str(tmp_path / str(cores))).splits["train"].images == 4

    def test_only_a_few_images_are_under_way(self, tmp_path):
        """However large a class, no more than the jobs ahead are read before the first is done."""
        read, ahead = [], []

        def one(number: int) -> RawImage:
            read.append(number)
            return raw(noise(0, (1, 1, 3)))

        many = {split: [RawClass(name=f"{split}{n}", images=LazyImages(2000, one)) for n in (0, 1)] for split in SPLITS}
        prepare(
            data_set(image_shape=(1, 1, 3), classes=many),
            str(tmp_path / "s"),
            workers=2,
            progress=lambda done, total: ahead.append(len(read) - done),
        )
        assert max(ahead) <= 2 * AHEAD * CHUNK

    def test_broken_images_are_named_or_left_out_and_counted(self, tmp_path):
        good = data_set(5)
        images = list(good.classes["val"][1].images)
        images[3] = RawImage(where="photos/cut.jpg", data=encoded(noise(9), "JPEG")[:-50])
        classes = dict(good.classes) | {"val": [good.classes["val"][0], RawClass(name="v", images=images)]}
        bad = data_set(classes=classes)
        with pytest.raises(BrokenImage, match=r"^photos/cut\.jpg: .* --skip-broken"):
            prepare(bad, str(tmp_path / "s"))
        assert list(tmp_path.iterdir()) == []
        manifest = prepare(bad, str(tmp_path / "s"), skip_broken=True)
        assert manifest.origin["skipped"] == 1
        assert manifest.splits["val"].images == 9
        assert ImageStore(tmp_path / "s").sizes("val") == [5, 4]

    def test_a_class_of_broken_images_only(self, tmp_path):
        classes = dict(data_set(2).classes)
        classes["test"] = [*classes["test"], RawClass(name="bad", images=[raw(b"x")])]
        with pytest.raises(DataError, match="bad: expected images in every class, all of this one's are broken"):
            prepare(data_set(classes=classes), str(tmp_path / "s"), skip_broken=True)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda classes: classes.pop("val"), "at least 2 classes in every split, received train 2, val 0, test 2"),
            (lambda classes: classes.update(test=classes["test"][:1]), "received train 2, val 2, test 1"),
            (lambda classes: classes.update(test=classes["train"]), "received 'train0' in train and test"),
            (
                lambda classes: classes.update(val=[classes["val"][0], RawClass(name="empty", images=[])]),
                "class 'empty' of val has none",
            ),
        ],
    )
    def test_classes_that_do_not_fit(self, tmp_path, change, message):
        classes = dict(data_set(2).classes)
        change(classes)
        with pytest.raises(DataError, match=message):
            prepare(data_set(classes=classes), str(tmp_path / "s"))
        assert list(tmp_path.iterdir()) == []

    def test_spilled_bytes_come_back(self):
        with Spill() as spill:
            keys = [spill.put(piece) for piece in (b"one", b"", b"three")]
        assert [spill.get(key) for key in keys] == [b"one", b"", b"three"]
        np.testing.assert_array_equal(put_aside(noise(1)), noise(1))
        assert put_aside(noise(1)[:0]).shape == (0, 5, 3)


class TestOpen:
    def test_a_folder_is_used_where_it_lies(self, tmp_path, cache):
        prepare(data_set(2), str(tmp_path / "s"))
        assert open_store(str(tmp_path / "s")).root == tmp_path / "s"
        assert not cache.exists()

    def test_a_remote_store_is_written_and_copied(self, tmp_path, cache):
        uri = (tmp_path / "far" / "s").as_uri()
        manifest = prepare(data_set(2), uri)
        assert {path.name for path in (tmp_path / "far" / "s").iterdir()} == {
            "manifest.json",
            "train.arrow",
            "val.arrow",
            "test.arrow",
        }
        assert not cache.exists() or not any(cache.iterdir())
        store = open_store(uri)
        assert (store.manifest, store.root) == (manifest, cache / "stores" / manifest.fingerprint)
        np.testing.assert_array_equal(store.images("train", 0)[1], noise(1))
        with pytest.raises(DataError, match=r"there is a store at .*--replace"):
            prepare(data_set(3), uri)
        assert prepare(data_set(3), uri, replace=True).fingerprint == open_store(uri).root.name != store.root.name

    def test_a_damaged_remote_store_is_not_kept(self, tmp_path, cache):
        uri = (tmp_path / "far").as_uri()
        prepare(data_set(2), uri)
        damaged = tmp_path / "far" / "val.arrow"
        data = bytearray(damaged.read_bytes())
        data[-300] ^= 1
        damaged.write_bytes(bytes(data))
        with pytest.raises(DataError, match=r"val\.arrow: expected SHA-256 \w+, received"):
            open_store(uri)
        assert [path.suffix for path in (cache / "stores").iterdir()] == [".lock"]

    def test_an_upload_that_fails_leaves_nothing(self, tmp_path, cache, monkeypatch):
        at = RemoteStore._at
        monkeypatch.setattr(RemoteStore, "_at", lambda self, name: at(self, name.replace("test", "nowhere/test")))
        uri = (tmp_path / "far" / "s").as_uri()
        with pytest.raises(OSError, match=r"nowhere/test\.arrow"):
            prepare(data_set(2), uri)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "far" / "s").mkdir(parents=True)
        with pytest.raises(OSError, match=r"nowhere/test\.arrow"):
            prepare(data_set(2), uri)
        assert list((tmp_path / "far").rglob("*")) == [tmp_path / "far" / "s"]
        assert not cache.exists()

    def test_other_peoples_remote_files_are_left_alone(self, tmp_path, cache):
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "test.arrow").write_text("mine")
        for root in (tmp_path / "far", tmp_path / "far" / "test.arrow"):
            for replace in (False, True):
                with pytest.raises(DataError, match=r"'file:.*' holds something else \(test\.arrow\); name"):
                    prepare(data_set(2), root.as_uri(), replace=replace)
        assert (tmp_path / "far" / "test.arrow").read_text() == "mine"
        # Files that came after the first look are left alone too.
        prepare(data_set(2), str(tmp_path / "s"))
        store = RemoteStore((tmp_path / "far").as_uri())
        with pytest.raises(DataError, match="holds something else"):
            store.upload(tmp_path / "s", ImageStore(tmp_path / "s").manifest)
        assert (tmp_path / "far" / "test.arrow").read_text() == "mine"

    def test_a_remote_store_is_verified_where_it_lies(self, tmp_path, cache):
        uri = (tmp_path / "far").as_uri()
        manifest = prepare(data_set(2), uri)
        assert manifest_of(uri, verify=True) == manifest_of(uri) == manifest
        assert not (cache / "stores").exists()
        path = tmp_path / "far" / "val.arrow"
        data = path.read_bytes()
        path.write_bytes(data[:-300] + bytes([data[-300] ^ 1]) + data[-299:])
        with pytest.raises(DataError, match=r"far/val\.arrow: expected SHA-256 \w+, received"):
            manifest_of(uri, verify=True)
        path.unlink()
        with pytest.raises(DataError, match=r"far/val\.arrow: expected a split's file; prepare the data again"):
            manifest_of(uri, verify=True)

    @pytest.mark.parametrize(
        ("root", "message"),
        [
            ("file:///nowhere/at/all", "found none; make one with"),
            ("nosuch://x/y", "expected a folder or a URI that pyarrow.fs reads"),
            ("s3://[x", "received one at '…' that it cannot"),
            ("s3://some-bucket/x?regoin=hidden", "received one at 's3://some-bucket' that it cannot"),
            ("s3://AKIA:hidden", "received one at 's3://AKIA' that it cannot"),
            ("s3://AKIA:hidden%2", "received one at 's3://AKIA' that it cannot"),
            ("s3://key:hidden@bucket/x", "without a password.* at 's3://…'; give credentials in the environment"),
            ("s3://AKIA:hid/den@bucket/p", "without a password"),  # how Amazon's secrets look
            ("s3://AKIA:hid/den@bucket/p@q", "without a password"),
            ("s3://AKIA%3Ahidden%40bucket/p", "without a password"),
            ("s3://AKIA:hid?den@bucket/p", "without a password"),
            ("hidden s3://AKIA:hid/den@bucket/p", "without a password.* at '…'"),
            ("hdfs://user:hidden@host:8020/p", "without a password"),
            ("s3://bucket/p?secret=hidden", "without a password, key or token"),
            ("s3://bucket/p?region=x&access_key=hidden", "without a password, key or token"),
            ("abfs://c@a.dfs.core.windows.net/p?client_secret=hidden", "without a password, key or token"),
            ("gs://bucket/p?scheme=http;TOKEN=hidden", "without a password, key or token"),
            ("gs://bucket/p#sig=hidden", "without a password, key or token"),
            ("s3://bucket/p?X-Amz-Signature=hidden", "without a password, key or token"),
            ("s3://bucket/p?k%65y=hidden", "without a password, key or token"),
        ],
    )
    def test_roots_that_lead_nowhere(self, cache, root, message):
        with pytest.raises(DataError, match=message) as caught:
            open_store(root)
        trace = "".join(traceback.format_exception(caught.value))
        assert not any(secret in trace for secret in ("hidden", "hid/", "den@", "hid?"))
        assert not cache.exists()

    @pytest.mark.parametrize(
        "root",
        [
            "hdfs://user@host:8020/p",
            "s3://bucket/p@q?region=eu-west-1&endpoint_override=localhost:9000",
            "abfs://c@a.dfs.core.windows.net/p?credential_kind=cli&blob_storage_authority=x",
            "file:///data/a:b@c",
            "s3://bucket/designs/keys/passport",
        ],
    )
    def test_addresses_without_secrets(self, root):
        assert not has_secret(root)

    def test_glyphs_are_drawn_once(self, cache, monkeypatch):
        drawn = []
        monkeypatch.setattr(glyphs, "raw_data", lambda: drawn.append(1) or data_set(2))
        stores = [open_store("glyphs") for _ in range(2)]
        assert len(drawn) == 1
        assert stores[0].root == stores[1].root
        assert stores[0].root.parent == cache / "stores"
        monkeypatch.setattr(glyphs, "GLYPHS_VERSION", -1)
        assert open_store("glyphs").root != stores[0].root
        assert len(drawn) == 2

    def test_processes_that_start_together_copy_once(self, tmp_path, cache):
        uri = (tmp_path / "far").as_uri()
        fingerprint = prepare(data_set(2), uri).fingerprint
        script = textwrap.dedent("""
            import sys
            from tasks.data import cache, remote
            copy = remote.RemoteStore.download

            def slow(self, *arguments):
                print("copying", flush=True)
                sys.stdin.readline()
                copy(self, *arguments)

            remote.RemoteStore.download = slow
            print("ready", flush=True)
            sys.stdin.readline()
            print(cache.open_store(sys.argv[1]).manifest.fingerprint, flush=True)
        """)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", script, uri],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                cwd=ROOT,
                env=dict(os.environ),
            )
            for _ in range(2)
        ]
        try:
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            outputs = [process.communicate("\n\n", timeout=60)[0].split() for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert sorted(outputs, key=len) == [[fingerprint], ["copying", fingerprint]]


def test_an_unknown_source_or_option(tmp_path):
    root = str(tmp_path / "s")
    with pytest.raises(DataError, match=r"expected a data set of omniglot, .*, received 'omniglott'"):
        prepare_source("omniglott", tmp_path, root, {})
    with pytest.raises(DataError, match="'omniglot' takes no --size, --ratio; it takes --seed, --download"):
        prepare_source("omniglot", tmp_path, root, {"size": 3, "seed": 1, "ratio": "1,1,1"})
    with pytest.raises(DataError, match="'folder' expects --source"):
        prepare_source("folder", None, root, {})
    with pytest.raises(DataError, match="'glyphs' expects no --source"):
        prepare_source("glyphs", tmp_path, root, {})
    assert list(tmp_path.iterdir()) == []


def test_a_remote_store_without_a_manifest(tmp_path):
    assert not RemoteStore(tmp_path.as_uri()).exists()
