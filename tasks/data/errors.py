"""The errors of this package."""


class DataError(ValueError):
    """Data that cannot be used, or a request that it cannot meet: expected, received, what to do."""


class BrokenImage(DataError):  # noqa: N818 - names the thing that is found
    """One image that cannot be decoded; the others may be used without it."""
