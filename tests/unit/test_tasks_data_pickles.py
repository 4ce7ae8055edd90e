"""The unpickler that runs nothing, and archives that stay in their folder."""

import copyreg
import errno
import importlib
import io
import os
import pickle
import stat
import subprocess
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace as Namespace

import numpy as np
import pytest

from tasks.data import pickles
from tasks.data.archives import extract, is_archive, stem
from tasks.data.checksums import verify
from tasks.data.errors import DataError
from tasks.data.pickles import load_pickle

PLAIN = {
    "image_data": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
    "class_dict": {"n01": [0, 1], "n02": (np.int64(3), True, None)},
    "others": [1.5, "text", b"\xff\x00", b"", {1, 2}, frozenset({3}), bytearray(b"x"), bytearray(), 2j, 10**30],
    "float": np.float32([0.5]),
    "text": np.array(["a", "bc"]),
    "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_containers_come_back(tmp_path, protocol):
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol=protocol))
    loaded = load_pickle(path)
    for key, value in PLAIN.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(loaded[key], value)
            assert loaded[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
        else:
            assert loaded[key] == value


def python2_pickle(array: np.ndarray) -> bytes:
    """What cPickle of Python 2 made of ``{"image_data": array, "class_dict": {"n01": [0]}}`` at protocol 2."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    sizes = b"".join(b"K" + bytes([size]) for size in array.shape)
    return (
        b"\x80\x02}(" + short(b"image_data") + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85" + short(b"b") + b"\x87R(K\x01(" + sizes + b"tcnumpy\ndtype\n" + short(b"u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + short(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T"
        + array.nbytes.to_bytes(4, "little")
        + array.tobytes()
        + b"tb"
        + short(b"class_dict")
        + b"}"
        + short(b"n01")
        + b"]K\x00asu."
    )


def test_pickles_of_python_2(tmp_path):
    array = np.arange(0, 240, 10, dtype=np.uint8).reshape(2, 2, 2, 3)
    (tmp_path / "old.pkl").write_bytes(python2_pickle(array))
    loaded = load_pickle(tmp_path / "old.pkl")
    np.testing.assert_array_equal(loaded["image_data"], array)
    assert loaded["class_dict"] == {"n01": [0]}


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Sets:
    """Asks for its state to be set on a function."""

    def __reduce__(self):
        return np.array, ([1],), {"x": Runs(os.system, "true")}


@pytest.mark.parametrize(
    "evil",
    [
        Runs(os.system, "touch ran"),
        Runs(eval, "open('ran', 'w')"),
        Runs(exec, "open('ran', 'w')"),
        Runs(getattr, os, "system"),
        Runs(subprocess.Popen, "touch ran"),
        Runs(np.load, "ran", None, True),
        Runs(np.fromfile, "ran"),
        Runs(__import__, "os"),
        Runs(copyreg._reconstructor, Runs, object, None),
        Sets(),
        [{"deep": (Runs(os.remove, "ran"),)}],
        np.array([Runs(os.system, "touch ran")], dtype=object),
        np.array([1, "x"], dtype=object),
        OrderedDict(a=1),
        Path("ran"),
        np.zeros(1, dtype=[("a", "u1")]),
        Runs(type("".encode), "x"),
        Runs(np.ndarray, (1,), "O", b"\x10" * 8),  # an array of forged pointers
    ],
    ids=lambda evil: evil.call[0].__name__ if isinstance(evil, Runs) else type(evil).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_anything_else_is_refused(tmp_path, monkeypatch, evil, protocol):
    monkeypatch.chdir(tmp_path)
    try:
        data = pickle.dumps(evil, protocol=protocol)
    except (pickle.PicklingError, TypeError, AttributeError):
        pytest.skip("cannot be pickled by this protocol")
    (tmp_path / "evil.pkl").write_bytes(data)
    with pytest.raises(DataError, match=r"evil\.pkl: expected a pickle of arrays"):
        load_pickle(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()


NDARRAY, RECONSTRUCT = b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n"
FROM_BUFFER = b"cnumpy.core.numeric\n_frombuffer\n"
U1 = b"cnumpy\ndtype\n(X\x02\0\0\0u1tR"
POINTER = b"C\x08" + b"\x10" * 8  # eight bytes, an address if anybody reads them as a pointer
OBJECT = b"X\x01\0\0\0O"
EMPTY = RECONSTRUCT + b"(" + NDARRAY + b"K\0\x85C\x01btR"
STATE = b"(K\x01K\x08\x85" + U1 + b"\x89" + POINTER + b"tb"


@pytest.mark.parametrize(
    ("program", "asked"),
    [
        (NDARRAY + b"(K\x01\x85" + OBJECT + POINTER + b"tR", "a call of 'numpy.ndarray'"),  # REDUCE
        (b"(" + NDARRAY + b"K\x01\x85" + OBJECT + POINTER + b"o", "a call of 'numpy.ndarray'"),  # OBJ
        (b"(K\x01\x85" + OBJECT + POINTER + b"inumpy\nndarray\n", "a call of 'numpy.ndarray'"),  # INST
        (NDARRAY + b"(K\x01\x85" + OBJECT + POINTER + b"t\x81", "must be a type"),  # NEWOBJ
        (b"cnumpy\ndtype\n(" + OBJECT + b"t\x81", "must be a type"),
        (b"cbuiltins\nset\n)\x81", "must be a type"),
        (b"cnumpy\ndtype\n(" + OBJECT + b"tR", "arrays of type 'O'"),
        (EMPTY + b"(K\x01K\x01\x85" + OBJECT + b"\x89" + POINTER + b"tb", "arrays of type 'O'"),
        (b"cnumpy.core.multiarray\nscalar\n(" + OBJECT + POINTER + b"tR", "arrays of type 'O'"),
        (EMPTY + b"(K\x01J\xff\xff\xff\x7f\x85cnumpy\ndtype\n(X\x02\0\0\0S0tR\x89C\0tb", "arrays of type 'S0'"),
        (FROM_BUFFER + b"(" + POINTER + OBJECT + b"K\x01\x85X\x01\0\0\0CtR", "arrays of type 'O'"),
        (RECONSTRUCT + b"(cbuiltins\nset\nK\0\x85C\x01btR", "an array of class _Call"),
        # The second state would free the data of the first, of which there is a view by then.
        (EMPTY + STATE + STATE, "data are set twice"),
        (FROM_BUFFER + b"(" + EMPTY + STATE + U1 + b"K\x08\x85X\x01\0\0\0CtR", "an array over a _Array"),
        (b"cbuiltins\nbytes\n(J\xff\xff\xff\x7ftR", "bytes made of a int"),
        (b"cbuiltins\nbytearray\n(X\x01\0\0\0xX\x05\0\0\0utf-7tR", "encoding 'utf-7'"),
        (FROM_BUFFER + b"N}X\x0c\0\0\0__defaults__)s\x86b", "another state of a function"),  # BUILD
        (b"cnumpy\ndtype\nN}X\x05\0\0\0dtypeNs\x86b", "another state of a function"),
        (b"cbuiltins\nset\n}X\x01\0\0\0xNsb", "another state of a function"),
        (U1 + b"}X\x05\0\0\0dtypeNsb", "structured arrays"),
    ],
)
def test_nothing_admitted_can_be_misused(tmp_path, program, asked):
    """Programs for the unpickler that no pickling makes: forged pointers, freed data, changed functions."""
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x03" + program + b".")
    with pytest.raises(DataError, match=r"evil\.pkl: expected a pickle of arrays") as caught:
        load_pickle(tmp_path / "evil.pkl")
    assert asked in str(caught.value)


ADMITTED = {
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *(
        (module, name)
        for module in ("builtins", "__builtin__")
        for name in ("bytearray", "bytes", "complex", "frozenset", "set")
    ),
}


def test_nothing_is_admitted_but_what_arrays_and_containers_need():
    """Whoever adds a name here has to say in this list that it cannot be misused."""
    assert set(pickles._ADMITTED) == ADMITTED


@pytest.mark.parametrize(
    "module", ["builtins", "operator", "functools", "copyreg", "os", "numpy", "numpy._core.multiarray", "_codecs"]
)
def test_no_other_name_of_a_module_is_reached(tmp_path, module):
    path = tmp_path / "evil.pkl"
    for name in dir(importlib.import_module(module)):
        path.write_bytes(f"c{module}\n{name}\n.".encode())
        if (module, name) in ADMITTED:
            load_pickle(path)
            continue
        with pytest.raises(DataError, match="asks for"):
            load_pickle(path)


def test_the_message_names_what_is_asked_for(tmp_path):
    (tmp_path / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"asks for 'os\.system'; nothing of it was run"):
        load_pickle(tmp_path / "evil.pkl")


@pytest.mark.parametrize("data", [b"", b"\x80", b"no pickle", pickle.dumps(PLAIN)[:-40], b"\x80\x04\x95\xff."])
def test_damaged_pickles(tmp_path, data):
    (tmp_path / "bad.pkl").write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.pkl: expected a pickle of arrays, cannot read it"):
        load_pickle(tmp_path / "bad.pkl")


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zipped(path: Path, **entries: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in entries.items():
            archive.writestr(name, text)


def test_good_archives(tmp_path):
    tar(tmp_path / "a.tar.gz", (entry("c/x.png"), b"x"))
    zipped(tmp_path / "b.ZIP", **{"c/x.png": "x"})
    for name in ("a.tar.gz", "b.ZIP"):
        assert is_archive(tmp_path / name)
        out = tmp_path / stem(tmp_path / name)
        extract(tmp_path / name, out)
        assert (out / "c" / "x.png").read_text() == "x"
    assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/out", "C:/out", "C:\\out", "..\\out", "\\out"])
def test_entries_outside_the_target(tmp_path, name):
    tar(tmp_path / "x.tar.gz", (entry(name), b"x"))
    zipped(tmp_path / "x.zip", fine="x", **{name: "x"})
    for archive in ("x.tar.gz", "x.zip"):
        with pytest.raises(DataError, match=r"expected entries inside the target, received .* leads out"):
            extract(tmp_path / archive, tmp_path / "deep" / "target")
    assert not list(tmp_path.rglob("*out*"))
    assert not (tmp_path / "deep" / "target" / "fine").exists()


@pytest.mark.parametrize(
    "member", [entry("l", tarfile.SYMTYPE, "/etc"), entry("l", tarfile.LNKTYPE, "../../x"), entry("p", tarfile.CHRTYPE)]
)
def test_links_and_devices(tmp_path, member):
    tar(tmp_path / "x.tar.gz", (member, b""))
    with pytest.raises(DataError, match="expected plain files inside the target"):
        extract(tmp_path / "x.tar.gz", tmp_path / "target")


def test_links_in_zip_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="received the link 'link'"):
        extract(tmp_path / "x.zip", tmp_path / "target")


def test_damaged_archives(tmp_path):
    tar(tmp_path / "x.tar.gz", (entry("a"), bytes(range(256)) * 40))
    zipped(tmp_path / "x.zip", a="x" * 100)
    for name in ("x.tar.gz", "x.zip"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-60])
        with pytest.raises(DataError, match="cannot unpack it"):
            extract(path, tmp_path / "target")


@pytest.mark.parametrize("ending", ["gz", "xz", "bz2"])
@pytest.mark.parametrize("place", [0.5, -6])
def test_archives_with_a_wrong_byte(tmp_path, ending, place):
    """In the middle, and near the end, where only a checksum tells: after the mark at which tarfile stops reading."""
    path = tmp_path / f"x.tar.{ending}"
    tar(path, (entry("a"), np.random.Generator(np.random.Philox(key=0)).bytes(400_000)))
    extract(path, tmp_path / "whole")
    data = bytearray(path.read_bytes())
    data[int(len(data) * place) if place > 0 else place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=rf"x\.tar\.{ending}: expected a whole .* cannot unpack it: .*; fetch it again"):
        extract(path, tmp_path / "target")


def test_a_full_disk_is_not_a_damaged_archive(tmp_path, monkeypatch):
    tar(tmp_path / "x.tar.gz", (entry("a"), b"x"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda tar, member: Namespace(read=full))
    with pytest.raises(OSError, match="No space left") as caught:
        extract(tmp_path / "x.tar.gz", tmp_path / "target")
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("listing", ["data.bin.sha256", "SHA256SUMS", "CHECKSUMS"])
def test_checksums_beside_a_file(tmp_path, listing):
    good = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"
    path = tmp_path / "data.bin"
    path.write_text("x")
    (tmp_path / listing).write_text(f"{'0' * 64}  other.bin\n{good} *data.bin\n")
    verify(path)
    path.write_text("y")
    with pytest.raises(DataError, match=rf"data\.bin: expected SHA-256 {good}, received a1fce4363854ff888c"):
        verify(path)
    (tmp_path / listing).unlink()
    verify(path)


GOOD = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"  # of "x"


@pytest.mark.parametrize(
    "text",
    [
        f"{GOOD}  data/x.zip\n",  # sha256sum data/x.zip > data/x.zip.sha256
        f"{GOOD} *C:\\data\\other.zip\r\n",
        f"{GOOD.upper()}\n",
        f"SHA256 (x.zip) = {GOOD}\n",
        f"SHA2-256(data/x.zip)= {GOOD}\n",
        f"\ufeff# mine\n{GOOD}  x.zip\n",
    ],
)
def test_a_files_own_checksum_counts_under_any_name(tmp_path, text):
    path = tmp_path / "x.zip"
    path.write_text("x")
    (tmp_path / "x.zip.sha256").write_text(text, encoding="utf-8", newline="")
    verify(path)
    path.write_text("y")
    with pytest.raises(DataError, match=rf"x\.zip: expected SHA-256 {GOOD}, received a1fce4363854ff888c"):
        verify(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "none"), (GOOD[:-1], "none"), ("<html>", "none"), (f"{GOOD}  a\n{'0' * 64}  b\n", "2")],
)
def test_a_files_own_checksum_that_says_nothing(tmp_path, text, found):
    (tmp_path / "x.zip").write_text("x")
    (tmp_path / "x.zip.sha256").write_text(text)
    with pytest.raises(DataError, match=rf"x\.zip\.sha256: expected the SHA-256 .* received {found}; write it anew"):
        verify(tmp_path / "x.zip")


def test_lists_of_checksums_name_their_files(tmp_path):
    path, listing = tmp_path / "x.zip", tmp_path / "SHA256SUMS"
    path.write_text("x")
    listing.write_text(f"{'0' * 64}\n{'1' * 64}  xx.zip\n{GOOD}  ./data/x.zip\n")
    verify(path)
    path.write_text("y")
    with pytest.raises(DataError, match=rf"expected SHA-256 {GOOD}, received"):
        verify(path)
    listing.write_text(f"{'0' * 64}\n")  # of no file
    verify(path)
    path.write_text("x")
    listing.write_text(f"{'0' * 64}  val/x.zip\n{GOOD}  train/x.zip\n")  # either may be meant
    verify(path)
    listing.write_text(f"{GOOD}  train/x.zip\n{'0' * 64}  x.zip\n")
    with pytest.raises(DataError, match="expected SHA-256 0000"):
        verify(path)
