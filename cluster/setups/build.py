"""From a configuration to the objects that compute. The only place besides the commands that reads it whole."""

from typing import cast

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
    """Construct family, model and algorithm, on the processor; the engine is chosen when it is first asked for.

    Raises:
        ConfigError: if the parts do not fit together.
    """
    dtype = DTYPES[config.dtype]
    try:
        family = _build_family(config)
        if isinstance(family.spec, EnvironmentSpec):
            return build_policies(config, build, cast(EnvironmentFamily, family), dtype)
        require_no_policies(config)
        return build_episodes(config, build, cast(Family, family), dtype)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _build_family(config: Config) -> Family | EnvironmentFamily:
    cls = resolve_offering("task.family", config.task.family, "spec")
    family: Family | EnvironmentFamily = cls(**config.task.params)
    members = ("describe", "start") if isinstance(family.spec, EnvironmentSpec) else ("draw",)
    resolve_offering("task.family", config.task.family, *members)
    return family
