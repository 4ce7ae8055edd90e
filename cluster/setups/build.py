"""From a configuration to the objects that compute. The only place besides the commands that reads it whole."""

from typing import cast

import torch

from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.setups.base import DTYPES
from cluster.setups.episodes import EpisodeSetup, build_episodes
from cluster.setups.models import resolve_offering
from cluster.setups.policies import PolicySetup, build_policies, require_no_policies
from tasks.environments.contract import EnvironmentFamily, EnvironmentSpec
from tasks.family import Family

Setup = EpisodeSetup | PolicySetup


def build(config: Config) -> Setup:
    """Construct family, model and algorithm; the engine is chosen when it is first asked for.

    Raises:
        ConfigError: if the parts do not fit together.
    """
    dtype, device = DTYPES[config.dtype], _device(config)
    try:
        family = _build_family(config)
        if isinstance(family.spec, EnvironmentSpec):
            return build_policies(config, build, cast(EnvironmentFamily, family), dtype, device)
        require_no_policies(config)
        return build_episodes(config, build, cast(Family, family), dtype, device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _device(config: Config) -> torch.device:
    """Device on which workers compute.

    Raises:
        ConfigError: if they ask for GPUs of a machine that has none.
    """
    gpus = config.cluster.gpus_per_worker
    if gpus > 0 and not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this torch was built without CUDA"
        raise ConfigError(
            f"cluster.gpus_per_worker: expected 0 on a machine without a GPU, received {gpus:g}: torch sees none here"
            f"{built}; set it to 0, or start the command on a machine with one"
        )
    return torch.device("cuda" if gpus > 0 else "cpu")


def _build_family(config: Config) -> Family | EnvironmentFamily:
    cls = resolve_offering("task.family", config.task.family, "spec")
    family: Family | EnvironmentFamily = cls(**config.task.params)
    members = ("describe", "start") if isinstance(family.spec, EnvironmentSpec) else ("draw",)
    resolve_offering("task.family", config.task.family, *members)
    return family
