"""A comparison file: a base configuration, one budget, seeds, and rows, each a few changes to the base."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from cluster.config import strict_yaml
from cluster.config.components import strictly
from cluster.config.overrides import with_changes, with_overrides, with_values
from cluster.config.problems import problems
from cluster.config.schema import Config, differences, parse, read_yaml, require_no_secrets
from cluster.config.sections import Count, CountOrNone, Positive, Section
from cluster.config.shipped import locate
from cluster.errors import ConfigError
from cluster.search.settings import as_trial, merged
from cluster.search.trials import Trial

LONGEST_NAME = 40  # letters: names stand in a table and beside figures
OWN_TO_ALL = ("cluster", "tracking", "checkpoint", "seed")  # sections and keys that are the same for all rows
CLASSES = ("name", "family")  # keys of a section that name a class, whose parameters the others are
EVAL_OF_A_ROW = ("steps", "select_steps", "later_lr")  # how a row adapts; on what tasks is the same for all

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Changes = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class Budget(Section):
    """``compare.budget``: what every run may use; exactly one of the fields.

    Attributes:
        steps: outer steps.
        tasks: training tasks; a multiple of every row's meta-batch.
        seconds: seconds of training: a run ends with the first outer step after them.
    """

    steps: Count | None = None
    tasks: Count | None = None
    seconds: Positive | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        named = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(named) != 1:
            kinds = ", ".join(type(self).model_fields)
            raise ValueError(f"expected exactly one of {kinds}, received {' and '.join(named) or 'none'}")
        return self

    def __str__(self) -> str:
        """As in table and page: ``2000 outer steps``."""
        if self.seconds is not None:
            return f"{self.seconds:g} seconds of training"
        return f"{self.tasks} training tasks" if self.tasks is not None else f"{self.steps} outer steps"


class CompareConfig(Section):
    """The section ``compare``."""

    base: str | None = None
    budget: Budget
    rows: Annotated[dict[Name, Changes], Field(min_length=1)]
    seeds: Count | list[Seed] = 3
    at_once: Count | None = None
    retries: CountOrNone = 2

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if isinstance(self.seeds, list) and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ValueError(f"seeds: expected a number, or a list of different seeds, received {self.seeds}")
        return self


@dataclass(frozen=True)
class Comparison:
    """A checked comparison: trials are its rows, each from every seed.

    Attributes:
        settings: the section ``compare``.
        raw: the base configuration with what the file changes in it, defaults spelled out, as nested plain values.
        base: the same, checked.
    """

    settings: CompareConfig
    raw: dict[str, Any]
    base: Config

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in the order of the file; others are compared with the first."""
        return list(self.settings.rows)

    @property
    def seeds(self) -> list[int]:
        """The seeds of every row: those that are listed, or so many from the base's on."""
        seeds = self.settings.seeds
        return seeds if isinstance(seeds, list) else [self.base.seed + number for number in range(seeds)]

    def points(self) -> list[dict[str, Any]]:
        """Values of the trials by number: all rows from the first seed, then from the next."""
        return [{"row": row, "seed": seed} for seed in self.seeds for row in self.rows]

    def changes(self, row: str) -> dict[str, Any]:
        """A row's changes of the base, by dotted key."""
        return dict(_dotted(self.settings.rows[row], self.raw))

    def config(self, values: Mapping[str, Any]) -> Config:
        """The configuration of a trial.

        Raises:
            ConfigError: naming the row, and every key of it that is wrong.
        """
        row, seed = values["row"], values["seed"]
        try:
            config = parse(with_changes(self.raw, self.changes(row)))
            own = {
                "seed": seed,
                "outer.steps": _steps(self.settings.budget, config),
                "eval.baselines": [],
                "eval.steps": list(config.scored_steps),  # the score of a row is among those that are shown
            }
            return as_trial(parse(with_values(config.model_dump(mode="json"), own)))
        except ConfigError as error:
            raise ConfigError(f"compare.rows.{row}: {error}") from error

    @property
    def at_once(self) -> int | None:
        """Trials at a time; None: as many as the cluster has room for."""
        return self.settings.at_once

    @property
    def retries(self) -> int:
        """Times that a trial whose process dies goes on from its checkpoint."""
        return self.settings.retries

    @property
    def population(self) -> bool:
        """No: trials do not take over anything."""
        return False

    def metric(self, values: Mapping[str, Any]) -> str:
        """Key of a row's validation score after its own number of inner steps."""
        return f"val/{self.score_name}_{self.config(values).select_steps}"

    @cached_property
    def score_name(self) -> str:
        """Name of the score, the same for all rows."""
        from cluster.setups.build import build

        return build(self.base.model_copy(update={"engine": "loop"})).algorithm.objective.metric

    def plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A trial's configuration, and which row it is of, as nested plain values."""
        return {"compare": {"row": values["row"]}, **self.config(values).model_dump(mode="json")}

    def kept_values(self, values: Mapping[str, Any], plain: Mapping[str, Any]) -> Mapping[str, Any]:
        """The trial's values as they are."""
        del plain
        return values

    def overview(self, over: Sequence[Trial], *, higher: bool) -> dict[str, float]:
        """The number of trials that are over."""
        del higher
        return {"comparison/over": float(len(over))}

    def to_yaml(self) -> str:
        """The whole comparison, as YAML that loads to an equal one wherever the base configuration is."""
        settings = self.settings.model_dump(mode="json")
        return strict_yaml.write({"compare": settings, **self.base.model_dump(mode="json")})


def load(path: Path, overrides: Iterable[str] = ()) -> Comparison:
    """Read a comparison file and the base configuration it names; override, check every row.

    Args:
        path: the comparison file, or the name of one that comes with metaray.
        overrides: words ``section.key=value``.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    path = locate(path)
    return of(with_overrides(read_yaml(path), overrides), path)


def of(raw: Mapping[str, Any], path: Path) -> Comparison:
    """Check a comparison and every configuration in it.

    Args:
        raw: the section ``compare``, and changes to the base configuration, or a whole one where there is no base.
        path: of the file that it is from, for messages; the base configuration's path is relative to its folder.

    Raises:
        ConfigError: naming every key that is wrong.
    """
    settings = _settings(raw, path)
    own = {key: value for key, value in raw.items() if key != "compare"}
    if settings.base is None:
        return _checked(settings, own)
    return _checked(settings, merged(read_yaml(locate(settings.base, path.parent)), own))


def reload(path: Path, overrides: Iterable[str] = ()) -> Comparison:
    """Read what :meth:`Comparison.to_yaml` wrote, changed in what leaves the trials so far as they are.

    Args:
        path: the file of a comparison's folder.
        overrides: words ``section.key=value``.

    Raises:
        ConfigError: if an override asks for another comparison.
    """
    raw = read_yaml(path)
    comparisons = []
    for one in (raw, with_overrides(raw, overrides)):
        settings = _settings(one, path)
        comparisons.append(_checked(settings, {key: value for key, value in one.items() if key != "compare"}))
    before, now = comparisons
    require_same(before, now)
    return now


def require_same(before: Comparison, now: Comparison) -> None:
    """Raise an error if a comparison would continue with other trials than those it has; seeds may be added.

    Args:
        before: the comparison as it was begun.
        now: the comparison that is asked for.

    Raises:
        ConfigError: naming every key that differs.
    """
    free = {"at_once", "retries", "seeds", "base"}
    changes = [
        *differences(
            before.settings.model_dump(mode="json", exclude=free),
            now.settings.model_dump(mode="json", exclude=free),
            "compare.",
        ),
        *differences(before.base.identity, now.base.identity),
        *differences(before.base.eval.model_dump(mode="json"), now.base.eval.model_dump(mode="json"), "eval."),
    ]
    if not changes and before.rows != now.rows:
        changes.append(f"order of compare.rows: {', '.join(before.rows)} there, {', '.join(now.rows)} here")
    if now.seeds[: len(before.seeds)] != before.seeds:
        changes.append(f"compare.seeds: {before.seeds} there, {now.seeds} here; more may be added at the end")
    if changes:
        raise ConfigError(
            f"the comparison is of other settings ({'; '.join(changes)}); leave them out, or start a new comparison"
        )


def _settings(raw: Mapping[str, Any], path: Path) -> CompareConfig:
    if "compare" not in raw:
        raise ConfigError(f"{path}: expected a section 'compare' (base, budget, seeds, rows), found none")
    require_no_secrets(raw)
    try:
        return strictly(CompareConfig, raw["compare"])
    except ValidationError as error:
        raise ConfigError("\n".join(problems(error, CompareConfig, "compare."))) from error


def _checked(settings: CompareConfig, raw: dict[str, Any]) -> Comparison:
    base = parse(with_values(raw, {"eval.baselines": []}))
    # Settled once: a comparison that is read again from its folder has the defaults spelled out too.
    base = parse(with_values(base.model_dump(mode="json"), {"outer.steps": _steps(settings.budget, base)}))
    comparison = Comparison(settings, base.model_dump(mode="json"), as_trial(base))
    for row in comparison.rows:
        for key in comparison.changes(row):
            _check_key(row, key)
        comparison.config({"row": row, "seed": comparison.seeds[0]})
    return comparison


def _steps(budget: Budget, config: Config) -> int:
    """Outer steps that a configuration takes under a budget; under one of seconds, at most."""
    if budget.tasks is None:
        return budget.steps or config.outer.steps
    steps, left = divmod(budget.tasks, config.meta_batch)
    if left or not steps:
        raise ConfigError(
            f"compare.budget.tasks: expected a multiple of meta_batch, which is {config.meta_batch}, such as "
            f"{max(steps, 1) * config.meta_batch}, received {budget.tasks}"
        )
    return steps


def _check_key(row: str, key: str) -> None:
    """Raise an error for a key that has to be the same for all rows."""
    section, _, rest = key.partition(".")
    where = f"compare.rows.{row}"
    if key == "outer.steps":
        raise ConfigError(f"{where}: outer.steps is the budget's, received it in a row; set compare.budget")
    if section in OWN_TO_ALL or (section == "eval" and rest not in EVAL_OF_A_ROW):
        raise ConfigError(
            f"{where}: expected keys that change a method, received '{key}', which is the same for all rows; set it "
            "beside the section compare"
        )


def _dotted(changes: Mapping[str, Any], raw: Mapping[str, Any] | Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Changes by dotted key: sections of the base are taken apart, but for one that comes to name another class."""
    for key, value in changes.items():
        below = raw
        for part in key.split("."):
            below = below.get(part) if isinstance(below, Mapping) else None
        sections = isinstance(value, Mapping) and value and isinstance(below, Mapping)
        if sections and all(value.get(name, below.get(name)) == below.get(name) for name in CLASSES):
            yield from _dotted(value, below, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
