"""Relays on nodes of a real Ray: same bits whatever is killed, bytes that do not grow with workers, nothing left."""

import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="relays share memory as Linux does")

PATIENT = {"cluster__start_timeout": 300, "cluster__heartbeat_timeout": 60}  # with a machine that has other work

# Nodes beside that of the driver, which has no room for workers.
ON_NODES = """
import gc, signal
from pathlib import Path
import psutil
from ray.cluster_utils import Cluster
from cluster.workers.relayed import RelayedLink
from cluster.workers.transport.link import Link

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(NODES):
    cluster.add_node(num_cpus=4)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)

def wait_until(question, pool):
    until = time.monotonic() + 200
    while not question():
        if time.monotonic() > until:
            raise SystemExit(f"waited 200 s; {pool.failures}")
        pool.poll()
        time.sleep(0.02)

names = set()  # of sockets

def all_relayed(pool):
    links = list(pool._by_link)
    names.add(pool._hub.address.local)
    names.update(link.relay.local for link in links if isinstance(link, RelayedLink))
    return len(links) == pool.workers and all(isinstance(link, RelayedLink) for link in links)

def processes(name):
    below = []
    for one in psutil.Process().children(recursive=True):
        try:
            below += [one] if name in " ".join(one.cmdline()) else []
        except psutil.NoSuchProcess:  # zombies too
            pass
    return below

def left():
    gc.collect()
    links = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return (
        [one.pid for one in processes("RelayActor") + processes("WorkerActor")]
        + [link for link in links if "memfd:metaray" in link]
        + [line for line in Path("/proc/net/unix").read_text().splitlines() if line.split("@")[-1] in names]
    )

def left_in_the_end():
    until = time.monotonic() + 60
    while left() and time.monotonic() < until:
        time.sleep(0.1)
    return left()
"""

TRAFFIC = """
traffic = [0, 0]  # bytes over TCP from the driver, and to it
send, read = Link.send, Link._read

def counted_send(self, header, *numbers, **further):
    if not self.shares_memory:
        traffic[0] += len(json.dumps(header, separators=(",", ":"))) + sum(part.nbytes for part in numbers)
    send(self, header, *numbers, **further)

def counted_read(self, target):
    count = read(self, target)
    traffic[1] += 0 if self.shares_memory else count
    return count

Link.send, Link._read = counted_send, counted_read
alone = train(InlinePool(build(config)))

def counted(workers):
    pool = RayPool(build(configured(workers=workers)))
    wait_until(lambda: all_relayed(pool), pool)
    nodes = len({link.relay.node for link in pool._by_link})
    train(pool, 2)
    traffic[:] = [0, 0]
    theta = train(pool)
    out, into = [amount / config.outer.steps for amount in traffic]
    pool.close()
    return {"same": theta == alone, "nodes": nodes, "out": out, "in": into, "failures": pool.failures}

rows = [counted(workers) | {"left": left_in_the_end()} for workers in (2, 4, 8)]
ray.shutdown()
cluster.shutdown()
print(json.dumps({"rows": rows}))
"""

FAILURES = """
def kill(name, how=signal.SIGKILL):
    processes(name)[0].send_signal(how)

class Disturbed(Silence):
    took = {}

    def after_step(self, learner, metrics):
        what = {10: "relay", 20: "worker", 30: "hang"}.get(learner.step)
        if what is None:
            return
        lost = len(pool.failures)
        if what == "hang":
            kill("RelayActor", signal.SIGSTOP)
        else:
            kill("RelayActor" if what == "relay" else "WorkerActor")
        began = time.monotonic()
        wait_until(lambda: len(pool.failures) > lost and all_relayed(pool), pool)
        self.took[what] = time.monotonic() - began

alone = train(InlinePool(build(config)))

def disturbed():
    global pool
    pool = RayPool(build(configured(workers=4)))
    wait_until(lambda: all_relayed(pool), pool)
    setup = build(config)
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    meta_train(config, learner, pool, Disturbed(), StopFlag())
    pool.close()
    return {"same": learner.fingerprint == alone, "failures": pool.failures, "took": Disturbed.took}

result = disturbed()
del pool
result["left"] = left_in_the_end()
ray.shutdown()
cluster.shutdown()
print(json.dumps(result))
"""

AMONG_THEMSELVES = """
from cluster.workers import held, spread

held.FAN_IN = spread.FAN_IN = 2  # so that four relays are many
parts = set()  # relays that have sent collected sums to the driver
on_part = held.HeldSums.on_part

def noted(self, relay, header, numbers):
    parts.add(relay.node)
    on_part(self, relay, header, numbers)

held.HeldSums.on_part = noted

class Disturbed(Silence):
    def after_step(self, learner, metrics):
        if learner.step == 4:
            self.senders = len(parts)
            processes("RelayActor")[0].kill()

alone = train(InlinePool(build(config)))

def disturbed():
    pool = RayPool(build(configured(workers=4)))
    wait_until(lambda: all_relayed(pool), pool)
    setup, changes = build(config), Disturbed()
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    meta_train(config, learner, pool, changes, StopFlag())
    wait_until(lambda: all_relayed(pool), pool)  # some workers may not have been asked for anything since
    pool.close()
    return {"same": learner.fingerprint == alone, "failures": pool.failures, "senders": changes.senders}

result = disturbed()
result["left"] = left_in_the_end()
ray.shutdown()
cluster.shutdown()
print(json.dumps(result))
"""


def test_the_drivers_bytes_grow_with_nodes_and_not_with_workers(make_config, outcome):
    model = {"name": "mlp", "hidden": [40, 40]}
    config = make_config(model=model, meta_batch=16, shard=1, cluster__copies=False, **PATIENT)
    rows = outcome("NODES = 2" + ON_NODES + TRAFFIC, config)["rows"]
    assert [row["same"] for row in rows] == [True] * 3
    assert [row["nodes"] for row in rows] == [2] * 3
    vector = 4 * 1761
    for row in rows:
        # What is more than a vector a node are 180 bytes for each block one way and 60 the other.
        assert 2 * vector < row["out"] < 2.3 * vector, row
        assert 2 * vector < row["in"] < 2.2 * vector, row
        assert (row["failures"], row["left"]) == ([], [])


def test_a_relay_and_a_worker_behind_one_are_lost_without_a_changed_bit(make_config, outcome):
    config = make_config(outer__steps=40, meta_batch=16, shard=1, cluster__start_timeout=300)
    result = outcome("NODES = 2" + ON_NODES + FAILURES, config)
    assert result["same"]
    relay, worker, hang = result["failures"]
    assert relay.startswith("the relay of node")
    assert worker.startswith("worker")
    assert "no sign of life for 5 s" in hang
    assert result["left"] == []
    print({what: f"{seconds:.1f} s" for what, seconds in result["took"].items()})


def test_four_nodes_add_up_among_themselves_and_one_relay_is_lost(make_config, outcome):
    config = make_config(outer__steps=8, meta_batch=16, shard=1, **PATIENT)
    result = outcome("NODES = 4" + ON_NODES + AMONG_THEMSELVES, config)
    assert result["same"]
    assert result["senders"] == 2
    (failure,) = result["failures"]
    assert failure.startswith("the relay of node")
    assert result["left"] == []
