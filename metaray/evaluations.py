"""Held-out scores of a run or a registered model."""

import html
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cluster.evaluation.protocol import conditions, mean_in_words, rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.table import Table


def in_html(caption: str, frame: "DataFrame") -> str:
    """A caption and a table of numbers, for a notebook.

    Args:
        caption: plain text.
        frame: the numbers.
    """
    table: str = frame.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}")
    return f"<div><p>{html.escape(caption)}</p>{table}</div>"


class Evaluation(Mapping[str, Any]):
    """Held-out scores of a run and its baselines: a mapping of the keys that ``metaray evaluate --json`` prints.

    ``evaluation["steps"]["5"]`` holds ``mean``, ``ci95``, ``median`` and ``diverged`` after five inner steps.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Hold the figures."""
        self._data = dict(data)

    def __getitem__(self, key: str) -> Any:
        """One of the keys of ``--json``."""
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        """The keys of ``--json``."""
        return iter(self._data)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._data)

    def table(self) -> "Table":
        """Returns the table that ``metaray evaluate`` prints; a notebook shows it, ``rich.print`` prints it."""
        from cluster.commands.tables import evaluation_table

        return evaluation_table(self)

    def plot(self) -> "Figure":
        """Returns a figure of the score against inner steps with its 95 % interval, baselines beside it."""
        from cluster.reports.figures import adaptation

        return adaptation(self, self["algorithm"])

    def to_pandas(self) -> "DataFrame":
        """Returns a row for each learner and number of inner steps: mean, ci95, median, diverged."""
        from pandas import DataFrame

        return DataFrame(
            [
                {"learner": name, "inner_steps": int(number), **figures}
                for name, steps in rows(self, self["algorithm"])
                for number, figures in steps.items()
            ]
        )

    def __repr__(self) -> str:
        """Metric, tasks, and the means of the run itself."""
        means = ", ".join(
            f"{number}: {mean_in_words(figures, mean='.4g', half='.2g')}" for number, figures in self["steps"].items()
        )
        return f"Evaluation({self['metric']} on {self['tasks']} {self['split']} tasks after inner steps {means})"

    def _repr_html_(self) -> str:
        return in_html(f"{self['metric']}: {', '.join(conditions(self))}", self.to_pandas())
