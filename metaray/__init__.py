"""metaray from Python: meta-gradients of any ``torch.nn.Module``, and trainings, searches and models as objects.

    import metaray

    outer = metaray.meta_gradient(module, "mse", episodes, lr=0.01, steps=1)    # no Ray, no configuration
    run = metaray.train("sinusoid_demo", inner={"lr": 0.02})  # as `metaray train` does
    model = metaray.load("models:/sinusoid@champion")
    curve = model.adapt((x, y)).predict(queries)

Each name is imported from its module when it is first used, so that ``import metaray`` loads neither Ray nor MLflow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cluster.own_packages import put_first, require_own

require_own()
put_first()

if TYPE_CHECKING:
    from cluster.errors import ConfigError, DivergedError, Interrupted, MetarayError
    from meta.episode import Episode, Examples
    from metaray.adaptation import adapt
    from metaray.evaluations import Evaluation
    from metaray.gradients import OuterGradient, meta_gradient
    from metaray.loading import load
    from metaray.models import AdaptedModel, LoadedModel
    from metaray.results import ComparisonTable, SearchTable
    from metaray.running import compare, evaluate, train, tune
    from metaray.runs import TrainedRun

__all__ = [
    "AdaptedModel",
    "ComparisonTable",
    "ConfigError",
    "DivergedError",
    "Episode",
    "Evaluation",
    "Examples",
    "Interrupted",
    "LoadedModel",
    "MetarayError",
    "OuterGradient",
    "SearchTable",
    "TrainedRun",
    "adapt",
    "compare",
    "evaluate",
    "load",
    "meta_gradient",
    "train",
    "tune",
]

_MODULES = {
    "cluster.errors": ("ConfigError", "DivergedError", "Interrupted", "MetarayError"),
    "meta.episode": ("Episode", "Examples"),
    "metaray.adaptation": ("adapt",),
    "metaray.evaluations": ("Evaluation",),
    "metaray.gradients": ("OuterGradient", "meta_gradient"),
    "metaray.loading": ("load",),
    "metaray.models": ("AdaptedModel", "LoadedModel"),
    "metaray.results": ("ComparisonTable", "SearchTable"),
    "metaray.running": ("compare", "evaluate", "train", "tune"),
    "metaray.runs": ("TrainedRun",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """The public name, imported now."""
    if name not in _HOMES:
        raise AttributeError(f"module 'metaray' has no attribute '{name}'; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted({*globals(), *__all__})
