"""A small trial of the whole path before the first outer step: an error that would come after hours comes at once.

On the driver, or on one worker where workers have GPUs that the driver may not have: the optimizer, and meta-gradient,
scores, predictions, checkpoint and a figure of one task, in the strategy of the run. On all workers: meta-gradient and
scores of one task each. Parts of metaray itself are not tried where nothing about them depends on the machine.
"""

import io
import json
from collections.abc import Callable
from typing import Any

import torch

from cluster.config.outer import optimizer_class
from cluster.config.schema import Config
from cluster.errors import ConfigError, MetarayError
from cluster.runs import checkpoint as checkpoints
from cluster.runs.checkpoint import Checkpoint
from cluster.setups.build import Setup, build
from cluster.training.learner import Learner
from cluster.workers.auto import gpus_elsewhere
from cluster.workers.messages import GradientRequest, ScoresRequest, TaskRange
from cluster.workers.open import shared_session
from cluster.workers.pool import Pool
from meta.engine.choice import Choice
from meta.params import Params


def tried(setup: Setup) -> Choice:
    """The engine of a run, after a trial of the whole path: here, or on a worker where workers have GPUs of their own.

    Raises:
        ConfigError: naming the part that fails, and why.
        ClusterError: if the cluster has no room for a worker.
    """
    if not gpus_elsewhere(setup.config):
        return _tried_here(setup.placed())
    with shared_session(setup.config):
        return tried_on_a_worker(setup.config)


def tried_on_a_worker(config: Config) -> Choice:
    """The engine of a run, after a trial of the whole path in a process with the GPUs of a worker.

    Args:
        config: the run's, in an open Ray session.

    Raises:
        ConfigError: naming the part that fails, and why.
        ClusterError: if the cluster has no room for a worker.
    """
    from cluster.workers.remote import on_a_worker  # Ray is loaded only where it is used

    return Choice(**json.loads(on_a_worker(config, _tried_there)))


def _tried_there(config: Config) -> str:
    return json.dumps(_tried_here(build(config).placed())._asdict())


def _tried_here(setup: Setup) -> Choice:
    require_path(setup)
    return setup.choice


def require_path(setup: Setup) -> None:
    """Run everything that a training will do, on one task, in this process.

    Args:
        setup: on the device of the workers.

    Raises:
        ConfigError: naming the part that fails, and why.
    """
    _part(setup, "optimizer", lambda: require_optimizer(setup))
    for name, attempt in setup.trial():
        _part(setup, name, attempt)
    if setup.needs_trial:
        params = {name: value.to(setup.device) for name, value in setup.initial_params().items()}
        _part(setup, "checkpoint", lambda: _require_checkpoint(setup, params))
        _part(setup, "figure", lambda: _require_figure(setup, params))


def require_optimizer(setup: Setup) -> None:
    """Make the optimizer over the parameters; step one of the user's own, save its state, and go on from it.

    Raises:
        ConfigError: if it does not take the parameters, or goes on otherwise than if it had not been saved.
    """
    config, layout = setup.config, setup.layout
    one = Learner(config.outer, layout, setup.initial_params(), setup.frozen)
    if optimizer_class(config.outer.optimizer.name).__module__.startswith("torch.optim."):
        return
    other = Learner(config.outer, layout, setup.initial_params(), setup.frozen)
    generator = torch.Generator().manual_seed(config.seed)
    gradients = [torch.randn(layout.size, generator=generator, dtype=setup.dtype).numpy() for _ in range(4)]
    for gradient in gradients[:2]:
        one.descend(gradient, 1)
        one.finish_step()
    other.load(one.state(), one.step, one.skipped)
    for gradient in gradients[2:]:
        for learner in (one, other):
            learner.descend(gradient, 1)
            learner.finish_step()
    if one.fingerprint != other.fingerprint:
        raise ConfigError(
            f"outer.optimizer.name: expected '{config.outer.optimizer.name}' to go on from a saved state with the same "
            "bits of θ, received others; keep all that changes in self.state or self.param_groups, and draw no random "
            "numbers"
        )


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
            f"before the first outer step: {name} of {config.algorithm.name} with model '{config.model.name}' on "
            f"family '{config.task.family}' (engine {setup.choice.name}): {type(error).__name__}: {error}"
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
        figure = figures.regression({setup.config.algorithm.name: (setup, params)}, task_indices=(0,))
    elif figures.can_draw_episode(setup):
        figure = figures.episode(setup, params, steps=setup.config.inner.steps)
    if figure is not None:
        figure.savefig(io.BytesIO(), format="png")
