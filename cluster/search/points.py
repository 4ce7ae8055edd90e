"""Points of a space to try: functions of the search's seed and the trial's number, not of the results so far.

Points that do depend on results are suggested by :mod:`cluster.search.tpe`.
"""

from typing import Any

import numpy as np
from torch.quasirandom import SobolEngine

from cluster.search.settings import Search

Point = dict[str, Any]


def points(search: Search) -> list[Point]:
    """The values of every trial. The first are the base configuration's own where they lie in the space.

    So a search always says whether it was worth it. A grid is tried as it is.
    """
    settings, space = search.settings, search.space
    if settings.searcher == "grid":
        return space.grid()
    assert settings.trials is not None
    first = base_point(search)
    rest = range(settings.trials - len(first))
    if settings.searcher == "quasi_random":
        return first + _sobol(search, len(rest))
    return first + [random_point(search, number) for number in rest]


def total(search: Search) -> int:
    """Number of trials."""
    return search.settings.trials or len(search.space.grid())


def base_point(search: Search) -> list[Point]:
    """The base configuration's own values, if they lie in the space, as a list of one point or none."""
    return [search.base_values] if search.space.holds(search.base_values) else []


def base_number(search: Search) -> int | None:
    """Number of the trial with the base configuration's own values; None if they are not tried, or not kept to."""
    own = base_point(search) if search.settings.scheduler != "pbt" else []
    if search.settings.searcher == "grid":
        return search.space.grid().index(own[0]) if own else None
    return 0 if own else None


def random_point(search: Search, number: int) -> Point:
    """Point ``number`` of the search's own stream.

    Args:
        search: holds space and seed.
        number: index in the stream, from 0 on.
    """
    rng = np.random.Generator(np.random.Philox(key=[search.settings.seed, number]))
    return search.space.at(list(rng.random(len(search.space.domains))))


def _sobol(search: Search, count: int) -> list[Point]:
    """The first points of a scrambled Sobol' sequence (Owen 1998), which leave no large holes."""
    if count <= 0:
        return []
    engine = SobolEngine(len(search.space.domains), scramble=True, seed=search.settings.seed)
    return [search.space.at(shares) for shares in engine.draw(count).clamp(max=1 - 2**-24).tolist()]
