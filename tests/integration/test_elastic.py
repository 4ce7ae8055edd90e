"""A run that begins with the workers there are, grows when nodes join and shrinks when they leave, bit for bit."""

OWN = """
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray.experimental.internal_kv import _internal_kv_get


class Changes:
    def __init__(self, changes):
        self.changes = changes

    def after_step(self, learner, metrics):
        self.changes.get(learner.step, lambda: None)()

    def finish(self, learner):
        pass


def train(pool, changes):
    setup = build(config)
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    meta_train(config, learner, pool, Changes(changes), StopFlag())
    return learner.fingerprint


def wait_for(pool, count, event=None):
    until = time.monotonic() + 200
    while (len(pool.pids) != count or not noted(pool, event)) and time.monotonic() < until:
        pool.poll()
        time.sleep(0.05)
    seen.append(len(pool.pids))


def noted(pool, kind):  # Ray may notice a lost node later than its workers are replaced
    return kind is None or kind in [event.kind for event in pool.events]


def requested():
    return json.loads(_internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL) or b"[]")


def ended(cluster, pool, beside, asked):
    pool.close()
    print(json.dumps({
        "alone": train(InlinePool(build(config)), {}), "beside": beside, "seen": seen, "asked": asked,
        "left": requested(), "failures": pool.failures, "events": [event.kind for event in pool.events],
        "warnings": pool.warnings,
    }))
    sys.stdout.flush()
    ray.shutdown()
    cluster.shutdown()


seen = []
"""

NODES = """
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)
pool = RayPool(build(config))
asked = requested()
wait_for(pool, 1)
nodes = []
beside = train(pool, {
    20: lambda: nodes.append(cluster.add_node(num_cpus=2)),
    40: lambda: wait_for(pool, 3),
    60: lambda: cluster.remove_node(nodes[0], allow_graceful=False),
    70: lambda: wait_for(pool, 1),
    80: lambda: cluster.add_node(num_cpus=3),
    90: lambda: wait_for(pool, 4, "node lost"),
})
ended(cluster, pool, beside, asked)
"""


def test_a_run_grows_and_shrinks_with_the_cluster_and_changes_no_bit(make_config, outcome):
    elastic = {"cluster__workers": "auto", "cluster__max_workers": 4, "cluster__min_workers": 1}
    result = outcome(OWN + NODES, make_config(outer__steps=100, meta_batch=12, shard=1, **elastic))
    assert result["beside"] == result["alone"]
    assert result["seen"] == [1, 3, 1, 4]
    assert result["events"].count("node joined") == 2
    assert result["events"].count("node lost") == 1
    assert result["asked"] == [{"CPU": 1}] * 4
    assert result["left"] == []
    assert result["warnings"] == []


def test_fewer_workers_than_the_fewest_are_refused(make_config, outcome):
    config = make_config(cluster__workers=3, cluster__min_workers=3, cluster__start_timeout=90)
    script = """
from ray.cluster_utils import Cluster
from cluster.errors import ClusterError

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
ray.init(address=cluster.address, log_to_driver=False)
try:
    RayPool(build(config))
except ClusterError as error:
    print(json.dumps({"error": str(error), "left": requested()}))
ray.shutdown()
cluster.shutdown()
"""
    result = outcome(OWN + script, config)
    assert "cluster.min_workers: expected 3 workers within 90 s, received 2; the cluster has 2 CPU" in result["error"]
    assert result["left"] == []
