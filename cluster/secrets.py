"""Names, passwords and keys inside addresses: refused in configurations, taken out of whatever is shown or stored."""

import re

_REST = re.compile(r"(?<=://)[^\s'\"]+")  # of an address in a text
_USER = re.compile(r"^(?!/)(?:.*:.*|[^/]+)@")  # a password may hold a "/" that should have been escaped
# The names are those that tasks.data.remote refuses, which this cannot import at no cost.
_PARAMETER = re.compile(
    r"([?&;#](?:[^=&;#]*(?:secret|key|token|passw|pwd|signature|credential(?!_kind))|"
    r"(?:[^=&;#]*[^a-z=&;#])?(?:sig|sas|pass|auth)(?![a-z]))[^=&;#]*=)[^&;#]+",
    re.IGNORECASE,
)


def has_credentials(address: str) -> bool:
    """Whether an address carries a user's name, a password, or a parameter that is named like a secret."""
    rest = address.partition("://")[2]
    return _USER.search(rest) is not None or _PARAMETER.search(rest) is not None


def without_credentials(text: str) -> str:
    """Text in which no address carries a user's name, a password, or a parameter that is named like a secret.

    >>> without_credentials("uri: postgresql://me:sec/ret@host/db?sslkey=abc")
    'uri: postgresql://***@host/db?sslkey=***'
    """
    return _REST.sub(lambda found: _PARAMETER.sub(r"\1***", _USER.sub("***@", found[0])), text)
