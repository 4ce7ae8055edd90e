"""Workers on another node, hung workers, slow workers: the same bits of θ, and nothing left behind."""

import os
import signal
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from cluster.config.schema import Config
from cluster.setups.build import build
from cluster.workers.ray_pool import RayPool
from helpers.folders import new_run
from helpers.learning import Silent, trained, trained_alone
from helpers.waiting import wait_for

SLOW_FAMILY = '''
import os, time
from tasks.sinusoid import Sinusoid


class Slow(Sinusoid):
    """Sinusoids that one process draws twenty times slower than the others."""

    def draw_range(self, seed, split, tasks):
        if os.environ.get("METARAY_TEST_ALONE") is None:
            mine = f"{__file__}.{os.getpid()}"
            try:
                os.close(os.open(f"{__file__}.taken", os.O_CREAT | os.O_EXCL))
                open(mine, "w").close()
            except FileExistsError:
                pass
            time.sleep(0.2 if os.path.exists(mine) else 0.01)
        return super().draw_range(seed, split, tasks)
'''

TWO_NODES = """
from ray.cluster_utils import Cluster

alone = train(InlinePool(build(config)))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
pool = RayPool(build(config))
wait_for_all(pool)
while sys.platform == "linux" and [type(link).__name__ for link in pool._by_link].count("RelayedLink") != 1:
    train(pool, 1)  # a relay that starts late
wait_for_all(pool)
beside = train(pool)
links = sorted(type(link).__name__ for link in pool._by_link)
pool.close()
ray.shutdown()
cluster.shutdown()
print(json.dumps({"alone": alone, "beside": beside, "links": links, "failures": pool.failures}))
"""

NODES_COME_AND_GO = """
from ray.cluster_utils import Cluster

alone = train(InlinePool(build(config)))
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
pool = RayPool(build(config))

def node_lost():  # which Ray may notice later than its workers are replaced
    return "node lost" in [event.kind for event in pool.events]

class Changes(Silence):
    def after_step(self, learner, metrics):
        if learner.step == 30:
            cluster.remove_node(nodes[0], allow_graceful=False)
        if learner.step == 60:
            cluster.add_node(num_cpus=1)
            cluster.add_node(num_cpus=2)
        if learner.step == 80:  # there is work left for those who have come
            until = time.monotonic() + 120
            while not (len(pool.pids) == pool.workers and node_lost()) and time.monotonic() < until:
                pool.poll()
                time.sleep(0.05)

setup = build(config)
learner = Learner(config.outer, setup.layout, setup.initial_params())
at_first = len(pool.pids)
meta_train(config, learner, pool, Changes(), StopFlag())
at_last = len(pool.pids)
pool.close()
ray.shutdown()
cluster.shutdown()
print(json.dumps({
    "alone": alone, "beside": learner.fingerprint, "first": at_first, "last": at_last, "failures": pool.failures,
    "events": [event.as_json() for event in pool.events],
}))
"""

ONE_SLOW = """
with ray_session(config.cluster):
    pool = RayPool(build(config))
    wait_for_all(pool)
    beside = train(pool)
    slow = pool.workers - pool._schedule.fast
    pool.close()
os.environ["METARAY_TEST_ALONE"] = "1"
alone = train(InlinePool(build(config)))
print(json.dumps({"alone": alone, "beside": beside, "slow": slow, "failures": pool.failures}))
"""


@pytest.fixture
def opened() -> Iterator[Callable[[Config], RayPool]]:
    """Pools that are closed in the end, with all workers ready."""
    pools: list[RayPool] = []

    def ready(config: Config) -> RayPool:
        pool = RayPool(build(config))
        pools.append(pool)

        def all_ready() -> bool:
            pool.poll()
            return len(pool.pids) == pool.workers

        wait_for(all_ready, "all workers")
        return pool

    yield ready
    for pool in pools:
        pool.close()


def test_a_worker_on_another_node_gives_the_same_bits_over_the_network(make_config, outcome):
    result = outcome(TWO_NODES, make_config(cluster__workers=2))
    assert result["beside"] == result["alone"]
    assert result["failures"] == []
    expected = ["Link", "RelayedLink" if sys.platform == "linux" else "Link"]
    assert result["links"] == expected, "one worker on the driver's node, one on the other"


def test_nodes_that_go_and_come_change_no_bit_and_new_ones_take_part(make_config, outcome):
    # Four nodes with a CPU each, six workers asked for: two wait for room. One node is lost, then two come.
    config = make_config(outer__steps=100, cluster__workers=6, meta_batch=12, shard=1)
    result = outcome(NODES_COME_AND_GO, config)
    assert result["beside"] == result["alone"]
    assert result["first"] <= 4
    assert result["last"] == 6
    # Ray may put the first replacement on the lost node, before it notices: then that one is lost too.
    lost = [failure.split(" was lost")[0] for failure in result["failures"] if not failure.startswith("the relay")]
    assert set(lost) <= {f"worker {n}" for n in range(6)}
    assert 1 <= len(lost) <= 3
    kinds = [event["kind"] for event in result["events"]]
    assert {kind: kinds.count(kind) for kind in ("node lost", "node joined")} == {"node lost": 1, "node joined": 2}
    assert "worker replaced" in kinds
    assert max(event["seconds"] for event in result["events"] if event["kind"] == "node lost") < 10


def test_a_hung_worker_is_replaced_and_changes_no_bit(local_ray, make_config, opened):
    config = make_config(outer__steps=60, cluster__workers=2)
    pool = opened(config)
    stopped = pool.pids[0]
    hang = Silent(at=20, do=lambda: os.kill(stopped, signal.SIGSTOP))
    assert trained(config, pool, new_run(config, "run"), hang) == trained_alone(config)
    if not pool.failures:  # the other worker did all the rest before anybody missed this one

        def missed() -> bool:
            pool.poll()
            return bool(pool.failures)

        wait_for(missed, "the hung worker to be missed")
    (failure,) = pool.failures
    assert "no sign of life for 5 s" in failure
    assert pool.events[0].kind == "worker hung"
    assert pool.events[0].seconds < 10
    wait_for(lambda: not psutil.pid_exists(stopped), "the hung process to end")


def test_all_workers_hung_at_once_are_replaced(local_ray, make_config, opened):
    config = make_config(outer__steps=40, cluster__workers=2)
    pool = opened(config)

    def hang() -> None:
        for pid in pool.pids:
            os.kill(pid, signal.SIGSTOP)

    assert trained(config, pool, new_run(config, "run"), Silent(at=10, do=hang)) == trained_alone(config)
    assert len(pool.failures) == 2


def test_a_slow_worker_gets_copies_alone_and_changes_no_bit(make_config, outcome, tmp_path, monkeypatch):
    (tmp_path / "slow_family.py").write_text(SLOW_FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    task = {"family": "slow_family:Slow", "shot": 5, "query": 5}
    result = outcome(ONE_SLOW, make_config(task=task, outer__steps=30, cluster__workers=3, meta_batch=9, shard=1))
    assert result["beside"] == result["alone"]
    assert (result["failures"], result["slow"]) == ([], 1)


def test_a_closed_pool_leaves_no_process(local_ray, make_config, opened):
    pool = opened(make_config(cluster__workers=2))
    pids = pool.pids
    pool.close()
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the workers to end")
