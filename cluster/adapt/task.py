"""A task in files: which reader takes them, and what it gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from tasks.data.tables.encode import Scale


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of a task, and what the caller says of them.

    Attributes:
        support: table, folder of class folders, npz or JSON.
        query: table, folder of pictures or one picture, npz or JSON; None where ``support`` holds the query inputs too.
        inputs: names of input columns, for models that know none.
        targets: names of target columns, likewise.
    """

    support: Path
    query: Path | None
    inputs: Sequence[str] = ()
    targets: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Task:
    """Arrays of a call, and the names that predictions are written with.

    Attributes:
        arrays: by the names of the model's inputs, [T, …].
        inner_steps: inner steps that the files ask for; None: they say nothing.
        inner_lr: α that the files ask for, likewise.
        queries: name of each query; empty: they are numbered from 1.
        targets: names of the targets, or of the classes; empty: they are numbered from 0.
        scale: what targets were standardised by, of all columns, inputs first; None: not at all.
        notes: sentences about what was passed over.
    """

    arrays: dict[str, NDArray[Any]]
    inner_steps: int | None = None
    inner_lr: float | None = None
    queries: Sequence[str] = ()
    targets: Sequence[str] = ()
    scale: Scale | None = None
    notes: Sequence[str] = ()
