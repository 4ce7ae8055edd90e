"""Reading pickles of arrays without executing code from them."""

import pickle
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tasks.data.errors import DataError
from tasks.data.limits import Limits
from tasks.data.pickle_scan import memory_of


def load_pickle(path: Path, limits: Limits | None = None) -> Any:
    """Returns the contents of a pickle of numpy arrays, numbers, strings, bytes and builtin containers.

    Text of pickles written by Python 2 is read as Latin-1, which is how they keep the bytes of arrays. The memory that
    loading takes is computed before anything is loaded, and copies made by calls are counted.

    Args:
        path: the pickle.
        limits: ``memory`` is used.

    Raises:
        DataError: if it contains anything else, which is then not executed, is damaged, or may take more memory than
            the limits allow.
    """
    limits = limits or Limits()
    with path.open("rb") as stream:
        try:
            needed = memory_of(stream, path.stat().st_size)
            limits.check_memory(str(path), needed)
            stream.seek(0)
            return _Unpickler(stream, _Budget(str(path), limits, needed)).load()
        except DataError:
            raise
        except _Refused as refused:
            raise DataError(
                f"{path}: expected a pickle of arrays and containers, received one that asks for {refused}; "
                "nothing of it was run, do not trust this file"
            ) from refused
        except Exception as error:  # a damaged pickle may fail in any way
            raise DataError(f"{path}: expected a pickle of arrays, cannot read it: {_short(error)}") from error


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """A pickle requested a name that is not allowed."""


def _short(value: object) -> str:
    """A value in a message; a pickle may nest containers so that all of it would fill the memory."""
    return f"{type(value).__name__}({str(value)[:300]!r})" if isinstance(value, Exception) else reprlib.repr(value)


class _Budget:
    """Counts the memory that a pickle's calls take beside its own contents."""

    def __init__(self, where: str, limits: Limits, taken: int) -> None:
        self._where, self._limits, self._taken = where, limits, taken

    def take(self, *values: object) -> None:
        """Count a copy of every value.

        Raises:
            DataError: if there is too much now.
        """
        for value in values:
            if isinstance(value, np.ndarray):
                self._taken += value.nbytes
            elif isinstance(value, bytes | bytearray | str):
                self._taken += len(value)
            elif isinstance(value, tuple | list | set | frozenset | dict):
                self._taken += ENTRY * len(value)
        self._limits.check_memory(self._where, self._taken)


MOST_AXES = 64  # of numpy's arrays
ENTRY = 72  # bytes of a set's entry, with room to grow


class _Call:
    """All that a pickle reaches by name: something to call with checked arguments, and nothing else.

    No class is ever handed out, so none can be made without its ``__init__`` (NEWOBJ, OBJ, INST), and no state can be
    set on what is handed out (BUILD), as it can on a function or a class.
    """

    __slots__ = ("_budget", "function")

    def __init__(self, function: Callable[..., Any], budget: _Budget) -> None:
        self.function, self._budget = function, budget

    def __call__(self, *arguments: Any) -> Any:
        self._budget.take(*arguments)
        made = self.function(*arguments)
        if isinstance(made, _Array):
            made.budget = self._budget
        return made

    def __setstate__(self, state: object) -> None:
        raise _Refused("another state of a function")


class _Type:
    """Stands for a dtype: numpy's own would take any flags from a pickle, also ones that make it follow pointers."""

    __slots__ = ("dtype",)

    def __init__(self, kind: str, *_: object) -> None:
        if not isinstance(kind, str) or np.dtype(kind).kind not in "biufcSU" or not np.dtype(kind).itemsize:
            raise _Refused(f"arrays of type {_short(kind)}")
        self.dtype = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]):
            raise _Refused("structured arrays")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An array whose state is checked before it is set."""

    budget: _Budget | None = None

    def __setstate__(self, state: Any) -> None:
        if self.size:  # numpy would free the first data, and views of them may have been taken
            raise _Refused("an array whose data are set twice")
        _, shape, kind, fortran, data = state
        if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
            raise _Refused(f"an array of shape {_short(shape)}")
        assert self.budget is not None, "made by a call, which has one"
        self.budget.take(*([data, data] if isinstance(data, str) else [data]))  # as bytes, and as the array's own
        checked: Any = (1, shape, _dtype(kind), bool(fortran), _bytes(data))
        super().__setstate__(checked)


def _never(*_: object) -> None:
    raise _Refused("a call of 'numpy.ndarray'")


def _array(kind: object, *_: object) -> _Array:
    if not isinstance(kind, _Call) or kind.function is not _never:
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
        raise _Refused(f"arrays of type {_short(kind)}")
    return kind.dtype


def _bytes(data: object = b"", encoding: str = "latin1") -> bytes:
    """Bytes, which pickles before protocol 3 hold as text. A number would ask for so many zeros."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"encoding {_short(encoding)}")
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise _Refused(f"bytes made of a {type(data).__name__}")
    return bytes(data)


def _bytearray(*arguments: Any) -> bytearray:
    return bytearray(_bytes(*arguments))


_ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _never,  # names the class where an array is announced, and makes none
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _bytes,
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
        (module, name): function
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
    def __init__(self, stream: BinaryIO, budget: _Budget) -> None:
        super().__init__(stream, encoding="latin1")
        self._budget = budget

    def find_class(self, module: str, name: str) -> Any:
        """Returns the checked stand-in of a name; a pickle reaches code in no other way."""
        try:
            return _Call(_ADMITTED[module, name], self._budget)
        except KeyError:
            raise _Refused(_short(f"{module}.{name}")) from None
