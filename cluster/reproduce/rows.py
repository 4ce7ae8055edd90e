"""The rows of docs/results.md, as ``tune_configs/reproduce.yaml`` declares them, and what is published about each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from cluster.compare.settings import Comparison, of
from cluster.config.components import nearest, strictly
from cluster.config.overrides import with_overrides
from cluster.config.problems import problems
from cluster.config.schema import read_yaml
from cluster.config.sections import OpenSection, Section
from cluster.errors import ConfigError
from cluster.search.settings import merged

ROWS = Path("tune_configs/reproduce.yaml")
# What may differ from one machine to the next, and leaves what is measured as it is.
FREE = ("cluster.", "tracking.", "checkpoint.", "task.root", "compare.seeds", "compare.at_once", "compare.retries")

Published = float | tuple[float, float]  # a number, or a number and the half-width of its interval


class Reference(Section):
    """``published``: numbers that others report.

    Attributes:
        source: where they stand.
        scores: by row of the comparison and number of inner steps, in the metric's unit (an accuracy is at most 1).
    """

    source: str
    scores: dict[str, dict[int, Published]]


class RowConfig(OpenSection):
    """An entry of the file; further keys are sections of a configuration, changes of the base.

    Attributes:
        title: as the page shows it.
        compare: path of a comparison file from the folder of this one, or such a file's section ``compare``, of which
            ``rows`` (one, ``maml``) and ``budget`` (the base's outer steps) may be left out.
        group: table of the page that it stands in.
        metric: name of the score.
        published: numbers that others report.
        target: validation score whose time of arrival is measured.
        also: further protocols, changes of the configuration by name, that the trained θ are scored under.
    """

    title: str
    compare: str | dict[str, Any]
    group: Literal["regression", "images", "reinforcement learning", "methods", "time to accuracy"]
    metric: Literal["accuracy", "mse", "return"]
    published: Reference | None = None
    target: float | None = None
    also: dict[str, dict[str, Any]] = Field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the page.

    Attributes:
        name: as the command takes it.
        settings: what the file says about it.
        path: of the file.
    """

    name: str
    settings: RowConfig
    path: Path

    def comparison(self, overrides: Sequence[str] = ()) -> Comparison:
        """The comparison that trains and scores it.

        Args:
            overrides: words ``section.key=value`` about machine, folders and seeds.

        Raises:
            ConfigError: if an override changes what is measured, or the entry names no rows, keys or files that exist.
        """
        for word in overrides:
            if not word.startswith(FREE):
                raise ConfigError(
                    f"expected an override of {', '.join(FREE)}, which leaves what row {self.name} measures as it is, "
                    f"received '{word}'; for other settings use metaray compare or metaray train"
                )
        try:
            raw, path = self._whole()
            comparison = of(with_overrides(raw, overrides), path)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {self.name}: {error}") from error
        self._require_rows(comparison)
        return comparison

    def published(self, name: str) -> Mapping[int, Published]:
        """Published scores of a row of the comparison by number of inner steps.

        Args:
            name: of the comparison's row.
        """
        return {} if self.settings.published is None else self.settings.published.scores.get(name, {})

    def _whole(self) -> tuple[dict[str, Any], Path]:
        """The comparison file's contents that the entry stands for, and the path that it names files from."""
        raw, named = self.settings.params, self.settings.compare
        if isinstance(named, str):
            path = self.path.parent / named
            return merged(read_yaml(path), raw), path
        section = {"rows": {"maml": {}}} | named
        if "budget" not in section and "base" in section:
            steps = merged(read_yaml(self.path.parent / section["base"]), raw).get("outer", {}).get("steps")
            section |= {"budget": {"steps": steps}}
        return {**raw, "compare": section}, self.path

    def _require_rows(self, comparison: Comparison) -> None:
        """Check that published numbers are about rows and inner steps that are scored."""
        for name, scores in (self.settings.published.scores if self.settings.published else {}).items():
            if name not in comparison.rows:
                raise ConfigError(
                    f"{self.path}: {self.name}.published.scores: expected rows of the comparison, received "
                    f"'{name}'{nearest(name, comparison.rows)}"
                )
            scored = comparison.config({"row": name, "seed": comparison.seeds[0]}).eval.steps
            if missing := sorted(scores.keys() - set(scored)):
                raise ConfigError(
                    f"{self.path}: {self.name}.published.scores.{name}: expected numbers of inner steps of eval.steps "
                    f"({list(scored)}), received {missing}"
                )


def load_rows(path: Path = ROWS) -> dict[str, Row]:
    """The rows by name, in the order of the file.

    Args:
        path: of the file.

    Raises:
        ConfigError: if there is no such file, or naming every key that is wrong.
    """
    if not path.is_file():
        raise ConfigError(
            f"expected {path}, which is in metaray's repository, found none; call metaray reproduce in a checkout"
        )
    rows = {}
    for name, raw in read_yaml(path).items():
        try:
            rows[name] = Row(name=name, settings=strictly(RowConfig, raw), path=path)
        except ValidationError as error:
            raise ConfigError("\n".join(problems(error, RowConfig, f"{name}."))) from error
    return rows


def row_of(rows: Mapping[str, Row], name: str) -> Row:
    """One row.

    Args:
        rows: all, by name.
        name: of the row.

    Raises:
        ConfigError: naming the nearest, if there is none of the name.
    """
    if name not in rows:
        raise ConfigError(
            f"expected a row of docs/results.md, received '{name}'{nearest(name, list(rows))}; "
            "metaray reproduce lists them"
        )
    return rows[name]
