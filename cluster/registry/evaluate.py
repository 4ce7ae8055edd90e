"""Evaluation of what a user names: a run, or a registered model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.evaluation.run import evaluate_run
from cluster.runs.folder import RunFolder, find

MODELS = "models:"  # begins the address of a registered model


def evaluate_named(name: str, overrides: Sequence[str], split: str, trusted: Sequence[str] = ()) -> dict[str, Any]:
    """Evaluation of a RUN, or of a registered model by its address ``models:/NAME@ALIAS``; see :func:`evaluate_run`.

    Args:
        name: the run or the model.
        overrides: changes of its configuration.
        split: of the tasks.
        trusted: packages whose classes a registered model's configuration may name.

    Raises:
        ConfigError: if there is no such run or model.
    """
    with _located(name, overrides, trusted) as folder:
        return evaluate_run(folder, overrides, split)


@contextmanager
def _located(name: str, overrides: Sequence[str], trusted: Sequence[str]) -> Iterator[RunFolder]:
    if not name.startswith(MODELS):
        yield find(name)
        return
    from cluster.registry.client import Registry  # MLflow is loaded only where it is used

    with Registry.of(overrides, trusted).open(name) as folder:
        yield folder
