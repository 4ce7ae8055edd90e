"""Findings about this machine, each with its status and, where something is wrong, what to do."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from cluster.config.credentials import without_credentials
from cluster.errors import MetarayError

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of what was looked at.
        status: ``ok``; ``warning``, where trainings run, but slower or only some of them; ``error``, where they do not.
        text: what is there, or what is wrong and what to do.
    """

    name: str
    status: Status
    text: str

    def as_json(self) -> dict[str, Any]:
        """The finding as ``metaray doctor --json`` prints it."""
        return {"name": self.name, "status": self.status, "text": self.text}


def examined(name: str, look: Callable[[], str], failure: Status = "error") -> Finding:
    """The finding of a look that says what is there, or raises an error that says what is wrong.

    Args:
        name: of what is looked at.
        look: returns what is there.
        failure: the status if ``look`` raises a :class:`MetarayError` or an OSError.
    """
    try:
        return Finding(name=name, status="ok", text=without_credentials(look()))
    except (MetarayError, OSError) as error:
        return Finding(name=name, status=failure, text=without_credentials(" ".join(str(error).split())))
