"""Arrays out of numpy's archive, ``np.savez``: sizes, types and shapes are checked before any array is unpacked.

An archive is a ZIP file of ``.npy`` members. Nothing is unpickled; a member is unpacked only after the header in front
of its numbers has been compared with the model's signature and with the size that the archive states.
"""

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cluster.registry.fields import Field, require_sizes

DIRECTORY = 16 * 2**10  # bytes of an archive's list of members, at most
HEADER = 1000  # letters of the description in front of a member's numbers, at most
END = struct.Struct("<4s4H2LH")  # the end of a ZIP file without a comment
SOURCES = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}  # kinds of numbers that a field takes, as in JSON
SCALARS = ("inner_steps", "inner_lr")


class _Member(NamedTuple):
    """One array of an archive, before it is unpacked."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    header: int


def unpacked(body: bytes, fields: Sequence[Field], most: int) -> dict[str, NDArray[Any]]:
    """The arrays of an archive by name: some of the fields, and ``inner_steps`` and ``inner_lr`` as single numbers.

    Args:
        body: the archive.
        fields: what the model takes.
        most: bytes of all arrays together.

    Raises:
        ValueError: if it is no such archive, or holds something else.
    """
    _require_end(body)
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = _members(archive, fields, most)
            return {name: _array(archive, name, member) for name, member in members.items()}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"body: expected an archive that np.savez wrote, received a damaged one: {error}") from error


def unpacked_bytes(body: bytes, most: int) -> int:
    """Bytes that the members of an archive declare, ``most`` at most; reading never exceeds them.

    Args:
        body: the archive.
        most: upper bound of the answer, bytes.
    """
    try:
        _require_end(body)
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return min(most, sum(info.file_size for info in archive.infolist()))
    except Exception:  # it is refused when it is read
        return 0


def _require_end(body: bytes) -> None:
    """Check the end of a ZIP file, which says how long its list of members is, before the list is read."""
    if len(body) < END.size or not body.startswith(b"PK"):
        raise ValueError("body: expected an archive that np.savez wrote, received something else")
    signature, *_, size, _, comment = END.unpack(body[-END.size :])
    if signature != b"PK\x05\x06" or comment:
        raise ValueError("body: expected an archive that np.savez wrote, received one without its end")
    if size > DIRECTORY or body[-END.size - 20 :].startswith(b"PK\x06\x07"):
        raise ValueError("body: expected an archive of the model's inputs, received one of too many members")


def _members(archive: zipfile.ZipFile, fields: Sequence[Field], most: int) -> dict[str, _Member]:
    known = {field.name: field for field in fields}
    names = (*known, *SCALARS)
    members: dict[str, _Member] = {}
    seen: dict[str, tuple[int, str]] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name not in names or not info.filename.endswith(".npy"):
            raise ValueError(f"body: expected arrays {', '.join(names)}, received {info.filename[:60]!r} too")
        if name in members:
            raise ValueError(f"body: expected each array once, received '{name}' twice")
        member = _described(archive, info, name)
        members[name] = member
        if name in known:
            _require_field(known[name], member, seen)
        elif member.shape or member.dtype.kind not in "iuf":
            raise ValueError(f"{name}: expected one number, received shape {list(member.shape)} of {member.dtype}")
    if (total := sum(member.info.file_size for member in members.values())) > most:
        raise ValueError(f"body: expected at most {most} bytes when unpacked, received {total}; ask in parts")
    return members


def _require_field(field: Field, member: _Member, seen: dict[str, tuple[int, str]]) -> None:
    if member.dtype.kind not in SOURCES[np.dtype(field.dtype).kind]:
        raise ValueError(f"{field}: received {member.dtype}")
    require_sizes(field, member.shape, seen)


def _described(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> _Member:
    """A member's header. Its numbers have to fill the rest of it exactly."""
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name}: expected a member that np.savez or np.savez_compressed wrote, received another")
    with archive.open(info) as stream:
        start = io.BytesIO(stream.read(2 * HEADER))
        shape, fortran, dtype = _header(start, name)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "biuf" or size + start.tell() != info.file_size:
        raise ValueError(
            f"{name}: expected {info.file_size - start.tell()} bytes of plain numbers, received a header that says "
            f"shape {list(shape)} of {dtype}, {size} bytes"
        )
    return _Member(info, shape, dtype, fortran, start.tell())


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[npy.read_magic(stream)](stream, max_header_size=HEADER)
        if len(shape) > 16 or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"shape {shape}")
    except Exception as error:  # numpy's parser raises whatever a damaged header makes it meet
        raise ValueError(f"{name}: expected an array in numpy's format, received another: {error!r:.200}") from error
    return shape, fortran, dtype


def _array(archive: zipfile.ZipFile, name: str, member: _Member) -> NDArray[Any]:
    with archive.open(member.info) as stream:
        data = stream.read(member.info.file_size)
        if len(data) != member.info.file_size or stream.read(1):
            raise ValueError(f"{name}: expected {member.info.file_size} bytes, received {len(data)}")
    numbers = np.frombuffer(data, member.dtype, offset=member.header)
    return numbers.reshape(member.shape, order="F" if member.fortran else "C")


def in_range(field: Field, array: NDArray[Any]) -> NDArray[Any]:
    """An array of integers converted to a field's own type.

    Args:
        field: names the type.
        array: integers of any type.

    Raises:
        ValueError: if the type does not hold one of them; a plain cast would count on from the other end.
    """
    if array.dtype == field.dtype or array.dtype.kind not in "iu" or np.dtype(field.dtype).kind not in "iu":
        return array
    bounds = np.iinfo(field.dtype)
    if array.size and (int(array.min()) < bounds.min or int(array.max()) > bounds.max):
        raise ValueError(
            f"{field}: expected whole numbers that {field.dtype} holds, received {array.min()} to {array.max()}"
        )
    return array.astype(field.dtype)
