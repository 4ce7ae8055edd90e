"""Names as the user gives them, checked; shared by ``python -m benchmarks`` and ``metaray bench``."""

import difflib
from collections.abc import Mapping, Sequence

from benchmarks.contest import PEERS
from benchmarks.ours import AUTO
from benchmarks.suites import SUITES, Suite
from meta.engine.machine import available_cores
from meta.engine.strategies import STRATEGIES


class Mistake(ValueError):  # noqa: N818 - the user's, not the program's
    """Wrong usage; the message says what was expected, what was received and what is nearest."""


def words(text: str | None) -> list[str]:
    """A list written with commas.

    >>> words("loop,jax"), words(None)
    (['loop', 'jax'], [])
    """
    return [word for word in (text or "").split(",") if word]


def require_known(kind: str, names: Sequence[str], choices: Sequence[str]) -> None:
    """Raise an error if a name is not among the choices.

    Args:
        kind: the word for such a name.
        names: as the user wrote them.
        choices: valid names.

    >>> require_known("suite", ["omniglott"], ["omniglot", "sinusoid"])
    Traceback (most recent call last):
    benchmarks.names.Mistake: expected a suite of omniglot, sinusoid, received 'omniglott'; did you mean 'omniglot'?

    Raises:
        Mistake: naming the nearest one.
    """
    for name in names:
        if name not in choices:
            close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise Mistake(f"expected a {kind} of {', '.join(choices)}, received '{name}'{hint}")


def chosen_suites(names: Sequence[str], suites: Mapping[str, Suite] = SUITES) -> list[Suite]:
    """The suites of some names; all if there are none.

    Args:
        names: as the user wrote them.
        suites: all suites by name.

    Raises:
        Mistake: if there is none of a name.
    """
    require_known("suite", names, list(suites))
    return [suites[name] for name in names or suites]


def require_settings(
    *, threads: int, pairs: int, strategies: Sequence[str] = (), peers: Sequence[str] | None = None
) -> None:
    """Check the other arguments of a measurement.

    Args:
        threads: number of cores.
        pairs: number of turns.
        strategies: names of strategies.
        peers: names of peers, None: all.

    Raises:
        Mistake: if one is wrong.
    """
    require_known("strategy", strategies, [AUTO, *STRATEGIES])
    require_known("peer", peers or (), list(PEERS))
    if not 1 <= threads <= available_cores():
        raise Mistake(f"threads: expected 1 to {available_cores()}, the cores at hand, received {threads}")
    if pairs < 1:
        raise Mistake(f"pairs: expected at least 1, received {pairs}")
