"""The choice of one tensor among those that a module returns: a field, an entry of a mapping, an element of a tuple."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Output = str | int


def chosen(returned: Any, output: Output | None, module: str) -> Tensor:
    """Returns the tensor that a module returned, or the one that ``output`` names in the structure it returned.

    Args:
        returned: what the module returned: a tensor, a mapping, a named tuple, a dataclass or another object with
            attributes, a list or a tuple.
        output: key or attribute, or number of the element, negative ones from the end; None: the module returns a
            tensor.
        module: name of the module's class, for messages.

    Raises:
        ValueError: naming what there is to choose from.

    >>> chosen({"logits": Tensor([1.0])}, "logits", "Net")
    tensor([1.])
    """
    if output is None:
        if isinstance(returned, Tensor):
            return returned
        raise ValueError(
            f"expected a module that returns a tensor, received {type(returned).__name__} from {module}; name one of "
            f"its outputs by output (model.output in a configuration): {_offered(returned)}"
        )
    if isinstance(returned, Tensor):
        raise ValueError(
            f"output: expected none for {module}, which returns a tensor, received {output!r}; leave it out"
        )
    value = _at(returned, output)
    if not isinstance(value, Tensor):
        received = "" if value is None else f", which is {type(value).__name__}"
        raise ValueError(
            f"output: expected the name or number of a tensor that {module} returns ({_offered(returned)}), received "
            f"{output!r}{received}"
        )
    return value


def _at(returned: Any, output: Output) -> Any:
    """Returns what is there under a name or number; None: nothing."""
    if isinstance(output, int):
        elements = returned if isinstance(returned, Sequence) else ()
        return elements[output] if -len(elements) <= output < len(elements) else None
    if isinstance(returned, Mapping):
        return returned.get(output)
    return getattr(returned, output, None)


def _offered(returned: Any) -> str:
    """The names and numbers of tensors in a structure, in words."""
    if isinstance(returned, Mapping):
        names = [str(name) for name, value in returned.items() if isinstance(value, Tensor)]
    elif hasattr(returned, "_fields"):
        names = [name for name in returned._fields if isinstance(getattr(returned, name), Tensor)]
    elif isinstance(returned, Sequence) and not isinstance(returned, str):
        names = [str(number) for number, value in enumerate(returned) if isinstance(value, Tensor)]
    else:
        names = [name for name, value in getattr(returned, "__dict__", {}).items() if isinstance(value, Tensor)]
    return ", ".join(names) or "there is no tensor in it"
