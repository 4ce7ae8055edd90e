"""Errors of a worker's process on their way to the pool."""

import traceback

from cluster import errors
from cluster.errors import MetarayError


def described(error: BaseException) -> list[str]:
    """An error as :func:`fault` takes it: name of its class, text, traceback.

    Args:
        error: that was caught.
    """
    return [type(error).__name__, str(error), "".join(traceback.format_exception(error))]


def fault(name: str, text: str, trace: str) -> MetarayError:
    """The error that a worker raised, of the same class if it is one of ours.

    Args:
        name: of the error's class.
        text: its message.
        trace: the worker's traceback, added as a note.
    """
    kind = getattr(errors, name, MetarayError)
    error: MetarayError = (
        kind(text) if isinstance(kind, type) and issubclass(kind, MetarayError) else MetarayError(text)
    )
    error.add_note(trace)
    return error
