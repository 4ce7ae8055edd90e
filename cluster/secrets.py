"""Names and passwords inside addresses: refused in configurations, taken out of whatever is shown or stored."""

import re

_CREDENTIALS = re.compile(r"(?<=://)[^\s/'\"]+@")


def has_credentials(address: str) -> bool:
    """Whether an address carries a user's name or password."""
    return _CREDENTIALS.search(address) is not None


def without_credentials(text: str) -> str:
    """Text in which no address carries a user's name and password.

    >>> without_credentials("uri: postgresql://me:secret@host/db")
    'uri: postgresql://***@host/db'
    """
    return _CREDENTIALS.sub("***@", text)
