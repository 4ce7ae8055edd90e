"""Requests as archives of arrays and as image files: what is read, what is refused, and how little is unpacked."""

import io
import itertools
import json
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from cluster.registry.adapting import Adaptable, require_step
from cluster.registry.fields import Field, ImageFiles, checked
from cluster.serving.forms import JSON, NPZ, prefers_npz, written
from cluster.serving.limits import Limits, Refused
from cluster.serving.requests import Question, read
from tasks.data.decode import decode
from tasks.data.sources.base import RawImage

SMALL = Limits(body_bytes=2**20)


class Pictures(Adaptable):
    """Takes pictures of 6 × 5 pixels, in colour or grey."""

    inner_steps, inner_lr = 1, 0.1
    output = Field("predictions", "float32", ("T", "Q", 3))

    def __init__(self, channels: int = 1, inverted: bool = False) -> None:
        self.inputs = (
            Field("support_inputs", "uint8", ("T", "S", 5, 6, channels)),
            Field("support_targets", "int64", ("T", "S")),
            Field("query_inputs", "uint8", ("T", "Q", 5, 6, channels)),
        )
        self.images = ImageFiles(("support_inputs", "query_inputs"), (5, 6, channels), inverted)

    def check(self, given: Any, inner_steps: int, inner_lr: float) -> dict[str, Any]:
        require_step(inner_steps, inner_lr)
        return checked(self.inputs, given)

    def adapted(self, arrays: Any, inner_steps: int, inner_lr: float, run: Any = None) -> Any:
        raise NotImplementedError


class Points(Pictures):
    """Takes no pictures."""

    def __init__(self) -> None:
        self.inputs = (
            Field("x", "float64", ("T", "S", 2)),
            Field("pixels", "uint8", ("T", "S")),
            Field("labels", "int64", ("T", "S")),
            Field("ended", "bool", ("T",)),
        )
        self.images = None


def points(tasks: int = 1) -> dict[str, Any]:
    return {
        "x": np.arange(6.0 * tasks).reshape(tasks, 3, 2) + 0.1,
        "pixels": np.full((tasks, 3), 255, np.uint8),
        "labels": np.arange(3 * tasks).reshape(tasks, 3),
        "ended": np.ones(tasks, bool),
    }


def archive(arrays: Mapping[str, Any], save: Callable[..., None] = np.savez) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def ask(body: bytes, model: Adaptable | None = None, limits: Limits = SMALL) -> Question:
    return read(body, NPZ, model or Points(), limits)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_read(save: Any):
    arrays = points(2)
    found = ask(archive(arrays | {"inner_steps": 3, "inner_lr": 0.5}, save))
    assert (found.tasks, found.inner_steps, found.inner_lr) == (2, 3, 0.5)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)
    assert ask(archive(arrays, save)).inner_steps == 1


def test_an_archive_says_the_same_as_json():
    arrays = points()
    sent = json.dumps({"inputs": {name: array.tolist() for name, array in arrays.items()}}).encode()
    one, other = read(sent, "application/json; charset=utf-8", Points(), SMALL), ask(archive(arrays))
    assert one.kind == other.kind
    for name in arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name])


def test_arrays_of_other_types_that_fit_are_taken():
    arrays = points()
    changed = {
        "x": np.asfortranarray(arrays["x"].astype(">f4")),
        "pixels": arrays["pixels"].astype(np.int64),
        "labels": arrays["labels"].astype(np.uint16),
        "ended": arrays["ended"],
    }
    found = ask(archive(changed)).arrays
    np.testing.assert_array_equal(found["x"], arrays["x"].astype(np.float32))
    np.testing.assert_array_equal(found["pixels"], arrays["pixels"])
    assert ask(archive(arrays | {"x": np.ones((1, 3, 2), np.int8)})).arrays["x"].sum() == 6


def member(name: str, header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    """An archive of one member with a header of one's own."""
    text = header.encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text + data)
    return stream.getvalue()


def many_members() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for number in range(2000):
            file.writestr(f"{number}", b"")
    return stream.getvalue()


def encrypted() -> bytes:
    body = bytearray(archive(points()))
    at = body.index(b"PK\x01\x02")
    body[at + 8] |= 1
    return bytes(body)


def with_method(method: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, array in points().items():
            file.writestr(f"{name}.npy", saved(array))
    return stream.getvalue()


def saved(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def twice() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("x.npy", saved(points()["x"]))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("x.npy", saved(points()["x"]))
    return stream.getvalue()


OBJECTS = np.empty((1, 3), object)
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "body: expected an archive"),
    "json": (lambda: b'{"inputs": {}}', "body: expected an archive that np.savez wrote, received something else"),
    "cut": (lambda: archive(points())[:-30], "body: expected an archive .* received one without its end"),
    "comment": (lambda: archive(points()) + b"x", "received one without its end"),
    "members": (many_members, "received one of too many members"),
    "encrypted": (encrypted, "x: expected a member that np.savez"),
    "bzip2": (lambda: with_method(zipfile.ZIP_BZIP2), "x: expected a member that np.savez"),
    "twice": (twice, "expected each array once, received 'x' twice"),
    "other": (lambda: archive(points() | {"y": np.ones(1)}), "expected arrays x, pixels, .* received 'y.npy' too"),
    "path": (lambda: archive({"../x": np.ones(1)}), "received '../x.npy' too"),
    "missing": (lambda: archive({n: a for n, a in points().items() if n != "ended"}), "received no ended"),
    "pickle": (lambda: archive(points() | {"labels": OBJECTS}), "labels: expected .* plain numbers"),
    "text": (lambda: archive(points() | {"labels": np.array([["1", "2", "3"]])}), "labels: expected .* plain numbers"),
    "complex": (lambda: archive(points() | {"x": np.ones((1, 3, 2), complex)}), "x: expected .* plain numbers"),
    "dates": (lambda: archive(points() | {"labels": np.zeros((1, 3), "M8[s]")}), "labels: expected .* plain numbers"),
    "records": (
        lambda: archive(points() | {"labels": np.zeros((1, 3), [("a", "i4")])}),
        "labels: expected .* plain numbers",
    ),
    "fractions": (lambda: archive(points() | {"labels": np.ones((1, 3))}), r"labels \[T, S\] int64: received float64"),
    "truth": (lambda: archive(points() | {"x": np.ones((1, 3, 2), bool)}), r"x \[T, S, 2\] float64: received bool"),
    "numbers": (lambda: archive(points() | {"ended": np.ones(1)}), r"ended \[T\] bool: received float64"),
    "300": (
        lambda: archive(points() | {"pixels": np.full((1, 3), 300, np.uint16)}),
        r"pixels \[T, S\] uint8: expected whole numbers that uint8 holds, received 300",
    ),
    "2**63": (
        lambda: archive(points() | {"labels": np.full((1, 3), 2**63, np.uint64)}),
        "labels .* expected whole numbers that int64 holds",
    ),
    "nan": (lambda: archive(points() | {"x": np.full((1, 3, 2), np.nan)}), "x .* expected finite numbers"),
    "shape": (lambda: archive(points() | {"x": np.ones((1, 3, 3))}), r"x .*received shape \[1, 3, 3\]"),
    "deep": (lambda: archive(points() | {"x": np.ones((1, 3))}), r"x .*received shape \[1, 3\]"),
    "support": (lambda: archive(points() | {"labels": np.ones((1, 2), int)}), "labels .*expected 3 support examples"),
    "none": (lambda: archive({n: a[:0] for n, a in points().items()}), "expected at least one of the tasks"),
    "steps": (lambda: archive(points() | {"inner_steps": 2.0}), "inner_steps: expected a valid integer, received 2.0"),
    "steps[]": (lambda: archive(points() | {"inner_steps": [2]}), "inner_steps: expected one number"),
    "lr": (lambda: archive(points() | {"inner_lr": np.nan}), "inner_lr: expected a finite number"),
    "many": (lambda: archive(points(65)), "expected at most 64 tasks a request, received 65"),
    "lie": (
        lambda: member("x.npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (1, 1000000000, 2)}", b"\0" * 16),
        r"x: expected 16 bytes of plain numbers, .* shape \[1, 1000000000, 2\] of float64, 16000000000 bytes",
    ),
    "negative": (
        lambda: member("x.npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1, 2)}", b"\0" * 16),
        "x: expected an array in numpy's format",
    ),
    "huge": (
        lambda: member("x.npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 99999999999999999999, 2)}", b""),
        "x .*expected at least one of the tasks",
    ),
    "nested": (lambda: member("x.npy", "(" * 900, b""), "x: expected an array in numpy's format"),
    "long header": (lambda: member("x.npy", "{" + " " * 5000 + "}", b""), "x: expected an array in numpy's format"),
    "call": (
        lambda: member("x.npy", "{'descr': __import__('os'), 'fortran_order': False, 'shape': ()}", b""),
        "x: expected an array in numpy's format",
    ),
    "magic": (lambda: member("x.npy", "{}", b"", b"\x09\x00"), "x: expected an array in numpy's format"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_with_an_archive_is_said(name: str):
    make, reason = BAD[name]
    body = make()
    with pytest.raises(Refused, match=reason) as caught:
        ask(body)
    assert caught.value.status == 400
    assert len(caught.value.reason) < 1100


def peak_of(function: Callable[[], Any]) -> tuple[str, int]:
    """Why a request is refused, and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(Refused) as caught:
            function()
        return caught.value.reason, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked():
    # 200 MB of zeros in 200 kB; the header, which says so, is honest.
    body = archive({"x": np.zeros((1, 12_500_000, 2))}, np.savez_compressed)
    assert len(body) < 2**20
    reason, peak = peak_of(lambda: ask(body))
    assert "expected at most 1048576 bytes when unpacked, received 200000128" in reason
    assert peak < 2**20


def test_a_member_that_is_longer_than_it_says_is_not_unpacked():
    body = bytearray(archive({"x": np.zeros((1, 1_000_000, 2))}, np.savez_compressed))
    honest, lie = struct.pack("<L", 16_000_128), struct.pack("<L", 16 + 128)
    at = body.index(b"PK\x01\x02")
    assert body[at + 24 : at + 28] == honest
    body[at + 24 : at + 28] = lie
    reason, peak = peak_of(lambda: ask(bytes(body)))
    assert "received a damaged one: Bad CRC-32" in reason
    assert peak < 2**20


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_a_damaged_archive_is_refused_or_read(data: st.DataObject):
    body = bytearray(archive(points(), data.draw(st.sampled_from([np.savez, np.savez_compressed]))))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Refused):
        ask(bytes(body[: data.draw(st.sampled_from([len(body), len(body) // 2]))]))


def test_answers_are_in_the_form_that_is_asked_for():
    predictions = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    body, kind = written(predictions, "")
    assert (json.loads(body), kind) == ({"predictions": predictions.tolist()}, JSON)
    body, kind = written(predictions, NPZ)
    assert kind == NPZ
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        np.testing.assert_array_equal(found["predictions"], predictions)
    for accept, npz in {
        "": False,
        "*/*": False,
        "text/html": False,
        "application/x-npz;q=0": False,
        "application/x-npz;q=nonsense": False,
        "application/x-npz;q=0.4, application/json;q=0.5": False,
        "application/json;q=0.4, Application/X-NPZ ; q=0.5": True,
        "application/x-npz, */*;q=0.1": True,
    }.items():
        assert prefers_npz(accept) is npz, accept


def test_types_of_bodies_that_a_model_does_not_take():
    for kind, model, reason in (
        ("", Points(), 'Content-Type: expected application/json, application/x-npz, received ""'),
        ("text/csv", Pictures(), "multipart/form-data, received"),
        ("multipart/form-data; boundary=x", Points(), "this model's inputs are no images"),
    ):
        with pytest.raises(Refused, match=reason) as caught:
            read(b"", kind, model, SMALL)
        assert caught.value.status == 415


def encoded(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def form(parts: Sequence[tuple[str, Any]]) -> tuple[bytes, str]:
    """Body and content type as the client library ``requests`` writes them."""
    files = [(name, (f"{name}.png" if isinstance(data, bytes) else None, data)) for name, data in parts]
    prepared = requests.Request("POST", "http://localhost", files=files).prepare()
    assert isinstance(prepared.body, bytes)
    return prepared.body, prepared.headers["Content-Type"]


def send(parts: Sequence[tuple[str, Any]], model: Adaptable | None = None, limits: Limits = SMALL) -> Question:
    return read(*form(parts), model or Pictures(), limits)


def pictures(count: int, channels: int = 1) -> Any:
    rng = np.random.default_rng(0)
    found = rng.integers(0, 256, (count, 5, 6, channels), dtype=np.uint8)
    return found[..., 0] if channels == 1 else found


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inverted", [False, True])
def test_image_files_are_read_in_order(channels: int, inverted: bool):
    images = pictures(10, channels)
    files = [encoded(one) for one in images]
    question = send(
        [("query_inputs", one) for one in files[6:]]
        + [("support_targets", "[[0, 1, 2], [2, 1, 0]]"), ("params", '{"inner_steps": 3}')]
        + [("support_inputs", one) for one in files[:6]],
        Pictures(channels, inverted),
    )
    expected = (255 - images if inverted else images).reshape(10, 5, 6, channels)
    np.testing.assert_array_equal(question.arrays["support_inputs"], expected[:6].reshape(2, 3, 5, 6, channels))
    np.testing.assert_array_equal(question.arrays["query_inputs"], expected[6:].reshape(2, 2, 5, 6, channels))
    assert (question.tasks, question.inner_steps, question.inner_lr) == (2, 3, 0.1)


def with_exif(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    return encoded(image, "JPEG", exif=exif)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_brought_to_the_models_form_as_when_data_are_prepared(channels: int):
    rng = np.random.default_rng(1)
    large = Image.fromarray(rng.integers(0, 256, (50, 40, 3), dtype=np.uint8))
    small = large.resize((6, 5))
    for data in (
        encoded(large, "JPEG"),
        encoded(large),
        encoded(small.convert("RGBA")),
        encoded(small.convert("P")),
        encoded(small.convert("1")),
        encoded(small.convert("L"), transparency=7),
        encoded(small.convert("LA")),
        encoded(Image.fromarray(rng.integers(0, 2**16, (5, 6), dtype=np.uint16))),
        with_exif(small),
        with_exif(small.resize((5, 6))),
    ):
        question = send(
            [("support_inputs", data), ("support_targets", "[[0]]"), ("query_inputs", data)], Pictures(channels)
        )
        expected = decode(RawImage(where="", data=data), (5, 6, channels), invert=False)
        np.testing.assert_array_equal(question.arrays["query_inputs"][0, 0], expected)


def png_of(width: int, height: int) -> bytes:
    """A PNG file of zeros, as small as can be; of a very high one not all rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    packed = b"".join(rows.compress(b"\0" * (width // 8 + 1)) for _ in range(min(height, 2000))) + rows.flush()
    header = struct.pack(">2L5B", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


GOOD = encoded(pictures(1)[0])
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("comment", "x" * 50_000_000, zip=True)
BAD_FORMS: dict[str, tuple[Callable[[], list[tuple[str, Any]]], str]] = {
    "nothing": (lambda: [("params", "{}")], "inputs.support_targets: missing.* inputs are support_inputs"),
    "unknown": (lambda: [("other", GOOD)], "inputs.other: unknown key .* inputs are support_inputs"),
    "text": (lambda: [("support_inputs", b"hello"), *REST], r"support_inputs\[0\]: expected a PNG or JPEG file"),
    "empty": (lambda: [("support_inputs", b""), *REST], r"support_inputs\[0\]: expected a PNG or JPEG file"),
    "gif": (lambda: [("support_inputs", encoded(pictures(1)[0], "GIF")), *REST], "expected a PNG or JPEG file"),
    "cut": (lambda: [("support_inputs", GOOD[:50]), *REST], r"support_inputs\[0\]: expected a PNG or JPEG file"),
    "cut large": (
        lambda: [("support_inputs", encoded(pictures(1)[0].repeat(9, 0), "JPEG")[:-9]), *REST],
        r"support_inputs\[0\]: expected a PNG or JPEG file, received .*truncated",
    ),
    "targets": (lambda: [("support_inputs", GOOD), ("query_inputs", GOOD)], "inputs.support_targets: missing"),
    "targets twice": (lambda: [("support_inputs", GOOD), *REST, REST[0]], "support_targets: expected one part"),
    "targets' type": (
        lambda: [("support_inputs", GOOD), ("support_targets", "[[0.5]]"), REST[1]],
        "inputs.support_targets.0.0: expected a valid integer, received 0.5",
    ),
    "targets' depth": (
        lambda: [("support_inputs", GOOD), ("support_targets", "[0]"), REST[1]],
        "inputs.support_targets.0: expected a valid list, received 0",
    ),
    "targets' json": (
        lambda: [("support_inputs", GOOD), ("support_targets", "0,"), REST[1]],
        "support_targets: expected JSON",
    ),
    "targets' number": (
        lambda: [("support_inputs", GOOD), ("support_targets", "[[0, 1]]"), REST[1]],
        "support_targets .*expected 1 support examples as in support_inputs, received 2",
    ),
    "no task": (
        lambda: [("support_inputs", GOOD), ("support_targets", "[]"), REST[1]],
        "inputs.support_targets: expected at least 1 item, received 0",
    ),
    "uneven": (
        lambda: [("support_inputs", GOOD)] * 3 + [("support_targets", "[[0], [1]]"), REST[1]],
        "support_inputs: expected as many images for each of 2 tasks, received 3",
    ),
    "params": (lambda: [("support_inputs", GOOD), *REST, ("params", "[]")], "params: expected an object"),
    "bomb": (
        lambda: [("support_inputs", png_of(30_000, 30_000)), *REST],
        r"support_inputs\[0\]: expected at most 16777216 pixels",
    ),
    "large": (
        lambda: [("support_inputs", png_of(5000, 5000)), *REST],
        r"support_inputs\[0\]: expected at most 16777216 pixels, received 5000 × 5000",
    ),
    "bombs": (
        lambda: [("support_inputs", png_of(1500, 1500))] * 2 + list(REST),
        "body: expected images of at most 4194304 pixels in all, received 4500030",
    ),
    "comment": (lambda: [("support_inputs", encoded(pictures(1)[0], pnginfo=TEXT)), *REST], "PNG or JPEG file"),
    "many": (lambda: [("support_inputs", GOOD)] * 4100, "body: expected at most 4096 parts"),
    "pixels": (
        lambda: [("support_inputs", png_of(1, 1))] * 2100 + list(REST),
        "body: expected at most 1048576 bytes of pixels",
    ),
}
REST = (("support_targets", "[[0]]"), ("query_inputs", GOOD))


class Wide(Pictures):
    """Takes pictures of 25 × 20 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.images = ImageFiles(("support_inputs", "query_inputs"), (20, 25, 1), False)


@pytest.mark.parametrize("name", BAD_FORMS)
def test_what_is_wrong_with_a_form_is_said(name: str):
    make, reason = BAD_FORMS[name]
    body, kind = form(make())
    model = Wide() if name == "pixels" else Pictures()
    with pytest.raises(Refused, match=reason) as caught:
        read(body, kind, model, SMALL)
    assert caught.value.status == 400
    assert len(caught.value.reason) < 1100


def test_a_large_picture_that_is_small_as_a_file_is_not_decoded():
    body, kind = form([("support_inputs", png_of(60_000, 60_000)), *REST])
    assert len(body) < 2**20
    reason, peak = peak_of(lambda: read(body, kind, Pictures(), SMALL))
    assert "expected at most 16777216 pixels" in reason
    assert peak < 4 * 2**20


def test_a_second_header_does_not_lie_about_a_pictures_size():
    small, large = png_of(6, 5), png_of(60_000, 60_000)
    for data in (small[:33] + large[8:], small[:8] + b"\0\0\0\x08junk" + small[16:24] + b"\0\0\0\0" + large[8:]):
        with pytest.raises(Refused, match=r"PNG or JPEG file|pixels"):
            send([("support_inputs", data), *REST])


def test_a_jpeg_of_thousands_of_scans_is_not_decoded():
    data = encoded(Image.fromarray(pictures(1, 3)[0]).resize((6, 5)), "JPEG", progressive=True)
    at = data.index(b"\xff\xda")
    scan = data[at : data.index(b"\xff", at + 2)]
    with pytest.raises(Refused, match="at most 100 scans, received"):
        send([("support_inputs", data[:at] + scan * 1000 + data[at:]), *REST])


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", "multipart/form-data", "with a boundary, received none"),
        (b"", "multipart/form-data; boundary=x", "expected a form"),
        (b"hello", "multipart/form-data; boundary=x", "expected a form"),
        (b"--x\r\n\r\nhello\r\n--x--\r\n", "multipart/form-data; boundary=x", "form-data and a name"),
        (b"--x\r\nA: " + b"b" * 5000, "multipart/form-data; boundary=x", "expected a form"),
        (b"--x\r\n" + b"A: b\r\n" * 5000, "multipart/form-data; boundary=x", "expected a form"),
        (
            b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n{}',
            "multipart/form-data; boundary=x",
            "before its last boundary",
        ),
        (b"", "multipart/form-data; boundary=" + "x" * 500, "expected a form"),
    ],
    ids=itertools.count(),
)
def test_what_is_no_form_is_refused(body: bytes, kind: str, reason: str):
    with pytest.raises(Refused, match=reason) as caught:
        read(body, kind, Pictures(), SMALL)
    assert caught.value.status == 400


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_a_damaged_form_is_refused_or_read(data: st.DataObject):
    sent, kind = form([("support_inputs", GOOD), *REST])
    body = bytearray(sent)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(Refused):
        read(bytes(body), kind, Pictures(), SMALL)
