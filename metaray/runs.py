"""A run, finished or under way, as an object."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import MetarayError
from cluster.registry.package import Package, package_of
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder, read_json
from cluster.runs.metrics import records
from cluster.setups.build import build
from meta.params import Layout, fingerprint
from metaray.evaluations import Evaluation
from metaray.models import LoadedModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


class TrainedRun(LoadedModel):
    """A run's folder: its model, scores and history.

    Attributes:
        folder: the run's folder.
        outcome: the keys that ``metaray train --json`` prints, where it was trained by this process; else None.
    """

    def __init__(self, folder: RunFolder, outcome: Mapping[str, Any] | None = None) -> None:
        """Name the folder; files are read when they are asked for."""
        super().__init__(str(folder.info["name"]), folder.config)
        self.folder, self.outcome = folder, outcome

    @property
    def path(self) -> Path:
        """Path of the run's folder."""
        return self.folder.path

    def scores(self) -> Evaluation | None:
        """Returns the held-out scores, of its baselines too; None before the run has come to its end."""
        path = self.path / "evaluation.json"
        return Evaluation(read_json(path)) if path.is_file() else None

    @cached_property
    def package(self) -> Package:
        """θ of the best checkpoint by validation, or of the newest, with configuration and spec."""
        _, state = checkpoints.chosen(self.folder.checkpoints)
        return package_of(self.config, build(self.config), state)

    @property
    def theta_sha256(self) -> str:
        """Fingerprint of the newest θ, as ``metaray train --json`` prints it.

        Raises:
            MetarayError: if the run has no checkpoint yet.
        """
        state = checkpoints.newest(self.folder.checkpoints)
        if state is None:
            raise MetarayError(f"expected a checkpoint in {self.folder.checkpoints.root}, found none yet")
        theta = state.sets[checkpoints.THETA]
        return fingerprint(Layout.of(theta).flatten(theta))

    def history(self) -> "DataFrame":
        """Returns the metrics through the training: a row for each outer step that has any, a column for each name."""
        from pandas import DataFrame

        steps: dict[int, dict[str, Any]] = {}
        for record in records(self.folder.metrics_path):
            steps.setdefault(record["step"], {}).update(record["values"])
        frame = DataFrame.from_dict(steps, orient="index").sort_index()
        frame.index.name = "step"
        return frame

    def plot_history(self) -> "Figure":
        """Returns the learning curves of the run and its baselines."""
        from cluster.reports.figures import learning_curves

        folders = {self.config.algorithm.name: self.folder, **self.folder.baselines}
        return learning_curves({label: records(folder.metrics_path) for label, folder in folders.items()})
