"""Results of searches and comparisons, as tables, pictures and data frames."""

from typing import TYPE_CHECKING, Any

from cluster.errors import MetarayError
from metaray.evaluations import in_html
from metaray.runs import TrainedRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from rich.table import Table

    from cluster.compare.result import Result as Compared
    from cluster.search.ranking import Result as Ranked


class SearchTable:
    """The ranked trials of a search.

    Attributes:
        data: the keys that ``metaray tune --json`` prints.
    """

    def __init__(self, result: "Ranked", data: dict[str, Any]) -> None:
        """Hold the result."""
        self._result, self.data = result, data

    @property
    def best(self) -> TrainedRun:
        """The run of the best trial, scored on fresh validation tasks."""
        return TrainedRun(self._result.folder.run(self._result.best.number))

    def table(self) -> "Table":
        """Returns the table that ``metaray tune`` prints."""
        from cluster.commands.tables import trials_table

        return trials_table(self.data)

    def plot(self) -> "Figure":
        """Returns a figure of the scores over the searched keys, or of each trial's, where they span no plane."""
        from cluster.reports.search_page import FIGURES
        from cluster.search.picture import searched

        picture, reasons = searched(self._result), []
        for draw in FIGURES.values():
            figure = draw(picture)
            if not isinstance(figure, str):
                return figure
            reasons.append(figure)
        raise MetarayError("; ".join(reasons))

    def to_pandas(self) -> "DataFrame":
        """Returns a row for each trial: its values by key, score, how it ended, outer steps, folder."""
        from pandas import DataFrame

        kept = ("trial", "value", "status", "steps", "run_dir")
        return DataFrame([{**trial["values"], **{key: trial[key] for key in kept}} for trial in self.data["trials"]])

    def __repr__(self) -> str:
        """The best trial and how many there are."""
        best = self.data["best"]
        values = ", ".join(f"{key}={value}" for key, value in best["values"].items())
        return (
            f"SearchTable({len(self.data['trials'])} trials by {self.data['metric']}, best {best['trial']}: {values})"
        )

    def _repr_html_(self) -> str:
        return in_html(repr(self), self.to_pandas())


class ComparisonTable:
    """The rows of a comparison.

    Attributes:
        data: the keys that ``metaray compare --json`` prints.
    """

    def __init__(self, result: "Compared") -> None:
        """Hold the result."""
        self._result = result
        self.data: dict[str, Any] = result.as_json() | {"figures": [str(path) for path in result.figures]}

    def table(self) -> "Table":
        """Returns the table that ``metaray compare`` prints."""
        from cluster.commands.tables import rows_table

        return rows_table(self.data)

    def plot(self) -> "Figure":
        """Returns a figure of validation scores through the trainings and of the rows' test scores."""
        from cluster.compare.picture import compared
        from cluster.reports.figures.compared import comparison

        return comparison(compared(self._result))

    def to_pandas(self) -> "DataFrame":
        """Returns a row for each row and number of inner steps: score with intervals, and what it took."""
        from pandas import DataFrame

        used = ("seconds", "peak_memory_mb", "parameters")
        return DataFrame(
            [
                {"row": row["name"], "inner_steps": int(number), **figures, **{key: row[key] for key in used}}
                for row in self.data["rows"]
                if row["evaluation"] is not None
                for number, figures in row["evaluation"]["steps"].items()
            ]
        )

    def __repr__(self) -> str:
        """The rows and the seeds."""
        names = ", ".join(row["name"] for row in self.data["rows"])
        return f"ComparisonTable({names}; {self.data['metric']}, {len(self.data['seeds'])} seeds)"

    def _repr_html_(self) -> str:
        return in_html(repr(self), self.to_pandas())
