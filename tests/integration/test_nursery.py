"""Workers forked from one process of their node: it, a worker or an actor is killed, and nothing is left."""

import os
import signal
import sys
from collections.abc import Callable

import psutil
import pytest

from cluster.errors import MetarayError
from cluster.setups.build import build
from cluster.workers.ray_pool import RayPool
from helpers.folders import new_run
from helpers.learning import Silent, trained, trained_alone
from helpers.waiting import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")


def ended(*pids: int) -> Callable[[], bool]:
    """Whether processes have ended."""

    def none_left() -> bool:
        return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)

    return none_left


def everybody(pool: RayPool, failures: int = 0) -> list[int]:
    """Process ids of all workers, once they are there and as many have been lost."""

    def there() -> bool:
        pool.poll()
        return len(pool.failures) == failures and len(pool.pids) == pool.workers

    wait_for(there, "all workers")
    return pool.pids


def test_workers_come_from_one_process_and_are_replaced_with_it_without_a_changed_bit(local_ray, make_config):
    config = make_config(outer__steps=60, cluster__workers=2)
    pool = RayPool(build(config))
    try:
        first = everybody(pool)
        (nursery,) = {psutil.Process(pid).ppid() for pid in first}
        assert {psutil.Process(pid).name() for pid in first} == {"metaray-worker"}

        def lose_all() -> None:
            os.kill(nursery, signal.SIGKILL)
            wait_for(ended(*first), "the nursery's workers to end")
            second = everybody(pool, 2)
            os.kill(second[0], signal.SIGKILL)  # and one of those that came after them
            wait_for(ended(second[0]), "the worker to end")
            everybody(pool, 3)

        theta = trained(config, pool, new_run(config, "run"), Silent(at=20, do=lose_all))
        last = everybody(pool, 3)
        (second_nursery,) = {psutil.Process(pid).ppid() for pid in last}
    finally:
        pool.close()
    assert theta == trained_alone(config)
    assert len(pool.failures) == 3
    assert "its process was ended by SIGKILL" in pool.failures[-1]
    assert second_nursery != nursery
    wait_for(ended(*last, second_nursery), "workers and nursery to end")


def test_an_error_of_a_set_up_that_cannot_be_built_arrives(local_ray, make_config, tmp_path, monkeypatch):
    (tmp_path / "breaking_family.py").write_text(
        "import os\nfrom tasks.sinusoid import Sinusoid\n\n\nclass Breaking(Sinusoid):\n"
        f"    def __init__(self, shot=1, query=1):\n        if os.getpid() != {os.getpid()}:\n"
        "            raise OSError('no such disk')\n        super().__init__(shot=shot, query=query)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(task={"family": "breaking_family:Breaking"}, cluster__workers=1)
    setup = build(config)
    with pytest.raises(MetarayError, match=r"OSError: no such disk|breaking_family"):
        RayPool(setup)
