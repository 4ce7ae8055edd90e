"""A small trial of the whole path before the first outer step: an error that would come after hours comes at once.

On the driver: meta-gradient, scores, predictions, checkpoint and a figure of one task, in the strategy of the run. On
the workers: meta-gradient and scores of one task each. Parts of metaray itself are not tried where nothing about them
depends on the machine.
"""

import io
from collections.abc import Callable
from typing import Any

from cluster.errors import ConfigError, MetarayError
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.setups.build import Setup
from cluster.workers.messages import GradientRequest, ScoresRequest, TaskRange
from cluster.workers.pool import Pool
from meta.params import Params


def require_path(setup: Setup) -> None:
    """Run everything that a training will do, on one task, in this process.

    Raises:
        ConfigError: naming the part that fails, and why.
    """
    for name, attempt in setup.trial():
        _part(setup, name, attempt)
    if setup.needs_trial:
        params = {name: value.to(setup.device) for name, value in setup.initial_params().items()}
        _part(setup, "checkpoint", lambda: _require_checkpoint(setup, params))
        _part(setup, "figure", lambda: _require_figure(setup, params))


def try_workers(pool: Pool, setup: Setup) -> None:
    """Compute a meta-gradient of one training task and scores of a validation task on the workers.

    Args:
        pool: the workers of the run.
        setup: what they were built from.

    Raises:
        MetarayError: :class:`cluster.errors.EngineError` if a worker cannot run the strategy.
    """
    config = setup.config
    if pool.workers == 0 or not setup.needs_worker_trial:
        return
    theta = setup.layout.flatten(setup.initial_params()).numpy()
    shards = range(pool.workers)
    train = [TaskRange(split="train", start=number, stop=number + 1) for number in shards]
    val, steps = TaskRange(split="val", start=0, stop=1), config.scored_steps
    gradients = [GradientRequest(step=0, shard=number, tasks=train[number]) for number in shards]
    scores = [ScoresRequest(step=0, shard=number, tasks=val, inner_steps=steps) for number in shards]
    for requests in (gradients, scores):
        for _ in pool.gather(pool.submit(requests, theta)):
            pass


def _part(setup: Setup, name: str, attempt: Callable[[], Any]) -> None:
    """Run one part of the trial; an error names the part."""
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


def _require_checkpoint(setup: Setup, params: Params) -> None:
    state = Checkpoint(
        step=0,
        skipped=0,
        engine=setup.choice.name,
        data=setup.data,
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
