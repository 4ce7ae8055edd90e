"""A table, and the roles that its columns have in a task."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from tasks.data.errors import DataError

MISSING = ("refuse", "drop", "impute")  # what to do with rows that lack a value


@dataclass(frozen=True, kw_only=True)
class Roles:
    """The columns of a table, by their role; each is an option of ``metaray data prepare table``.

    Attributes:
        group: its values are the tasks.
        inputs: columns that a prediction is made from.
        targets: numbers to predict.
        labels: a class to predict, in the place of ``targets``.
        categorical: those of the inputs that hold categories.
        time: column that orders the rows of a group. Rows are a series then, and a target may be an input too.
        split: column that holds ``train``, ``val`` or ``test``, the same in all rows of a group.
    """

    group: str
    inputs: tuple[str, ...]
    targets: tuple[str, ...] = ()
    labels: str | None = None
    categorical: tuple[str, ...] = ()
    time: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        """Checks that the roles go together.

        Raises:
            DataError: if they do not.
        """
        if not self.inputs:
            raise DataError("expected --inputs: the columns to predict from, separated by commas")
        if bool(self.targets) == (self.labels is not None):
            received = "both" if self.targets else "neither"
            raise DataError(f"expected --targets (numbers to predict) or --labels (a class), received {received}")
        for column in self.categorical:
            if column not in self.inputs:
                raise DataError(
                    f"--categorical: expected columns of --inputs, received '{column}'{nearest(column, self.inputs)}; "
                    "text to predict is named by --labels"
                )
        self._check_once()

    def _check_once(self) -> None:
        """Checks that each column has one role; in a series the past of a target may be an input."""
        roles: dict[str, str] = {}
        single = {"--group": self.group, "--time": self.time, "--split-column": self.split, "--labels": self.labels}
        entries = [(option, column) for option, column in single.items() if column is not None]
        entries += [("--inputs", column) for column in self.inputs] + [("--targets", one) for one in self.targets]
        for option, column in entries:
            earlier = roles.setdefault(column, option)
            allowed = {earlier, option} == {"--inputs", "--targets"} and self.time is not None
            repeated = sum(entry == (option, column) for entry in entries) > 1
            if repeated or (earlier != option and not allowed):
                advice = "name it once" if repeated else f"take it out of {earlier} or of {option}"
                series = "" if self.time else "; in a series, with --time, a target's past may be an input"
                raise DataError(
                    f"expected one role for each column, received '{column}' as {earlier} and {option}; "
                    f"{advice}{series if not repeated else ''}"
                )

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the columns that are stored, inputs first; a target that is an input too is there twice."""
        return (*self.inputs, *self.predicted)

    @property
    def predicted(self) -> tuple[str, ...]:
        """Names of the target columns, or of the label."""
        return self.targets if self.labels is None else (self.labels,)

    @property
    def is_category(self) -> tuple[bool, ...]:
        """Whether each of :attr:`values` holds categories."""
        return (*(name in self.categorical for name in self.inputs), *(self.labels is not None for _ in self.predicted))

    @property
    def read(self) -> tuple[str, ...]:
        """Names of all columns that are read, each once."""
        optional = [name for name in (self.time, self.split) if name is not None]
        return tuple(dict.fromkeys((self.group, *optional, *self.values)))

    def require_in(self, names: Sequence[str], where: str) -> None:
        """Checks that a file has every column.

        Args:
            names: the file's columns.
            where: the file.

        Raises:
            DataError: naming the columns that are missing, and the nearest ones that are there.
        """
        missing = [name for name in self.read if name not in names]
        if missing:
            described = ", ".join(f"'{name}'{nearest(name, names)}" for name in missing)
            shown = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
            raise DataError(f"{where}: expected a column {described}; the file has {shown}")
        twice = sorted({name for name in self.read if names.count(name) > 1})
        if twice:
            raise DataError(f"{where}: expected each column once, received '{twice[0]}' twice; rename one of them")


@dataclass(frozen=True)
class TableSource:
    """A table and what its columns are for; the attributes are the options of ``metaray data prepare table``.

    Attributes:
        source: a CSV or Parquet file, or a folder of them.
        group: column whose values are the tasks.
        inputs: columns to predict from.
        targets: columns of numbers to predict.
        labels: column of a class to predict, in the place of ``targets``.
        categorical: those of ``inputs`` that hold categories.
        time: column that orders the rows of a group, for series.
        split_column: column that holds train, val or test.
        ratio: shares of the groups, as for :func:`tasks.data.splits.by_ratio`.
        lists: folder of lists of groups.
        seed: seed of the split by ``ratio``.
        missing: ``refuse`` rows without a value, ``drop`` them, or ``impute`` inputs by the training mean; rows
            without a target are then dropped.
    """

    source: Path
    group: str | None = None
    inputs: Sequence[str] = ()
    targets: Sequence[str] = ()
    labels: str | None = None
    categorical: Sequence[str] = ()
    time: str | None = None
    split_column: str | None = None
    ratio: str | None = None
    lists: Path | None = None
    seed: int = 0
    missing: str = "refuse"

    def __post_init__(self) -> None:
        """Checks what can be checked without the data.

        Raises:
            DataError: if the options do not go together.
        """
        if self.missing not in MISSING:
            raise DataError(
                f"--missing: expected {', '.join(MISSING)}, received '{self.missing}'{nearest(self.missing, MISSING)}"
            )
        splits = (self.split_column, self.ratio, self.lists)
        if sum(one is not None for one in splits) > 1:
            raise DataError("expected --split-column, --ratio or --lists, received more than one; leave the others out")
        _ = self.roles

    @cached_property
    def roles(self) -> Roles:
        """The columns by role.

        Raises:
            DataError: if they do not go together.
        """
        if self.group is None:
            raise DataError("expected --group COLUMN: the column whose values are the tasks")
        return Roles(
            group=self.group,
            inputs=tuple(self.inputs),
            targets=tuple(self.targets),
            labels=self.labels,
            categorical=tuple(self.categorical),
            time=self.time,
            split=self.split_column,
        )


def nearest(name: str, choices: Collection[str]) -> str:
    """The words « (did you mean 'x'?)» for the nearest choice, or an empty text.

    Args:
        name: as the user wrote it.
        choices: valid names.

    >>> nearest("pricee", ["date", "price"])
    " (did you mean 'price'?)"
    """
    folded = {choice.casefold().strip(): choice for choice in choices}
    close = get_close_matches(name.casefold().strip(), list(folded), n=1, cutoff=0.5)
    return f" (did you mean '{folded[close[0]]}'?)" if close else ""
