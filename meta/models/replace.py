"""Base class of modes that replace torch's functions by others while a block runs."""

import functools
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, ClassVar

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

# Functions of torch that are written in Python and call replaced functions inside.
COMPOSED = {F.multi_head_attention_forward, F.gumbel_softmax}


class Replacing(TorchFunctionMode):
    """Calls ``table[function]`` in place of each torch function that the table names.

    torch passes a Python function of its own to a mode before the function runs; functions called inside it do not
    reach
    the mode. Those in :data:`COMPOSED` therefore run as copies that do not dispatch to modes first.

    Attributes:
        table: replacements by the torch functions they replace.
    """

    table: ClassVar[Mapping[Any, Callable[..., Any]]] = {}

    def replacement(self, function: Any) -> Callable[..., Any] | None:
        """Returns the replacement of a torch function; None: torch's own is called."""
        return self.table.get(function)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Calls a torch function or its replacement."""
        del types
        if func in COMPOSED:
            with self:
                return _unguarded(func)(*args, **(kwargs or {}))
        return (self.replacement(func) or func)(*args, **(kwargs or {}))


@functools.cache
def _unguarded(function: FunctionType) -> Callable[..., Any]:
    """A copy of a function of ``torch.nn.functional`` that does not hand itself to modes."""

    def never(*_: Any) -> bool:
        return False

    guards = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    names = {**function.__globals__, **dict.fromkeys(guards, never)}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
