"""Patterns of parameter names: which parameters the inner loop moves."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

EVERY = ("*",)
EXCEPT = "!"  # begins a pattern of names that are left out


def require_matches(params: Iterable[str], patterns: Sequence[str]) -> None:
    """Checks that every pattern of ``inner.adapt`` fits some parameter.

    Args:
        params: names of the parameters that may be adapted.
        patterns: shell-style patterns of their names; those that begin with ``!`` exclude names.

    Raises:
        ValueError: naming the first pattern that fits no parameter, or if no parameter is left to adapt.
    """
    params = tuple(params)
    for pattern in patterns:
        if not pattern.startswith(EXCEPT) and not any(matches(name, [pattern]) for name in params):
            raise ValueError(
                f"inner.adapt expects patterns of parameter names, '{pattern}' fits none of {', '.join(params)}"
            )
    if not any(matches(name, patterns) for name in params):
        raise ValueError(
            f"inner.adapt expects patterns that leave parameters to adapt, received {list(patterns)}, which fit none "
            f"of {', '.join(params)} that is not frozen"
        )


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Returns whether a parameter's name fits one of the patterns and none of those that begin with ``!``.

    Args:
        name: the parameter's name (``head.weight``).
        patterns: shell-style patterns, as for :func:`fnmatch.fnmatchcase`.

    >>> matches("head.weight", ["head.*"]), matches("conv0.offset", ["*.weight", "*.bias"])
    (True, False)
    >>> matches("conv0.weight", ["*.weight", "!conv0.*"])
    False
    """
    if any(fnmatchcase(name, pattern[1:]) for pattern in patterns if pattern.startswith(EXCEPT)):
        return False
    return any(fnmatchcase(name, pattern) for pattern in patterns)
