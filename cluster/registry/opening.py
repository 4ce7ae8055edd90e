"""A model to adapt, by any name that a user has for it: a registered model, a package, or a run."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.config.overrides import with_overrides
from cluster.errors import ConfigError
from cluster.registry.adapting import Adaptable
from cluster.registry.contender import contender_of, packages_of
from cluster.registry.evaluate import MODELS
from cluster.registry.loading import load_adaptable
from cluster.registry.package import SPEC, write_package
from cluster.runs.folder import RunFolder, find


def open_model(name: str, overrides: Sequence[str] = (), trusted: Sequence[str] = ()) -> Adaptable:
    """The model that a name stands for, ready to adapt in this process.

    Args:
        name: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; the folder of a registered model, as MLflow downloads
            it or its package alone; or a run's folder, name or MLflow run id, whose best θ is taken.
        overrides: ``tracking.uri=…`` of a registered model, and of a run also ``task.root=…``.
        trusted: packages whose classes a registered model's configuration may name.

    Raises:
        ConfigError: if there is no such model, or it names classes of packages that are not trusted.
        CheckpointError: if it is damaged.
    """
    if name.startswith(MODELS):
        from cluster.registry.client import Registry  # MLflow is loaded only where it is used

        _require_tracking_alone(overrides)
        with Registry.of(overrides, trusted).open(name) as folder:
            return load_adaptable(folder.path, trusted)
    for path in (Path(name), Path(name) / "artifacts" / "run"):
        if (path / SPEC).is_file():
            _require_tracking_alone(overrides)
            return load_adaptable(path, trusted)
    run = find(name)
    with _packed(run, overrides) as path:
        return load_adaptable(path, (*trusted, *packages_of(run.config)))


def _require_tracking_alone(overrides: Sequence[str]) -> None:
    if other := set(with_overrides({}, overrides)) - {"tracking"}:
        raise ConfigError(f"expected tracking.uri=… alone, received '{sorted(other)[0]}': a model is adapted as it is")


@contextmanager
def _packed(folder: RunFolder, overrides: Sequence[str]) -> Iterator[Path]:
    """A run's package, for the duration of a block: adapted as it would be once it is registered."""
    contender = contender_of(folder, overrides)
    with tempfile.TemporaryDirectory(prefix="metaray-") as temporary:
        path = Path(temporary) / "run"
        write_package(path, folder, contender.setup, contender.state, {})
        yield path
