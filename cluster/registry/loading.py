"""From a registered model's folder to what adapts and predicts."""

from pathlib import Path

from cluster.registry.adapting import Adaptable
from cluster.registry.models import AdaptableModel
from cluster.registry.package import read_package
from cluster.registry.policies import AdaptablePolicy
from tasks.environments.contract import EnvironmentSpec


def load_adaptable(path: Path) -> Adaptable:
    """The model in a folder that :func:`cluster.registry.package.write_package` wrote.

    Raises:
        CheckpointError: if the folder holds no such model.
        ConfigError: if a class of the user's own cannot be imported.
    """
    package = read_package(path)
    if isinstance(package.spec, EnvironmentSpec):
        return AdaptablePolicy(package, package.spec)
    return AdaptableModel(package)
