"""The section ``outer``: what keys there are, of what type, with what defaults."""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator

from cluster.config.sections import Count, NonNegative, OpenSection, Positive, Section


class TrustRegionConfig(Section):
    """``outer.trpo``: a natural-gradient step within a bound of the mean KL divergence."""

    kl: Positive = 0.01
    """Bound of the mean KL divergence."""
    iterations: Count = 10
    """Iterations of the conjugate gradient method."""
    damping: NonNegative = 1e-5
    """Multiple of the identity that is added to the Hessian of KL."""
    backtracks: Count = 15
    """Tries of the line search."""
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Ratio of each try's step to that of the one before."""


class ClippedConfig(Section):
    """``outer.ppo``: several steps of the optimizer on one batch of rollouts, by a clipped surrogate."""

    clip: Positive = 0.3
    """Clipping ε of the ratio of probabilities."""
    epochs: Count = 5
    """Steps of the optimizer for each meta-batch."""
    kl_penalty: NonNegative = 5e-4
    """Weight of the divergence of the policies before adaptation."""


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


_ONE_OR_MORE = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
Patterns = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE)]


class GroupConfig(OpenSection):
    """``outer.optimizer.groups.NAME``: parameters with settings of their own."""

    patterns: Patterns
    """Of the names of parameters, as in ``inner.adapt``; one may stand without a list."""
    lr: Positive | None = None
    """Step size of the group; null: ``outer.lr``."""


class OptimizerConfig(OpenSection):
    """``outer.optimizer``: the class that moves θ, its arguments, and groups of parameters with other ones."""

    name: str = "adam"
    """A class of ``torch.optim``, as it is written there or in small letters, or ``module:Class``. All further keys are
    its constructor's arguments."""
    groups: dict[str, GroupConfig] = {}  # noqa: RUF012 - pydantic copies it
    """Groups of parameters by a name of your choice, with an ``lr`` and arguments of their own."""

    @field_validator("groups")
    @classmethod
    def _plain_names(cls, groups: dict[str, GroupConfig]) -> dict[str, GroupConfig]:
        """Names are parts of dotted keys, so that each can be overridden and searched."""
        for name in groups:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError(
                    f"{name}: expected a group's name of letters, digits, - and _; patterns are a key of the group: "
                    f"my_group: {{patterns: '{name}'}}"
                )
        return groups


class ScheduleConfig(OpenSection):
    """``outer.schedule``: the share of the step sizes that an outer step takes, and its parameters."""

    name: str = "constant"
    """``constant``, ``step``, ``linear``, ``cosine``, or ``module:Class``. All further keys are its own."""


class OuterConfig(Section):
    """``outer``: the meta-update of θ by the learner."""

    lr: Positive = 1e-3
    """Step size β."""
    steps: Count
    """Outer steps."""
    step: Literal["gradient", "trpo", "ppo"] = "gradient"
    """A step of the optimizer along the meta-gradient; of policies also a trust-region step or a clipped surrogate."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The class whose steps move θ: a name, or ``{name: …}`` with keys of its own."""
    estimator: Literal["likelihood_ratio", "dice"] = "likelihood_ratio"
    """Of policies: ``dice`` adds the derivative of what was sampled before adaptation."""
    trpo: TrustRegionConfig = TrustRegionConfig()
    """Of ``step: trpo``. ``outer.lr`` is not used then."""
    ppo: ClippedConfig = ClippedConfig()
    """Of ``step: ppo``."""
    schedule: ScheduleConfig = ScheduleConfig()
    """The share of the step sizes that an outer step takes: a name, or ``{name: …}`` with keys of its own."""
    clip_value: Positive | None = None
    """Clip every element of the mean meta-gradient to ± this."""
    clip_norm: Positive | None = None
    """Scale the mean meta-gradient down to this norm, after ``clip_value``."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a moving average of θ, which is scored beside θ."""
    freeze: tuple[str, ...] = ()
    """Patterns of the names of the parameters that the outer loop leaves as they are; unless ``inner.adapt`` names
    them, the inner loop does too."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Stop with the step and tasks named, or skip the step; that all or most are skipped is a warning."""

    @field_validator("optimizer", "schedule", mode="before")
    @classmethod
    def _named(cls, value: object, info: ValidationInfo) -> object:
        """A name alone stands for the class with its defaults."""
        if info.field_name == "optimizer" and value in ("trpo", "ppo"):
            raise ValueError(
                f"name: expected an optimizer, received '{value}', which is a kind of step: set outer.step={value}"
            )
        return {"name": value} if isinstance(value, str) else value
