"""A small trial of the whole path before the first outer step: what would fail after hours fails at once.

On the driver: meta-gradient, scores, predictions, checkpoint and a figure of one task, in the strategy of the run. On
the workers: meta-gradient and scores of one task each. Parts of metaray itself are not tried where nothing about them
depends on the machine.
"""

import io
from collections.abc import Callable
from typing import Any

import torch

from cluster.config.schema import Config
from cluster.errors import ConfigError, MetarayError
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.setups.build import AnySetup, Setup
from cluster.setups.policies import PolicySetup
from cluster.workers.messages import Order, TaskRange
from cluster.workers.pool import Pool
from meta.engine.choice import require_gradient, require_scores
from meta.episode import Episode, unstack
from meta.params import Params
from tasks.family import Split, draw_batch

MACHINES = ("native", "graph")  # strategies that depend on what a machine has


def require_path(setup: AnySetup) -> None:
    """Try everything that a training will do, on one task, in this process.

    Raises:
        ConfigError: naming the part that fails, and why.
    """
    if isinstance(setup, PolicySetup):
        return  # the first outer step samples, adapts, and scores policies; examined models make them
    own = not setup.is_built_in or not _is_built_in_family(setup)
    params = {name: value.to(setup.device) for name, value in setup.initial_params().items()}
    chosen = setup.choice  # a strategy that ``auto`` comes to has been tried if the parts are a user's own
    if setup.config.engine != "auto" and (own or chosen.name in MACHINES):
        _part(setup, "meta-gradient", lambda: require_gradient(setup.engine, params, setup.training_episodes(range(1))))
    _part(setup, "drawing val tasks", lambda: _episode(setup, "val"))
    _part(setup, "drawing test tasks", lambda: _episode(setup, "test"))
    if own:
        steps = setup.config.scored_steps
        _part(setup, "scores", lambda: require_scores(setup.engine, params, _episode(setup, "val"), steps))
        _part(setup, "predictions", lambda: _require_predictions(setup, params))
        _part(setup, "checkpoint", lambda: _require_checkpoint(setup, params))
        _part(setup, "figure", lambda: _require_figure(setup, params))


def try_workers(pool: Pool, config: Config, setup: AnySetup) -> None:
    """Let workers compute a meta-gradient of one training task and scores of a validation task each.

    Raises:
        MetarayError: :class:`cluster.errors.EngineError` if a worker cannot run the strategy.
    """
    if isinstance(setup, PolicySetup) or config.cluster.workers == 0:
        return
    if setup.choice.name not in MACHINES and setup.is_built_in:
        return
    theta = setup.layout.flatten(setup.initial_params()).numpy()
    orders = []
    for number in range(config.cluster.workers):
        one = TaskRange(split="train", start=number, stop=number + 1)
        orders.append(Order(kind="gradient", step=0, shard=number, tasks=one))
        val = TaskRange(split="val", start=0, stop=1)
        orders.append(Order(kind="scores", step=0, shard=number, tasks=val, inner_steps=config.scored_steps))
    for kind in ("gradient", "scores"):
        for _ in pool.gather(pool.submit([order for order in orders if order.kind == kind], theta)):
            pass


def _part(setup: Setup, name: str, attempt: Callable[[], Any]) -> None:
    """Run one part of the trial, and say which it was if it fails."""
    config = setup.config
    try:
        attempt()
    except MetarayError as error:
        raise ConfigError(f"before the first outer step: {name}: {error}") from error
    except Exception as error:  # whatever a user's family, model or algorithm raises
        raise ConfigError(
            f"before the first outer step: {name} of {config.algorithm} with model '{config.model.name}' on family "
            f"'{config.task.family}' (engine {setup.choice.name}): {type(error).__name__}: {error}"
        ) from error


def _is_built_in_family(setup: Setup) -> bool:
    return type(setup.family).__module__.partition(".")[0] == "tasks"


def _episode(setup: Setup, split: Split) -> Episode:
    return draw_batch(setup.family, setup.seed, split, range(1), setup.dtype, setup.device)


def _require_predictions(setup: Setup, params: Params) -> None:
    """As figures, registry and serving ask for them."""
    episode = unstack(_episode(setup, "test"))
    outputs = setup.algorithm.predict(params, episode, episode.query.inputs, max(setup.config.scored_steps))
    if not isinstance(outputs, torch.Tensor) or len(outputs) != len(episode.query.inputs):
        received = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ValueError(
            f"expected outputs [{len(episode.query.inputs)}, ...], one for each query, received {received}"
        )
    if setup.family.spec.objective == "mse" and outputs.shape != episode.query.targets.shape:
        raise ValueError(
            f"expected outputs of the targets' shape {tuple(episode.query.targets.shape)}, received "
            f"{tuple(outputs.shape)}"
        )


def _require_checkpoint(setup: Setup, params: Params) -> None:
    state = Checkpoint(
        step=0,
        skipped=0,
        engine=setup.choice.name,
        data=setup.family.spec.data,
        config=setup.config.model_dump(mode="json"),
        best=None,
        tensors={f"theta.{name}": value.cpu() for name, value in params.items()},
        frozen=setup.frozen,
    )
    checkpoints.decode(checkpoints.encode(state), "trial")


def _require_figure(setup: Setup, params: Params) -> None:
    from cluster.reports import figures  # Matplotlib is loaded only where something is drawn

    figure = None
    if figures.can_draw_regression(setup):
        figure = figures.regression({setup.config.algorithm: (setup, params)}, task_indices=(0,))
    elif figures.can_draw_episode(setup):
        figure = figures.episode(setup, params, steps=setup.algorithm.inner_steps)
    if figure is not None:
        figure.savefig(io.BytesIO(), format="png")
