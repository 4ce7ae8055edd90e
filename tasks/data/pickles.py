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
    """What a pickle asks for and does not get."""


class _Call:
    """All that a pickle reaches by name: something to call with checked arguments, and nothing else.

    No class is ever handed out, so none can be made without its ``__init__`` (NEWOBJ, OBJ, INST), and no state can be
    set on what is handed out (BUILD), as it can on a function or a class.
    """

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise _Refused("another state of a function")


class _Type:
    """Stands for a dtype: numpy's own would take any flags from a pickle, also ones that make it follow pointers."""

    __slots__ = ("dtype",)

    def __init__(self, kind: str, *_: object) -> None:
        if not isinstance(kind, str) or np.dtype(kind).kind not in "biufcSU" or not np.dtype(kind).itemsize:
            raise _Refused(f"arrays of type {kind!r}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise _Refused("structured arrays")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array whose state is checked before it is set."""

    def __setstate__(self, state: Any) -> None:
        if self.size:  # numpy would free the first data, and views of them may have been taken
            raise _Refused("an array whose data are set twice")
        _, shape, kind, fortran, data = state
        checked: Any = (1, tuple(shape), _dtype(kind), bool(fortran), _bytes(data))
        super().__setstate__(checked)


def _never(*_: object) -> None:
    raise _Refused("a call of 'numpy.ndarray'")


_NDARRAY = _Call(_never)  # names the class where an array is announced, and makes none


def _array(kind: object, *_: object) -> _Array:
    if kind is not _NDARRAY:
        raise _Refused(f"an array of class {type(kind).__name__}")
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _scalar(kind: object, data: object) -> Any:
    return np.frombuffer(_bytes(data), _dtype(kind))[0]


def _from_buffer(data: object, kind: object, shape: tuple[int, ...], order: Literal["C", "F"], *_: object) -> Any:
    if not isinstance(data, bytes | bytearray):  # not a view of an array, which may change under it
        raise _Refused(f"an array over a {type(data).__name__}")
    return np.frombuffer(data, _dtype(kind)).reshape(shape, order=order)


def _dtype(kind: object) -> np.dtype[Any]:
    """The dtype of a checked stand-in; numpy would also take strings, among them "O": pointers."""
    if not isinstance(kind, _Type):
        raise _Refused(f"arrays of type {kind!r}")
    return kind.dtype


def _bytes(data: object = b"", encoding: str = "latin1") -> bytes:
    """Bytes, which pickles before protocol 3 hold as text. A number would ask for so many zeros."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"encoding {encoding!r}")
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise _Refused(f"bytes made of a {type(data).__name__}")
    return bytes(data)


def _bytearray(*arguments: Any) -> bytearray:
    return bytearray(_bytes(*arguments))


_ADMITTED: dict[tuple[str, str], _Call] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Call(_Type),
    ("_codecs", "encode"): _Call(_bytes),
    **{
        (f"numpy.{core}.{module}", name): _Call(function)
        for core in ("core", "_core")  # numpy before and after version 2
        for module, name, function in (
            ("multiarray", "_reconstruct", _array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
    **{
        (module, name): _Call(function)
        for module in ("builtins", "__builtin__")  # Python 3 and 2
        for name, function in (
            ("set", set),
            ("frozenset", frozenset),
            ("complex", complex),
            ("bytearray", _bytearray),
            ("bytes", _bytes),
        )
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The one door through which a pickle reaches code."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"'{module}.{name}'") from None
