"""A cluster's head that dies: the state is saved, MLflow is told, and the last words say how to go on."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from cluster.runs import checkpoint as checkpoints
from cluster.runs.events import read_events
from cluster.runs.folder import RunFolder
from helpers.waiting import wait_for

HEAD = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def test_a_lost_head_saves_the_state_and_says_how_to_go_on(
    beside: Callable[[str], subprocess.Popen[str]],
    metaray: Callable[..., subprocess.Popen[str]],
    make_config: Callable[..., Any],
    tmp_path: Path,
) -> None:
    config = make_config(
        outer__steps=1_000_000,
        outer__schedule="constant",
        checkpoint__every=1_000_000,
        cluster__workers=2,
        eval__every=0,
    )
    path = tmp_path / "long.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    head = beside(HEAD)
    assert head.stdout is not None
    address = head.stdout.readline().strip()
    driver = metaray("train", str(path), "--name", "long", f"cluster.address={address}")
    folder = RunFolder(Path(config.checkpoint.root) / "long")
    wait_for(lambda: folder.metrics_path.exists() and folder.metrics_path.read_text().count("\n") > 20, "metrics")
    (server,) = [one for one in psutil.Process(head.pid).children(recursive=True) if one.name() == "gcs_server"]
    server.kill()
    _, errors = driver.communicate(timeout=180)
    assert driver.returncode == 1
    assert f"the head of the Ray cluster at {address} has not answered for 10 s" in errors
    saved = checkpoints.newest(folder.checkpoints)
    assert saved is not None
    assert saved.step > 100
    *_, event = read_events(folder.events_path)
    assert (event.kind, event.step) == ("head lost", saved.step)
    assert 10 < event.seconds < 30

    further = f"outer.steps={saved.step + 5}"
    resumed = metaray(
        "train", "--resume", str(folder.path), "cluster.workers=0", "cluster.address=local", further, "--json"
    )
    output, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert json.loads(output)["steps"] == saved.step + 5
