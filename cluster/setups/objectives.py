"""The objective of a run, and the scores that it reports beside the one that selects θ."""

from cluster.config.components import BUILT_IN, resolve
from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.setups.models import own_keys
from meta.objectives import KINDS, OBJECTIVES, Objective, TaskScore
from tasks.family import FamilySpec


def objective_of(config: Config, spec: FamilySpec) -> Objective:
    """The objective that the configuration names, or else the family's own.

    Args:
        config: the configuration.
        spec: of the family.

    Raises:
        ConfigError: if the objective takes other targets than the family gives, or the family names none that exists.
    """
    own = OBJECTIVES.get(spec.objective)
    if own is None:
        raise ConfigError(
            f"task.family: expected a spec whose objective is one of {', '.join(sorted(OBJECTIVES))}, received "
            f"'{spec.objective}'; another one is named by the key objective"
        )
    if config.objective is None:
        return own
    keys = own_keys("objective.name", config.objective, frozenset())
    objective: Objective = resolve("objective.name", config.objective.name)(**keys)
    if not _suits(own, objective):
        suitable = sorted(name for name in BUILT_IN["objective.name"] if _suits(own, resolve("objective.name", name)))
        raise ConfigError(
            f"objective: expected one for targets that are {KINDS[own.targets]}, as task.family {config.task.family} "
            f"gives them, received '{config.objective.name}', which takes {KINDS[objective.targets]}; choose one of "
            f"{', '.join(suitable)}"
        )
    return objective


def _suits(own: Objective, other: Objective | type[Objective]) -> bool:
    """Tells whether targets of one objective have the shape that another takes; labels are numbers."""
    return (own.targets == "classes") == (other.targets == "classes")


def scores_of(config: Config, objective: Objective) -> tuple[TaskScore, ...]:
    """The scores of ``eval.scores``, in its order.

    Args:
        config: the configuration.
        objective: of the run.

    Raises:
        ConfigError: if one is not made for the objective's targets.
    """
    scores: list[TaskScore] = []
    for name in config.eval.scores:
        score = resolve("eval.scores", name)()
        if objective.targets not in score.suits:
            suitable = [
                one for one in BUILT_IN["eval.scores"] if objective.targets in resolve("eval.scores", one).suits
            ]
            raise ConfigError(
                f"eval.scores: expected scores of targets that are {KINDS[objective.targets]}, received '{name}'; "
                f"choose some of {', '.join(suitable)}"
            )
        scores.append(score)
    return tuple(scores)
