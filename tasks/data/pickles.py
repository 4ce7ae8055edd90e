"""Reading pickles of arrays without running what they ask for."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasks.data.errors import DataError


def load_pickle(path: Path) -> Any:
    """The contents of a pickle that holds nothing but numpy arrays, numbers, strings, bytes and builtin containers.

    Text of pickles written by Python 2 is read as Latin-1, which is how they keep the bytes of arrays.

    Raises:
        DataError: if it asks for anything else, which is then not run, or is damaged.
    """
    with path.open("rb") as stream:
        try:
            return _Unpickler(stream, encoding="latin1").load()
        except _Refused as refused:
            raise DataError(
                f"{path}: expected a pickle of arrays and containers, received one that asks for {refused}; "
                "nothing of it was run, do not trust this file"
            ) from refused
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle may fail in any way
            raise DataError(f"{path}: expected a pickle of arrays, cannot read it: {error!r}") from error


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """A name that is not admitted."""


class _Type:
    """Stands for a dtype: numpy's own would take any flags from a pickle, also ones that make it follow pointers."""

    def __init__(self, kind: str, *_: object) -> None:
        if not isinstance(kind, str) or np.dtype(kind).kind not in "biufcSU":
            raise _Refused(f"arrays of type {kind!r}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise _Refused("structured arrays")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array whose state is checked before it is set."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        checked: Any = (1, tuple(shape), kind.dtype, bool(fortran), _bytes(data))
        super().__setstate__(checked)


def _array(*_: object) -> _Array:
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(kind: _Type, data: bytes | str) -> Any:
    return np.frombuffer(_bytes(data), kind.dtype)[0]


def _from_buffer(data: bytes, kind: _Type, shape: tuple[int, ...], order: Literal["C", "F"], *_: object) -> Any:
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _bytes(data: bytes | str) -> bytes:
    return data.encode("latin1") if isinstance(data, str) else bytes(data)


def _latin1(text: str, encoding: str) -> bytes:
    """``_codecs.encode`` as pickles before protocol 3 use it to hold bytes."""
    if encoding != "latin1":
        raise _Refused(f"encoding {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _latin1,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # numpy before and after version 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")  # Python 3 and 2
        for kind in (set, frozenset, bytearray, complex)
    },
    ("builtins", "bytes"): bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The one door through which a pickle reaches code."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"'{module}.{name}'") from None
