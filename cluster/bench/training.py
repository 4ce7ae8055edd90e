"""A suite end to end: pool and learner against the engine alone, on the same shards."""

import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any, cast

from benchmarks.suites import SUITES, Suite
from cluster.config import strict_yaml
from cluster.config.schema import Config, parse
from cluster.errors import ConfigError, MetarayError
from cluster.interrupts import StopFlag
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup, require_episodes
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.training.recorder import Recorder
from cluster.workers.messages import shards
from cluster.workers.ray_pool import RayPool
from cluster.workers.session import ray_session
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.machine import hardware, versions
from meta.engine.memory import keep_freed_memory
from meta.models import MLP, Conv4, ResNet12
from tasks.family import draw_batch

SECONDS = 2.0  # that a turn lasts, about
MOST_STEPS = 2000


def has_family(suite: Suite) -> bool:
    """Tells whether there is a task family for a suite; rollouts and sequences drawn beforehand are no family's."""
    return isinstance(suite.model, MLP | Conv4 | ResNet12)


def config_of(suite: Suite, workers: int) -> Config:
    """The suite as a training: its meta-batch in one shard per worker, each with one thread, by compiled programs.

    Args:
        suite: the measurement.
        workers: number of workers.

    Raises:
        ConfigError: for a suite whose tasks no family draws.
    """
    model = suite.model
    if not isinstance(model, MLP | Conv4 | ResNet12):
        able = ", ".join(name for name, one in SUITES.items() if has_family(one))
        raise ConfigError(f"--workers: expected a suite of {able}, received '{suite.name}', whose data are fixed")
    if isinstance(model, MLP):
        task: dict[str, Any] = {"family": "sinusoid", "shot": suite.shot, "query": suite.query}
        network: dict[str, Any] = {"name": "mlp", "hidden": list(model.hidden), "init_std": model.init_std}
    else:
        channels, size, _ = model.inputs
        task = {"family": "benchmarks.families:SyntheticImages", "channels": channels, "size": size}
        task |= {"way": suite.way, "shot": suite.shot, "query": suite.query}
        if isinstance(model, Conv4):
            network = {"name": "conv4", "channels": model.channels, "blocks": model.blocks, "down": model.down}
        else:
            network = {"name": "resnet12", "widths": list(model.widths)}
    return parse(
        {
            "task": task,
            "model": network,
            "inner": {"lr": suite.lr, "steps": suite.steps},
            # So small a step that θ stays where the gradients are finite.
            "outer": {"lr": 1e-6, "steps": 1},
            "meta_batch": suite.tasks,
            "shard": -(-suite.tasks // workers),
            "engine": "native",
            "cluster": {"workers": workers, "threads": 1},
        }
    )


class _Silence:
    """Recorder that keep nothing: what is timed are pool and learner."""

    def after_step(self, learner: Learner, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self, learner: Learner) -> None:
        """Nothing."""


def through_ray(suite: Suite, workers: int, pairs: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Training through Ray and with the engine alone, in turns: tasks per second, milliseconds per outer step, ratio.

    Args:
        suite: the measurement.
        workers: number of workers, and of processes with the engine alone.
        pairs: number of turns.
        say: called with lines about progress.
    """
    fix_arithmetic(threads=1)  # as a training's driver does; idle threads would spin in the workers' way
    config = config_of(suite, workers)
    say(f"{suite.name}: {workers} processes with the engine alone")
    with _alone(config) as alone:
        say(f"{suite.name}: {workers} workers through Ray")
        with ray_session(config.cluster):
            setup = require_episodes(build(config))
            pool = RayPool(setup)
            try:
                ray, own, steps = _turns(setup, pool, alone, pairs)
            finally:
                pool.close()

    def rates(seconds: list[float]) -> dict[str, float]:
        step = statistics.median(seconds)
        return {"tasks_per_second": suite.tasks / step, "milliseconds": 1e3 * step}

    return {
        "suite": suite.name,
        "workers": workers,
        "threads": 1,
        "tasks": suite.tasks,
        "steps": steps,
        "pairs": pairs,
        "ray": rates(ray),
        "alone": rates(own),
        "ratio": statistics.median(alone_step / ray_step for ray_step, alone_step in zip(ray, own, strict=True)),
        "hardware": hardware(),
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _turns(
    setup: EpisodeSetup, pool: RayPool, alone: Callable[[int], float], pairs: int
) -> tuple[list[float], list[float], int]:
    """Seconds per outer step through Ray and alone, turn by turn, and the steps of a turn."""
    config = setup.config
    learner = Learner(config.outer, setup.layout, setup.initial_params())

    def ray(steps: int) -> float:
        until = config.outer.model_copy(update={"steps": learner.step + steps})
        began = time.perf_counter()
        further = config.model_copy(update={"outer": until})
        meta_train(further, learner, pool, cast(Recorder, _Silence()), StopFlag())
        return (time.perf_counter() - began) / steps

    alone(2)
    while len(pool.pids) < config.cluster.count:
        ray(1)
    ray(2 * config.cluster.count)  # every worker has compiled its program
    steps = max(2, min(MOST_STEPS, round(SECONDS / alone(2))))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        times[0].append(ray(steps))
        times[1].append(alone(steps))
    return *times, steps


@contextmanager
def _alone(config: Config) -> Iterator[Callable[[int], float]]:
    """A process for each shard, ready to compute it over and over: a function of steps, giving seconds per step."""
    context = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    processes = []
    try:
        for number in range(len(shards("train", 0, config.meta_batch, config.shard_size))):
            pipe, far_end = context.Pipe()
            process = context.Process(target=_compute, args=(far_end, config.to_yaml(), number), daemon=True)
            process.start()
            far_end.close()
            ends.append(pipe)
            processes.append(process)

        def run(steps: int) -> float:
            began = time.perf_counter()
            for end in ends:
                end.send(steps)
            for end in ends:
                _answered(end)
            return (time.perf_counter() - began) / steps

        for end in ends:
            _answered(end)
        yield run
    finally:
        for end in ends:
            end.close()
        for process in processes:
            process.join()


def _answered(end: Connection) -> None:
    """Wait for a process's word."""
    try:
        end.recv()
    except EOFError as error:
        raise MetarayError("a process with the engine alone died; its last words are above") from error


def _compute(end: Connection, text: str, number: int) -> None:
    """Compute one shard's meta-gradient as often as told, until nobody tells any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the command that started us closes the pipe
    config = parse(strict_yaml.read(text))
    fix_arithmetic(config.cluster.threads)
    keep_freed_memory()
    setup = require_episodes(build(config)).placed()
    tasks = shards("train", 0, config.meta_batch, config.shard_size)[number]
    episodes = draw_batch(setup.family, setup.seed, "train", tasks.indices, setup.dtype, setup.device)
    params = {name: value.to(setup.device) for name, value in setup.initial_params().items()}
    setup.engine.meta_gradient(params, episodes)
    with suppress(EOFError, OSError):  # nobody listens any more
        end.send("ready")
        while True:
            for _ in range(end.recv()):
                setup.engine.meta_gradient(params, episodes)
            end.send("done")
