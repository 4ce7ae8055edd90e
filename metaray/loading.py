"""A trained model by its address: a run, or a registered model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.errors import MetarayError
from cluster.registry.evaluate import MODELS
from cluster.registry.package import Package, read_package
from cluster.registry.trust import require_trusted, trusted_packages
from cluster.runs.folder import RunFolder, find, read_json
from metaray.evaluations import Evaluation
from metaray.models import LoadedModel
from metaray.runs import TrainedRun
from metaray.words import words


class RegisteredModel(LoadedModel):
    """A version of a registered model, read whole."""

    def __init__(self, name: str, folder: RunFolder) -> None:
        """Read it from its folder, which may go afterwards."""
        self._package = read_package(folder.path)
        super().__init__(name, self._package.config)
        scores = folder.path / "evaluation.json"
        self._evaluation = read_json(scores) if scores.is_file() else None

    @property
    def package(self) -> Package:
        """θ, configuration and the family's spec."""
        return self._package

    def scores(self) -> Evaluation | None:
        """Returns the held-out scores that it was registered with; None if it was registered without."""
        return None if self._evaluation is None else Evaluation(self._evaluation)


def load(model: str | Path, *, trust: Sequence[str] = (), **overrides: Any) -> LoadedModel:
    """Loads a run or a registered model, to adapt it to tasks and predict.

    A registered model needs neither the data nor the family that it was trained on; a run needs its data.

    Args:
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or a run's folder, its name under ``runs/``, or its
            MLflow run id.
        trust: packages whose classes a registered model may name, besides metaray's own.
        **overrides: ``tracking={"uri": …}``, for a registered model.

    Returns:
        The model; a :class:`metaray.TrainedRun` of a run.

    Raises:
        ConfigError: if there is no such run or model.
        TrustError: if a registered model names a class of a package that is not trusted.

    >>> load("models:/no-such-model@champion", tracking={"uri": "sqlite:///no-such-file.db"})
    Traceback (most recent call last):
    ...
    cluster.errors.ConfigError: expected MLflow's database at no-such-file.db, found none; set MLFLOW_TRACKING_URI
    """
    address = str(model)
    if not address.startswith(MODELS):
        if overrides:
            raise MetarayError(
                f"expected a run alone, received '{next(iter(overrides))}' too: it is loaded as it was trained; "
                "metaray.evaluate scores it under another protocol"
            )
        return TrainedRun(find(address))
    from cluster.registry.client import Registry

    with Registry.of(words(overrides), trust).open(address) as folder:
        require_trusted(folder.path, trusted_packages(trust), adapting=True)
        return RegisteredModel(address, folder)
