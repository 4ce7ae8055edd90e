"""Errors that a user can act on. Each message says what was expected, what was received and what to do."""


class MetarayError(Exception):
    """Something failed while running; the command leaves with status 1."""

    exit_status = 1


class ConfigError(MetarayError):
    """Wrong usage or configuration; the command leaves with status 2."""

    exit_status = 2


class EngineError(MetarayError):
    """A strategy that cannot run where it has to."""


class CheckpointError(MetarayError):
    """A checkpoint that cannot be used: missing, damaged, or of another configuration."""


class DivergedError(MetarayError):
    """A meta-gradient that is not finite."""


class ClusterError(MetarayError):
    """Ray does not answer, has no room for the workers, or keeps losing them."""


class Interrupted(MetarayError):  # noqa: N818 - not a fault, but leaves by the same way
    """Ctrl-C or SIGTERM, after the state was saved."""
