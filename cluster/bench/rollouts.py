"""Environment steps per second of workers that sample, beside as many processes that only step the environment."""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import gymnasium
import numpy as np

from cluster.config.schema import Config
from cluster.errors import ConfigError
from cluster.evaluation.scores import start
from cluster.setups.build import build
from cluster.setups.policies import PolicySetup, require_policies
from cluster.workers.ray_pool import RayPool
from cluster.workers.session import ray_session
from meta.engine.machine import hardware, versions
from tasks.environments.gymnasium_tasks import GymnasiumTasks
from tasks.environments.locomotion import Locomotion

SECONDS = 3.0  # that a turn of bare stepping lasts
BATCHES = 2  # meta-batches in a turn of sampling


def rollouts(config: Config, pairs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Environment steps per second through workers and bare, and their ratio, measured in turns.

    Sampling is all that an evaluation without adaptation does: acting by the initial policy, stepping, through Ray.
    Bare stepping repeats one action in one environment of gymnasium's own a process, starting anew where it ends.

    Args:
        config: of RL tasks.
        pairs: number of turns.
        say: called with lines about progress.

    Raises:
        ConfigError: if the configuration's tasks are not gymnasium's environments, or there are no workers.
    """
    try:
        setup = require_policies(build(config))
    except ConfigError as error:
        raise ConfigError(f"--rollouts: {error}") from error
    if config.cluster.count == 0:
        raise ConfigError("--rollouts: expected --workers above zero, received 0")
    identifier, arguments = bare_of(setup)
    workers, spec = config.cluster.count, setup.family.spec
    tasks = BATCHES * config.meta_batch
    steps = tasks * spec.trajectories * spec.horizon
    theta = setup.layout.flatten(setup.initial_params()).numpy()
    sampled, bare = [], []
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as processes, ray_session(config.cluster):
        pool = RayPool(setup)
        try:
            say(f"{config.task.family}: {workers} workers, {steps} steps a turn")
            for turn in range(pairs + 1):
                began = time.perf_counter()
                ticket = start(pool, config, theta, step=turn, split="train", tasks=tasks, steps=(0,))
                list(pool.gather(ticket))
                sampled.append(steps / (time.perf_counter() - began))
                rates = processes.map(step_bare, [identifier] * workers, [arguments] * workers)
                bare.append(sum(rates))
        finally:
            pool.close()
    sampled, bare = sampled[1:], bare[1:]  # the first turn builds environments and records programs
    return {
        "family": config.task.family,
        "workers": workers,
        "steps_per_second": statistics.median(sampled),
        "bare_steps_per_second": statistics.median(bare),
        "ratio": statistics.median(rate / bare_rate for rate, bare_rate in zip(sampled, bare, strict=True)),
        "pairs": pairs,
        "hardware": hardware(),
        "versions": versions(),
    }


def bare_of(setup: PolicySetup) -> tuple[str, dict[str, Any]]:
    """Identifier and arguments of the environment to compare with: gymnasium's own where a robot is built on one.

    Raises:
        ConfigError: if a family steps in arrays of its own.
    """
    family: object = setup.family
    if isinstance(family, Locomotion):
        return family.bare, {}
    if isinstance(family, GymnasiumTasks):
        return family.id, dict(family.kwargs or {})
    raise ConfigError(
        f"--rollouts: expected a family of gymnasium's environments, received '{setup.config.task.family}', which has "
        "no environment to step alone"
    )


def step_bare(identifier: str, arguments: dict[str, Any]) -> float:
    """Steps per second of one environment under one action.

    Args:
        identifier: gymnasium's name of the environment.
        arguments: of its constructor.
    """
    environment = gymnasium.make(identifier, **arguments).unwrapped
    environment.reset(seed=0)
    space: Any = environment.action_space
    action = getattr(space, "start", np.full(space.shape, 0.3, space.dtype))
    taken, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < SECONDS:
        for _ in range(100):
            _, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                environment.reset(seed=0)
        taken += 100
    environment.close()
    return taken / elapsed
