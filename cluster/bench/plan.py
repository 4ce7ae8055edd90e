"""``metaray plan``: how fast a configuration would train on a cluster, by simulation with times measured here."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from cluster.bench.simulation import Cluster, Costs, Simulated, Simulation
from cluster.config.schema import Config
from cluster.setups.build import build
from cluster.setups.episodes import EpisodeSetup, require_episodes
from cluster.training.learner import Learner
from cluster.workers.messages import Flat, gradient_requests
from cluster.workers.worker import Worker
from meta.engine.arithmetic import fix_arithmetic
from meta.engine.machine import hardware
from meta.engine.memory import keep_freed_memory

SAMPLES = 12  # shards that are timed
STEPS = 30  # simulated for one figure
FEWER = 5  # above MANY workers
MANY = 1000
# Of the driver, from two workers on a machine of two cores (AMD EPYC); see docs/scaling.md.
SEND, RECEIVE, NOTICE, WAKE = 3e-5, 4e-5, 2e-5, 1e-4
LOOP = 1.5e-4  # of an outer step besides the optimizer
WORTH = 1.05  # fewer workers are enough when they take at most so many times the least


@dataclass(frozen=True, kw_only=True)
class Network:
    """Between nodes.

    Attributes:
        gigabits: per second, of the driver's node.
        latency: seconds from sending to waking up.
    """

    gigabits: float = 10.0
    latency: float = 2e-4


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Simulated outer steps of a configuration on clusters of several sizes.

    Attributes:
        rows: by number of workers.
        asked: the row of the cluster that was asked for.
        enough: the fewest workers that are nearly as fast as any number.
        best_shard: the shard size with the shortest step on the cluster that was asked for, and that step's seconds.
        costs: what was measured.
    """

    config: Config
    rows: dict[int, Simulated]
    asked: int
    enough: int
    best_shard: tuple[int, float]
    costs: Costs

    def as_json(self) -> dict[str, Any]:
        """The keys that ``metaray plan --json`` prints."""
        row = self.rows[self.asked]
        return {
            "workers": self.asked,
            "seconds_per_step": row.step,
            "tasks_per_second": self.config.meta_batch / row.step,
            "parts": parts(row),
            "curve": [
                {"workers": workers, "seconds_per_step": one.step, "efficiency": self.efficiency(workers)}
                for workers, one in self.rows.items()
            ],
            "enough_workers": self.enough,
            "shard": self.config.shard_size,
            "best_shard": self.best_shard[0],
            "best_shard_seconds_per_step": self.best_shard[1],
            "shard_seconds": statistics.median(self.costs.shard),
            "theta_bytes": self.costs.nbytes,
            "hardware": hardware(),
        }

    def efficiency(self, workers: int) -> float:
        """Speed of so many workers as a share of so many times that of one."""
        return self.rows[1].step / self.rows[workers].step / workers


def parts(row: Simulated) -> dict[str, float]:
    """Shares of a step in which the driver, its network and the average busy worker are at work; they overlap."""
    return {
        "driver": row.driver / row.step,
        "network": row.network / row.step,
        "compute": row.compute / row.step,
    }


def plan(config: Config, cluster: Cluster, network: Network) -> Plan:
    """Measure what one shard, one outer step and copying take here, and simulate.

    Args:
        config: of a supervised training.
        cluster: that is asked about.
        network: between its nodes.

    Raises:
        ConfigError: if the configuration's tasks are sampled by policies.
    """
    fix_arithmetic(threads=config.cluster.threads)
    keep_freed_memory()
    setup = require_episodes(build(config)).placed()
    worker, theta = Worker(setup), setup.layout.flatten(setup.initial_params()).numpy()
    costs = _measured(setup, worker, theta, network)
    sizes = sorted({1, *(2**k for k in range(1, 15) if 2**k < cluster.workers), cluster.workers})
    rows = {workers: _simulated(costs, _part(cluster, workers), config) for workers in sizes}
    least = min(row.step for row in rows.values())
    enough = next(workers for workers, row in rows.items() if row.step <= WORTH * least)
    return Plan(
        config=config,
        rows=rows,
        asked=cluster.workers,
        enough=enough,
        best_shard=_best_shard(worker, theta, config, costs, cluster),
        costs=costs,
    )


def _part(cluster: Cluster, workers: int) -> Cluster:
    """The same kind of cluster with fewer workers: node after node is filled."""
    if workers <= cluster.workers_per_node:
        return Cluster(nodes=1, workers_per_node=workers, slow=min(cluster.slow, workers))
    nodes = -(-workers // cluster.workers_per_node)
    return Cluster(nodes=nodes, workers_per_node=-(-workers // nodes), slow=cluster.slow)


def _simulated(costs: Costs, cluster: Cluster, config: Config) -> Simulated:
    simulation = Simulation(costs, cluster, config.shards, copies=config.cluster.copies)
    return simulation.run(FEWER if max(cluster.workers, config.shards) > MANY else STEPS)


def _best_shard(worker: Worker, theta: Flat, config: Config, costs: Costs, cluster: Cluster) -> tuple[int, float]:
    """The shard size with the shortest step, among powers of two and the configuration's own, and that step."""
    fastest = min(costs.shard)  # least disturbed by whatever else the machine does
    sizes = {config.shard_size, *(2**power for power in range(config.meta_batch.bit_length()))}
    steps = {}
    for size in sizes:
        ratio = 1.0 if size == config.shard_size else min(_shard_seconds(worker, theta, size)) / fastest
        scaled = replace(costs, shard=[ratio * seconds for seconds in costs.shard])
        steps[size] = _simulated(scaled, cluster, config.model_copy(update={"shard": size})).step
    best = min(steps, key=lambda size: steps[size])
    return best, steps[best]


def _shard_seconds(worker: Worker, theta: Flat, size: int) -> list[float]:
    """Seconds that some shards of a size take, what is compiled for them left out."""
    requests = gradient_requests(0, SAMPLES * size, size)
    worker.run(requests[0], theta)
    return [_seconds(partial(worker.run, request, theta)) for request in requests]


def _measured(setup: EpisodeSetup, worker: Worker, theta: Flat, network: Network) -> Costs:
    """The costs of a configuration, as far as they can be measured on one machine."""
    config = setup.config
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    gradient = np.zeros_like(theta)
    steps = [_seconds(lambda: learner.descend(gradient, config.meta_batch)) for _ in range(SAMPLES)]
    added = [_seconds(lambda: np.array(theta) + gradient) for _ in range(SAMPLES)]
    return Costs(
        shard=_shard_seconds(worker, theta, config.shard_size),
        learner=statistics.median(steps) + LOOP,
        send=SEND,
        receive=RECEIVE,
        notice=NOTICE,
        latency=WAKE,
        network=network.latency,
        memory=2 * theta.nbytes / statistics.median(added),
        bandwidth=network.gigabits * 1e9 / 8,
        nbytes=theta.nbytes,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
