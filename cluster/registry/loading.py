"""From a registered model's folder to what adapts and predicts."""

from collections.abc import Sequence
from pathlib import Path

from cluster.registry.adapting import Adaptable
from cluster.registry.models import AdaptableModel
from cluster.registry.package import read_package
from cluster.registry.policies import AdaptablePolicy
from cluster.registry.trust import require_trusted, trusted_packages
from tasks.environments.contract import EnvironmentSpec


def load_adaptable(path: Path, trusted: Sequence[str] = ()) -> Adaptable:
    """The model in a folder that :func:`cluster.registry.package.write_package` wrote.

    Args:
        path: the folder.
        trusted: packages whose classes the model's configuration may name, besides metaray's own and those that
            ``METARAY_TRUST`` names.

    Raises:
        TrustError: if it names another's; nothing of it is imported then.
        CheckpointError: if the folder holds no such model.
        ConfigError: if a class of the user's own cannot be imported.
    """
    require_trusted(path, trusted_packages(trusted), adapting=True)
    package = read_package(path)
    if isinstance(package.spec, EnvironmentSpec):
        return AdaptablePolicy(package, package.spec)
    return AdaptableModel(package)
