"""Workers, nodes and the driver killed over and over: θ in every bit as if nothing had happened, nothing left."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from helpers.learning import trained_alone

pytestmark = [pytest.mark.nightly, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc and /dev/shm")]

SECONDS = float(os.environ.get("METARAY_CHAOS_SECONDS", "60"))
WORKER_EVERY, NODE_EVERY, DRIVER_EVERY = 3.0, 20.0, 30.0
STEPS_PER_SECOND = 120  # of chaos: enough that it does not end before

NODES = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=2) for _ in range(2)]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "node":
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=2))
        print("done", flush=True)
cluster.shutdown()
"""


def descendants(process: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Processes below one whose command line holds a name."""
    result = []
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(one.cmdline()):
                result.append(one)
        except psutil.NoSuchProcess:
            continue
    return result


def test_same_bits_through_chaos(
    beside: Callable[[str], subprocess.Popen[str]],
    metaray: Callable[..., subprocess.Popen[str]],
    make_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    config = make_config(
        outer__steps=int(STEPS_PER_SECOND * SECONDS),
        outer__schedule="cosine",
        shard=1,
        checkpoint__every=100,
        tracking__every=100,
        eval__every=0,
        cluster__workers=4,
        cluster__max_failures=1000,
    )
    nodes = beside(NODES)
    assert nodes.stdout is not None
    assert nodes.stdin is not None
    address = nodes.stdout.readline().strip()
    path = tmp_path / "chaos.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    segments = set(Path("/dev/shm").iterdir())
    killed = {"worker": 0, "node": 0, "driver": 0}
    dice = random.Random(0)

    def start() -> subprocess.Popen[str]:
        return metaray("train", str(path), "--name", "chaos", f"cluster.address={address}", "--json")

    driver, began = start(), time.monotonic()
    due = {"worker": WORKER_EVERY, "node": NODE_EVERY, "driver": DRIVER_EVERY}
    while True:
        if driver.poll() is not None:
            output, errors = driver.communicate()
            if driver.returncode == 0:
                break
            assert time.monotonic() - began < 20 * SECONDS, errors
            driver = start()
        since = time.monotonic() - began
        if since < SECONDS:
            if since > due["worker"] and (workers := descendants(nodes, "WorkerActor.serve")):
                dice.choice(workers).send_signal(signal.SIGKILL)
                killed["worker"] += 1
                due["worker"] = since + WORKER_EVERY
            if since > due["node"]:
                nodes.stdin.write("node\n")
                nodes.stdin.flush()
                assert nodes.stdout.readline().strip() == "done"
                killed["node"] += 1
                due["node"] = since + NODE_EVERY
            if since > due["driver"]:
                driver.kill()
                killed["driver"] += 1
                due["driver"] = since + DRIVER_EVERY
        time.sleep(0.1)
    print(f"{time.monotonic() - began:.0f} s, killed: {killed}")

    result = json.loads(output)
    assert result["steps"] == config.outer.steps
    assert min(killed.values()) >= 1
    assert result["theta_sha256"] == trained_alone(config)
    deadline = time.monotonic() + 60
    while descendants(nodes, "WorkerActor") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert descendants(nodes, "WorkerActor") == []
    names = {path.name for path in set(Path("/dev/shm").iterdir()) - segments}
    assert {name for name in names if "metaray" in name} == set()
