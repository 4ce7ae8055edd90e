"""The simulator in closed forms and limit cases, and the plan's keys."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cluster.bench.simulation import Cluster, Costs, Simulation
from cluster.commands.cli import app
from cluster.workers.pool import level_for

FREE = Costs(
    shard=[1.0],
    learner=0,
    send=0,
    receive=0,
    notice=0,
    latency=0,
    network=0,
    memory=math.inf,
    bandwidth=math.inf,
    nbytes=0,
)
SMALL = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 8,
    "engine": "loop",
}


def step(costs: Costs, workers: int, shards: int, *, nodes: int = 1, slow: int = 0, copies: bool = True) -> float:
    cluster = Cluster(nodes=nodes, workers_per_node=workers, slow=slow)
    return Simulation(costs, cluster, shards, copies=copies).run(12).step


@given(st.integers(1, 40), st.integers(1, 40))
def test_where_coordination_is_free_the_busiest_worker_decides(workers: int, shards: int) -> None:
    size = 2 ** level_for(shards, workers, workers)
    blocks = -(-shards // size)
    rounds = -(-blocks // workers)
    expected = {rounds * size, (rounds - 1) * size + shards - (blocks - 1) * size}  # the last block may be short
    assert step(FREE, workers, shards, copies=False) == pytest.approx(min(expected), rel=0.2, abs=size)
    assert step(FREE, workers, shards, copies=False) >= shards / workers * (1 - 1e-9)


def test_one_workers_step_is_the_sum_of_its_parts() -> None:
    costs = replace(FREE, learner=0.5, send=0.01, receive=0.02, latency=0.1, memory=1000, nbytes=100)
    # θ packed, one request, its way, 8 shards, the way back, received, copied and added, the optimizer.
    assert step(costs, 1, 8) == pytest.approx(0.1 + 0.01 + 0.1 + 8 + 0.1 + 0.02 + 0.2 + 0.5)


def test_the_network_bounds_many_nodes() -> None:
    costs = replace(FREE, shard=[1e-6], bandwidth=100, nbytes=100)  # a second for each θ and each gradient
    assert step(costs, 1, 9, nodes=9) == pytest.approx(8 + 1, abs=0.01)  # the last θ out, its gradient back
    assert step(costs, 9, 9, nodes=1) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("workers", [1, 2, 8, 16])
def test_the_network_carries_a_vector_each_way_for_each_other_node(workers: int) -> None:
    costs = replace(FREE, bandwidth=1000, nbytes=100)
    simulated = Simulation(costs, Cluster(nodes=4, workers_per_node=workers), 64).run(6)
    assert simulated.network == pytest.approx(3 * 0.1)


def test_what_a_relay_does_takes_its_time() -> None:
    costs = replace(FREE, send=0.01, receive=0.02, notice=0.005, latency=0.1, network=0.3, bandwidth=1000, nbytes=100)
    # One worker on each of two nodes, four shards each. θ is sent on after both requests; the other node's gradient is
    # handled by its relay, then announced and received.
    there = 0.02 + 0.1 + 0.3 + 0.01 + 0.1
    back = 0.1 + 0.02 + 0.1 + 0.3 + 0.02
    assert step(costs, 1, 8, nodes=2) == pytest.approx(there + 4 + back)


@pytest.mark.parametrize("nodes", [2, 5])
def test_a_slow_workers_node_sends_what_it_has_when_a_copy_is_there(nodes: int) -> None:
    costs = replace(FREE, network=0.01)
    cluster = Cluster(nodes=nodes, workers_per_node=4)
    undisturbed = Simulation(costs, cluster, 16 * nodes).run(12).step
    slow = Simulation(costs, replace(cluster, slow=5), 16 * nodes).run(12).step  # one of them on another node
    assert undisturbed < slow < 10 * undisturbed


@pytest.mark.parametrize("workers", [4, 16])
def test_copies_shorten_what_a_slow_worker_prolongs(workers: int) -> None:
    undisturbed = step(FREE, workers, 4 * workers)
    with_copies = step(FREE, workers, 4 * workers, slow=1)
    without = step(FREE, workers, 4 * workers, slow=1, copies=False)
    assert undisturbed <= with_copies < without


def test_a_simulation_repeats_itself() -> None:
    costs = replace(FREE, shard=[1.0, 2.0, 3.0])
    assert step(costs, 3, 10) == step(costs, 3, 10)


def test_ten_thousand_workers_are_simulated() -> None:
    assert step(replace(FREE, send=1e-5, receive=1e-5), 8, 10_000, nodes=1250) == pytest.approx(1.1, abs=0.2)


def run(tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    result = CliRunner().invoke(app, ["plan", str(path), *arguments])
    return result.exit_code, result.stdout, result.stderr


def test_the_plans_keys(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, "--nodes", "2", "--workers-per-node", "2", "--json")
    assert status == 0
    result = json.loads(output)
    assert {"workers", "seconds_per_step", "tasks_per_second", "parts"} <= set(result)
    assert result["workers"] == 4
    assert result["tasks_per_second"] == pytest.approx(8 / result["seconds_per_step"])
    assert [row["workers"] for row in result["curve"]] == [1, 2, 4]
    assert result["curve"][0]["efficiency"] == 1.0
    assert set(result["parts"]) == {"driver", "network", "compute"}


def test_the_plan_as_a_table(tmp_path: Path) -> None:
    status, output, _ = run(tmp_path, "--workers-per-node", "2")
    assert status == 0
    assert "8 of 1 tasks; more workers than shards have nothing to do" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--nodes", "5000", "--workers-per-node", "3"), "expected at most 10,000 workers"),
        (("--workers-per-node", "2", "--slow", "2"), "--slow: expected fewer than the 2 workers, received 2"),
        (("task.family=navigation",), "navigation"),
    ],
)
def test_what_cannot_be_planned_is_refused(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    status, _, errors = run(tmp_path, *arguments)
    assert status == 2
    assert words in errors
