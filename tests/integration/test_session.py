"""The local Ray session and the pool's ways of failing."""

import contextlib
import dataclasses
import time

import psutil
import pytest

from cluster.errors import ClusterError, MetarayError
from cluster.setups.build import build
from cluster.workers.ray_pool import RayPool

FAMILY = "from tasks.sinusoid import Sinusoid as Elsewhere"


def test_ray_listens_on_loopback_alone(local_ray):
    own = psutil.Process()
    listening = set()
    for process in (own, *own.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # idle workers come and go
            listening |= {
                (process.name(), connection.laddr.ip)
                for connection in process.net_connections(kind="tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    assert listening
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, sorted(listening)


def test_a_cluster_without_room_is_said(local_ray, make_config):
    config = make_config(cluster__threads=512, cluster__start_timeout=2.0)
    before = time.monotonic()
    with pytest.raises(ClusterError, match=r"expected a worker with 512 CPU .* the cluster has \d+ CPU"):
        RayPool(build(config))
    assert time.monotonic() - before < 60


def test_a_machine_with_other_data_is_refused(local_ray, make_config, make_store):
    config = make_config(task={"family": "images", "root": str(make_store())}, cluster__workers=1)
    elsewhere = config.model_copy(update={"task": config.task.model_copy(update={"root": str(make_store(seed=1))})})
    # The driver looks at another store than the workers, as on a cluster whose machines hold different ones.
    driver = dataclasses.replace(build(elsewhere), config=config)
    with pytest.raises(ClusterError, match=r"on every machine, a worker found [0-9a-f]{64}; copy the same store"):
        RayPool(driver)


def test_a_worker_that_cannot_be_built_is_not_replaced_for_ever(local_ray, make_config, tmp_path, monkeypatch):
    # The family is importable here but not in the workers, as on a cluster that lacks the user's module.
    (tmp_path / "only_here.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(task={"family": "only_here:Elsewhere"}, cluster__workers=1)
    with pytest.raises(MetarayError, match="only_here"):
        RayPool(build(config))
