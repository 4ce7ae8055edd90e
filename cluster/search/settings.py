"""A search file: a base configuration, what is changed in it, and the section ``search``."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from cluster.config import strict_yaml
from cluster.config.components import nearest, strictly
from cluster.config.overrides import SHORTHANDS, with_overrides, with_values
from cluster.config.problems import problems
from cluster.config.schema import Config, differences, parse, read_yaml, require_no_secrets
from cluster.config.sections import Count, CountOrNone, Section
from cluster.config.shipped import locate
from cluster.errors import ConfigError
from cluster.search.space import Domain, Space
from cluster.search.trials import Trial, by_value

MUTABLE = ("inner", "outer", "advantage")  # sections whose numbers may change while θ is trained


class SearchConfig(Section):
    """The section ``search``."""

    base: str | None = None
    space: Annotated[dict[str, Domain], Field(min_length=1)]
    metric: str
    trials: Count | None = None
    searcher: Literal["random", "grid", "tpe", "quasi_random"] = "random"
    scheduler: Literal["none", "asha", "hyperband", "pbt"] = "asha"
    grace: Count | None = None
    reduction: Annotated[float, Field(gt=1)] = 3.0
    at_once: Count = 2
    retries: CountOrNone = 2
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    confirm: Count = 3
    confirm_tasks: Annotated[int, Field(ge=2)] = 600
    register_as: str | None = None
    alias: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, domain in self.space.items():
            if self.searcher == "grid" and domain.values is None:
                raise ValueError(
                    f"space: {key} is a continuum, searcher: grid tries all values; write {key}: {{grid: [...]}}"
                )
            if self.searcher != "grid" and domain.grid is not None:
                raise ValueError(f"space: {key} is a grid; set searcher: grid, or write {key}: {{choice: [...]}}")
        if self.searcher == "grid" and self.trials is not None:
            raise ValueError("trials: a grid has as many trials as points; leave it out")
        if self.searcher != "grid" and self.trials is None:
            raise ValueError("trials: missing; how many trainings?")
        if self.scheduler == "pbt" and self.searcher != "random":
            raise ValueError("searcher: expected random with scheduler: pbt, which itself changes what was drawn")
        if self.alias is not None and self.register_as is None:
            raise ValueError("alias: expected only with register_as")
        return self


@dataclass(frozen=True)
class Search:
    """A checked search.

    Attributes:
        settings: the section ``search``.
        raw: the base configuration with what the file changes in it, as nested plain values.
        base: the same, checked, as a trial that searches nothing would be trained.
    """

    settings: SearchConfig
    raw: dict[str, Any]
    base: Config

    @cached_property
    def space(self) -> Space:
        """The keys that are searched, with their domains."""
        return Space(self.settings.space)

    @property
    def inner_steps(self) -> int:
        """Number of inner steps after which trials are judged."""
        return int(self.settings.metric.rpartition("_")[2])

    @property
    def first_rung(self) -> int:
        """Outer steps that every trial is given, and between two exchanges of a population.

        ``search.grace``, or what leaves room for two more rungs: a ninth of all with the usual reduction by three.
        """
        steps, every = self.base.outer.steps, self.base.eval.every
        return self.settings.grace or min(steps, max(every, round(steps / self.settings.reduction**2)))

    @cached_property
    def base_values(self) -> dict[str, Any]:
        """The base configuration's own values of the keys that are searched, as the space writes them."""
        values = self.values_of(self.base.model_dump(mode="json"))
        for key, domain in self.settings.space.items():
            listed = domain.choice or domain.grid or ()
            if values[key] not in listed:  # a name may stand for a whole section, ``sgd`` for ``{name: sgd, …}``
                values[key] = next((value for value in listed if self._is_base(key, value)), values[key])
        return values

    def _is_base(self, key: str, value: Any) -> bool:
        """Whether the base configuration with a value is the base configuration."""
        try:
            return self.config({key: value}) == self.base
        except ConfigError:
            return False

    def values_of(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the searched keys in a configuration of nested plain values."""
        values = {}
        for key in self.settings.space:
            value: Any = plain
            for part in key.split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            values[key] = value
        return values

    @property
    def at_once(self) -> int | None:
        """Trials at a time; None: the members of a population take turns, in the room that there is."""
        return None if self.population else self.settings.at_once

    @property
    def retries(self) -> int:
        """Times that a trial whose process dies goes on from its checkpoint."""
        return self.settings.retries

    @property
    def population(self) -> bool:
        """Whether trials take over the states and values of others."""
        return self.settings.scheduler == "pbt"

    def metric(self, values: Mapping[str, Any]) -> str:
        """Key of the validation score that trials are judged by, the same for all."""
        del values
        return self.settings.metric

    def kept_values(self, values: Mapping[str, Any], plain: Mapping[str, Any]) -> Mapping[str, Any]:
        """The searched values in the configuration of a trial's state: members of a population take over others'."""
        del values
        return self.values_of(plain)

    def overview(self, over: Sequence[Trial], *, higher: bool) -> dict[str, float]:
        """The best validation score so far, as a metric of the search."""
        best = by_value(over, higher=higher)
        return {} if not best or best[0].value is None else {"search/best": best[0].value}

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial.

        Raises:
            ConfigError: if the values do not go together.
        """
        return _trial(with_values(self.raw, values), self.inner_steps)

    def plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration of a trial as nested plain values, also where they do not go together."""
        try:
            return self.config(values).model_dump(mode="json")
        except ConfigError:
            return with_values(self.base.model_dump(mode="json"), values)

    def to_yaml(self) -> str:
        """The whole search, as YAML that loads to an equal one wherever the base configuration is."""
        settings = self.settings.model_dump(mode="json", exclude_none=True)
        return strict_yaml.write({"search": settings, **self.base.model_dump(mode="json")})


def load(path: Path, overrides: Iterable[str] = ()) -> Search:
    """Read a search file and the base configuration it names; override, check.

    Args:
        path: the search file, or the name of one that comes with metaray.
        overrides: words ``section.key=value``.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    path = locate(path)
    return of(with_overrides(read_yaml(path), overrides), path)


def of(raw: Mapping[str, Any], path: Path) -> Search:
    """Check a search and every configuration in it.

    Args:
        raw: the section ``search``, and changes to the base configuration, or a whole one where there is no base.
        path: of the file that it is from, for messages; the base configuration's path is relative to its folder.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    settings = _settings(raw, path)
    own = {key: value for key, value in raw.items() if key != "search"}
    if settings.base is None:
        return _checked(settings, own)
    return _checked(settings, merged(read_yaml(locate(settings.base, path.parent)), own))


def reload(path: Path, overrides: Iterable[str] = ()) -> Search:
    """Read what :meth:`Search.to_yaml` wrote, changed in what leaves trials as they are.

    Args:
        path: the file of a search's folder.
        overrides: words ``section.key=value``.

    Raises:
        ConfigError: if an override asks for another search.
    """
    raw = read_yaml(path)
    searches = []
    for one in (raw, with_overrides(raw, overrides)):
        settings = _settings(one, path)
        searches.append(_checked(settings, {key: value for key, value in one.items() if key != "search"}))
    before, now = searches
    require_same(before, now)
    return now


def require_same(before: Search, now: Search) -> None:
    """Raise an error if a search would continue under settings that make other trials.

    Args:
        before: the search as it was begun.
        now: the search that is asked for.

    Raises:
        ConfigError: naming every key that differs.
    """
    free = {"trials", "at_once", "retries", "confirm", "confirm_tasks", "register_as", "alias"}
    changes = differences(
        before.settings.model_dump(mode="json", exclude=free), now.settings.model_dump(mode="json", exclude=free)
    ) + differences(before.base.identity, now.base.identity)
    if changes:
        raise ConfigError(
            f"the search is of other settings ({'; '.join(changes)}); leave them out, or start a new search"
        )


def _settings(raw: Mapping[str, Any], path: Path) -> SearchConfig:
    if "search" not in raw:
        raise ConfigError(f"{path}: expected a section 'search' (base, space, metric, …), found none")
    require_no_secrets(raw)
    try:
        return strictly(SearchConfig, raw["search"])
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, SearchConfig, "search."))) from error


def merged(base: dict[str, Any], own: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A copy of ``base`` with the sections of ``own`` laid over it.

    Args:
        base: nested plain values.
        own: nested plain values that take precedence.
        prefix: dotted key of the section that both are, with a dot at the end.
    """
    result = copy.deepcopy(base)
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(result.get(key), str) and prefix + key in SHORTHANDS:
            result[key] = {"name": result[key]}
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value, f"{prefix}{key}.")
        else:
            result[key] = copy.deepcopy(value)
    return result


def _trial(raw: dict[str, Any], inner_steps: int) -> Config:
    """A checked configuration whose best θ is picked by what the search judges by, and saved as often."""
    return as_trial(parse(with_values(raw, {"eval.baselines": [], "eval.select_steps": inner_steps})))


def as_trial(config: Config) -> Config:
    """A configuration for a trial among others: saved as often as validated, and computed in the trial's own process.

    A number of workers that is named stays.
    """
    if config.cluster.workers == "auto":  # trials run side by side; each computes in its own process
        config = parse(with_values(config.model_dump(mode="json"), {"cluster.workers": 0}))
    saved = min(config.checkpoint.every, config.eval.every or config.checkpoint.every)
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update={"every": saved})})


def _checked(settings: SearchConfig, raw: dict[str, Any]) -> Search:
    search = Search(settings, raw, _trial(raw, _judged_at(settings.metric, parse(raw))))
    if search.base.eval.every == 0:
        raise ConfigError("eval.every: a search judges by validation; set it to a number of outer steps")
    every, steps = search.base.eval.every, search.base.outer.steps
    if not every <= search.first_rung <= steps:
        raise ConfigError(
            f"search.grace: expected at least eval.every ({every}, the first validation) and at most outer.steps "
            f"({steps}), received {search.first_rung}"
        )
    for key, domain in settings.space.items():
        _check_key(search, key, domain)
    if settings.scheduler == "pbt":
        _check_mutable(settings)
    return search


def _judged_at(metric: str, config: Config) -> int:
    """The number of inner steps in the metric's name."""
    from cluster.setups.build import build

    name = build(config.model_copy(update={"engine": "loop"})).algorithm.objective.metric
    reported = [f"val/{name}_{number}" for number in sorted({*config.eval.steps, config.select_steps})]
    if metric not in reported:
        raise ConfigError(
            f"search.metric: expected one that trials report ({', '.join(reported)}), received '{metric}'"
            f"{nearest(metric, reported)}; for other numbers of inner steps add them to eval.steps"
        )
    return int(metric.rpartition("_")[2])


def _check_key(search: Search, key: str, domain: Domain) -> None:
    """Raise an error for a key that no configuration has, and for bounds that it does not take."""
    if key.partition(".")[0] in ("eval", "cluster", "tracking", "checkpoint"):
        raise ConfigError(f"search.space: expected keys that change θ, received '{key}'; give it a value instead")
    if key == "outer.steps":
        raise ConfigError("search.space: outer.steps is what schedulers shorten; give it a value instead")
    if key.removesuffix(".name") in SHORTHANDS and key.endswith(".name"):
        section = key.removesuffix(".name")
        raise ConfigError(
            f"search.space: the other keys of {section} are those of the class that {key} names, so that it cannot be "
            f"searched alone; search whole values, {section}: {{choice: [adam, {{name: sgd, momentum: 0.9}}]}}"
        )
    for value in domain.probes:
        try:
            search.config({key: value})
        except ConfigError as error:
            raise ConfigError(f"search.space: {error}") from error


def _check_mutable(settings: SearchConfig) -> None:
    for key, domain in settings.space.items():
        if key.partition(".")[0] not in MUTABLE or domain.bounds is None:
            raise ConfigError(
                f"search.space: scheduler: pbt changes values while θ is trained and expects numbers of the sections "
                f"{', '.join(MUTABLE)}, received '{key}'"
            )
