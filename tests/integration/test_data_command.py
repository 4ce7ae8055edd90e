"""``metaray data`` as a user runs it: results, one clear message an error, nothing half-written whatever happens."""

import io
import json
import os
import pickle
import re
import resource
import signal
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cluster.commands.cli import app
from tasks.data.manifest import MANIFEST
from tasks.data.store import ImageStore

OMNIGLOT = Path(__file__).parents[3] / "shared" / "data" / "omniglot"
SMALL = ("--size", "8", "--ratio", "3,2,2", "--root", "store")


def jpeg(seed: int) -> bytes:
    rng = np.random.Generator(np.random.Philox(key=seed))
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything happens in one folder, and what is left there at the end belongs to the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METARAY_CACHE", str(tmp_path / "cache"))
    yield
    assert not list(tmp_path.rglob(".*.partial-*"))
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(7):
        place = tmp_path / "photos" / f"class{number}"
        place.mkdir(parents=True)
        for image in range(6):
            (place / f"{image}.jpg").write_bytes(jpeg(10 * number + image))
    return tmp_path / "photos"


def refused(*arguments: str) -> str:
    """The message of a command that has to fail as wrong input and leave the folder as it was."""
    before = sorted(str(path) for path in Path().rglob("*"))
    result = CliRunner().invoke(app, ["data", *arguments])
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert sorted(str(path) for path in Path().rglob("*")) == before
    return str(result.stderr)


def test_prepare_and_show(metaray, finished, photos):
    status, output, errors = finished(metaray("data", "prepare", "folder", "--source", "photos", *SMALL, "--json"))
    assert status == 0, errors
    assert "folder: image 42 of 42" in errors
    result = json.loads(output)
    store = ImageStore(Path("store"))
    assert result.pop("seconds") > 0
    assert result == {
        "name": "photos",
        "root": "store",
        "image_shape": [8, 8, 3],
        "splits": {
            "train": {"classes": 3, "images": 18},
            "val": {"classes": 2, "images": 12},
            "test": {"classes": 2, "images": 12},
        },
        "skipped": 0,
        "skipped_first": [],
        "left_out": {},
        "duplicates": {"within_class": 0, "across_classes": 0, "across_splits": 0, "first": {}},
        "warnings": [],
        "fingerprint": store.manifest.fingerprint,
    }
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "store"]

    shown = CliRunner().invoke(app, ["data", "show", "store", "--json"])
    assert json.loads(shown.stdout) == result | {"origin": dict(store.manifest.origin)}
    shown = CliRunner().invoke(app, ["data", "show", "store"])
    assert shown.exit_code == 0
    for text in ("photos, 8 × 8, RGB", "val", "12", store.manifest.fingerprint, "ratio 3,2,2, seed 0"):
        assert text in shown.stdout

    assert "there is a store at 'store' already" in refused("prepare", "folder", "--source", "photos", *SMALL)
    again = CliRunner().invoke(
        app, ["data", "prepare", "folder", "--source", "photos", *SMALL, "--seed", "1", "--grey", "--replace"]
    )
    assert again.exit_code == 0, again.output
    assert "photos, 8 × 8, grey" in again.stdout
    assert ImageStore(Path("store")).manifest.image_shape == (8, 8, 1)


def test_verifying_a_store(photos):
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["data", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    run("prepare", "folder", "--source", "photos", *SMALL)
    plain = json.loads(run("show", "store", "--json"))
    for root in ("store", Path("store").absolute().as_uri()):
        assert json.loads(run("show", root, "--verify", "--json")) == plain | {"root": root, "verified": True}
        assert re.search("^checksums +verified$", run("show", root, "--verify"), re.MULTILINE)
        assert "verified" not in run("show", root)
    path = Path("store/val.arrow")
    data = path.read_bytes()
    path.write_bytes(data[:-400] + bytes([data[-400] ^ 1]) + data[-399:])
    for root in ("store", Path("store").absolute().as_uri()):
        run("show", root)
        assert "store/val.arrow: expected SHA-256 " in refused("show", root, "--verify")


def test_a_truncated_image(photos):
    cut = photos / "class3" / "2.jpg"
    cut.write_bytes(cut.read_bytes()[:-90])
    arguments = ("prepare", "folder", "--source", "photos", *SMALL)
    assert "photos/class3/2.jpg: expected an image, received one that cannot be read" in refused(*arguments)
    result = CliRunner().invoke(app, ["data", *arguments, "--skip-broken", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["skipped"] == 1
    assert sum(split["images"] for split in json.loads(result.stdout)["splits"].values()) == 41
    shown = CliRunner().invoke(app, ["data", "show", "store"])
    assert "broken images left out  1" in shown.stdout


def test_archives_with_entries_outside_the_target(photos):
    with tarfile.open("x.tar.gz", "w:gz") as archive:
        archive.add(photos, "photos")
        archive.addfile(tarfile.TarInfo("../escaped"))
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("../escaped", "")
    for name in ("x.tar.gz", "x.zip"):
        message = refused("prepare", "folder", "--source", name, *SMALL)
        assert f"{name}: expected entries inside the target, received '../escaped'" in message


def test_a_wrong_checksum(photos):
    with zipfile.ZipFile("x.zip", "w") as archive:
        archive.writestr("a/x.jpg", "")
    Path("SHA256SUMS").write_text(f"{'0' * 64}  x.zip\n")
    assert "x.zip: expected SHA-256 0000" in refused("prepare", "folder", "--source", "x.zip", *SMALL)


class Runs:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_pickle_that_tries_to_execute_something():
    Path("mini").mkdir()
    for split in ("train", "val", "test"):
        Path(f"mini/mini-imagenet-cache-{split}.pkl").write_bytes(pickle.dumps(Runs()))
    message = refused("prepare", "mini_imagenet", "--source", "mini", "--root", "store")
    assert f"asks for '{os.system.__module__}.system'; nothing of it was run" in message


def test_lists_that_do_not_fit(photos):
    images = photos.rename("mini") / "images"
    (images.parent / "class0").rename(images)
    for number, split in enumerate(("train", "val", "test")):
        rows = [f"{2 * number}.jpg,{split}-a", f"{2 * number + 1}.jpg,{split}-b"]
        Path(f"mini/{split}.csv").write_text("\n".join(["filename,label", *rows]))
    arguments = ("prepare", "mini_imagenet", "--source", "mini", "--root", "store")
    (images / "5.jpg").rename("5.jpg")
    message = refused(*arguments)
    assert "test.csv, line 3: expected the image 'mini/images/5.jpg', which is not there" in message
    Path("5.jpg").rename(images / "5.jpg")
    Path("mini/val.csv").write_text("filename,label\n2.jpg,val-a\n3.jpg,test-b")
    assert "received 'test-b' in val and test; give every class to one split" in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "photos", *SMALL), "expected a data set of omniglot, "),
        (("prepare", "folder", *SMALL), "'folder' expects --source"),
        (("prepare", "folder", "--source", "nowhere", *SMALL), "expected a folder of class folders at 'nowhere'"),
        (("prepare", "fc100", "--source", "photos", "--root", "s", "--seed", "1"), "'fc100' takes no --seed"),
        (("prepare", "folder", "--source", "photos", "--root", "s", "--ratio", "1,2"), "ratio of three positive"),
        (("prepare", "folder", "--source", "photos", "--root", "s", "--ratio", "9,1,1"), "at least 2 classes in every"),
        (("prepare", "folder", "--source", "photos", "--root", "photos"), "'photos' holds something else"),
        (("prepare", "folder", "--source", "photos", "--root", "s3://a:b@c/d"), "without a password"),
        (("prepare", "omniglot", "--source", "photos", "--root", "s"), "found neither; add --download"),
        (("show", "nowhere"), "expected a store at 'nowhere', found none"),
        (("show", "s3://[x"), "received one at '…' that it cannot"),
        (("prepare", "parquet", "--source", "nowhere/x", *SMALL), "expected Parquet files at 'nowhere/x', found none"),
    ],
)
def test_wrong_usage(photos, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize("root", ["s3://AKIA:hid/den@bucket/p", "s3://bucket/p?secret=hid/den", "s3://AKIA:hid/den"])
def test_secrets_in_a_root_are_not_repeated(photos, root):
    for arguments in (("show", root), ("show", root, "--verify"), (*("prepare", "folder"), "--root", root)):
        source = () if arguments[0] == "show" else ("--source", "photos")
        message = refused(*arguments, *source)
        assert "hid" not in message
        assert "den" not in message.replace("credentials", "")


def test_a_full_disk(metaray, finished, photos):
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))

    process = metaray("data", "prepare", "folder", "--source", "photos", *SMALL, preexec_fn=small_disk)
    status, output, errors = finished(process)
    assert (status, output) == (2, ""), errors
    assert "expected room for the store 'store', received: File too large; make room" in errors
    assert "Traceback" not in errors
    assert [path.name for path in Path().iterdir()] == ["photos"]


@pytest.fixture
def under_way(metaray, photos) -> Callable[[], subprocess.Popen[str]]:
    """Start a preparation that takes its time: every image has 36 million pixels."""
    stream = io.BytesIO()
    Image.new("L", (6000, 6000)).save(stream, "PNG")
    for path in photos.rglob("*.jpg"):
        path.with_suffix(".png").write_bytes(stream.getvalue())

    def start() -> subprocess.Popen[str]:
        process = metaray("data", "prepare", "folder", "--source", "photos", *SMALL)
        deadline = time.monotonic() + 60
        while not list(Path().glob(".store.partial-*/store/train.arrow")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return process

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_preparation_leaves_nothing(finished, under_way, number):
    process = under_way()
    process.send_signal(number)
    status, output, errors = finished(process)
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1] == "error: interrupted"
    assert [path.name for path in Path().iterdir()] == ["photos"]


def test_a_killed_preparation_is_started_again(finished, under_way, photos):
    process = under_way()
    process.kill()
    finished(process)
    assert len(list(Path().glob(".store.partial-*"))) == 1
    assert not Path("store").exists()
    for path in photos.rglob("*.png"):
        path.unlink()
    result = CliRunner().invoke(app, ["data", "prepare", "folder", "--source", "photos", *SMALL])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in Path().iterdir()) == ["photos", "store"]


def test_what_is_left_out_and_doubtful_is_said(photos):
    (photos / "class0" / "notes.txt").touch()
    (photos / "class1" / "gone.jpg").symlink_to("nowhere.jpg")
    (photos / "class2" / "again.jpg").write_bytes(jpeg(20))
    (photos / "class3 ").mkdir()
    (photos / "class3 " / "more.jpg").write_bytes(jpeg(99))
    arguments = ("prepare", "folder", "--source", "photos", *SMALL)
    assert "photos/class1/gone.jpg: expected an image, received one that cannot be read (a link to" in refused(
        *arguments
    )
    result = CliRunner().invoke(app, ["data", *arguments, "--skip-broken", "--json"])
    assert result.exit_code == 0, result.stderr
    account = json.loads(result.stdout)
    assert account["skipped"] == len(account["skipped_first"]) == 1
    assert account["left_out"] == {"a .txt file": {"count": 1, "first": ["photos/class0/notes.txt"]}}
    assert account["duplicates"]["first"] == {"within_class": [["photos/class2/0.jpg", "photos/class2/again.jpg"]]}
    assert [warning[:30] for warning in account["warnings"]] == [
        "'class3', 'class3 ' are taken ",
        "1 images are the same pixels a",
    ]
    for shown in (result, CliRunner().invoke(app, ["data", "show", "store"])):
        lines = shown.stderr.splitlines()
        assert "warning: 1 left out, a .txt file: photos/class0/notes.txt" in lines
        assert "warning: 'class3', 'class3 ' are taken for one class" in "".join(lines)
        assert any(line.startswith("left out: photos/class1/gone.jpg: ") for line in lines)


def test_limits_are_options(photos):
    with zipfile.ZipFile("x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in photos.rglob("*.jpg"):
            archive.write(path, path.relative_to(photos.parent))
        archive.writestr("photos/class0/zeros.jpg", bytes(70 << 20))
    arguments = ("prepare", "folder", "--source", "x.zip", *SMALL)
    assert "x.zip: expected data that grow at most 200 times when unpacked" in refused(*arguments)
    for option, value, message in (
        ("size", "0.01", "expected at most 0.01 GiB when unpacked"),
        ("files", "42", "expected at most 42 files or rows, received 43"),
        ("ratio", "0", "expected --max-ratio above 0"),
    ):
        assert message in refused(*arguments, f"--max-{option}", value)
    message = refused("prepare", "folder", "--source", "photos", *SMALL, "--max-pixels", "400")
    assert "exceeds limit of 400 pixels" in message
    assert "--max-pixels" in message
    assert "zeros.jpg: expected an image" in refused(*arguments, "--max-ratio", "2000")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_with_a_link(photos, kind):
    with tarfile.open("linked.tar", "w") as archive:
        archive.add(photos, "photos")
        link = tarfile.TarInfo("photos/class0/outside")
        link.type, link.linkname = kind, "../../../victim"
        archive.addfile(link)
    message = refused("prepare", "folder", "--source", "linked.tar", *SMALL)
    assert "linked.tar: expected plain files inside the target, received the " in message
    assert "'photos/class0/outside'; nothing of it was kept" in message


@pytest.mark.skipif(not OMNIGLOT.is_dir(), reason="needs Omniglot in ../shared/data")
def test_omniglot():
    result = CliRunner().invoke(
        app, ["data", "prepare", "omniglot", "--source", str(OMNIGLOT), "--root", "data/omniglot", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["splits"]["test"] == {"classes": 423, "images": 8460}
    store = ImageStore(Path("data/omniglot"))
    numbers = [name for split in ("train", "val", "test") for name in store.names(split)]
    assert sorted(numbers) == [f"{number:04d}" for number in range(1, 1624)]
    ink = store.images("test", 0)
    assert (ink.shape, ink[:, 0, 0, 0].max(), ink.max()) == ((20, 28, 28, 1), 0, 255)
    assert {path.name for path in Path("data").iterdir()} == {"omniglot"}


CONFIG = """
task: {family: "tasks.images:Images", root: store, way: 2, shot: 1, query: 2}
model: {name: mlp}
outer: {steps: 1}
meta_batch: 1
"""


@pytest.mark.parametrize(
    ("override", "schema", "message"),
    [
        ("task.root=nowhere", None, "expected an image store at 'nowhere', found none; make one with: metaray"),
        ("seed=1", 7, "expected a store of schema version 1, received version 7; prepare the data again"),
        ("task.shot=5", None, r"5 support and 2 query images expect 7 images of every class, 'class"),
        ("task.way=3", None, "way 3 expects as many classes, the val split of 'store' has 2; lower task.way"),
    ],
)
def test_training_on_data_that_does_not_fit(photos, override, schema, message):
    made = CliRunner().invoke(app, ["data", "prepare", "folder", "--source", "photos", *SMALL])
    assert made.exit_code == 0
    if schema is not None:
        path = Path("store") / MANIFEST
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    Path("x.yaml").write_text(CONFIG)
    before = sorted(path.name for path in Path().iterdir())
    result = CliRunner().invoke(app, ["train", "x.yaml", override])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert sorted(path.name for path in Path().iterdir()) == before
