"""Workers on GPUs: refused where there are none; a driver without any leaves the choice of the engine to a worker."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cluster.setups.build import build
from cluster.training.preflight import tried
from cluster.workers.ray_pool import RayPool
from helpers.folders import new_run
from helpers.learning import trained, trained_alone

HEAD = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "num_gpus": GPUS, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device that torch sees")


@pytest.mark.parametrize(
    ("gpus", "status", "words"),
    [
        # Ray takes our word for a GPU that the machine has not: only the worker can see that it is missing.
        (1, 2, "torch sees none here"),
        (0, 2, "none of the 1 nodes of the cluster has more than 0"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_gpus_that_are_not_there_are_refused_before_anything_is_written(
    beside: Callable[[str], subprocess.Popen[str]],
    metaray: Callable[..., subprocess.Popen[str]],
    make_config: Callable[..., Any],
    tmp_path: Path,
    gpus: int,
    status: int,
    words: str,
) -> None:
    config = make_config(cluster__gpus_per_worker=1, cluster__workers=1)
    path = tmp_path / "on_gpus.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    head = beside(HEAD.replace("GPUS", str(gpus)))
    assert head.stdout is not None
    address = head.stdout.readline().strip()
    driver = metaray("train", str(path), "--name", "on_gpus", f"cluster.address={address}")
    _, errors = driver.communicate(timeout=180)
    assert words in errors
    assert driver.returncode == status, errors
    assert not (Path(config.checkpoint.root) / "on_gpus").exists()


@needs_gpu
def test_workers_that_share_a_gpu_give_the_same_bits_as_one_process(local_ray, make_config):
    config = make_config(cluster__gpus_per_worker=0.5, cluster__workers=2)
    assert tried(build(config)).name == "trace"
    pool = RayPool(build(config))
    try:
        assert trained(config, pool, new_run(config, "run")) == trained_alone(config)
    finally:
        pool.close()
