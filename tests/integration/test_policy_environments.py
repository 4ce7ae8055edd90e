"""Environments as they are, on real Ray: the same bits with no, one and two workers, in a whole training each."""

from typing import Any

import pytest

from cluster.config.schema import Config, parse
from cluster.interrupts import StopFlag
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.workers.pool import InlinePool, Pool
from cluster.workers.ray_pool import RayPool

PATHS: dict[str, dict[str, Any]] = {
    "dictionary and several numbers": {
        "task": {
            "family": "gymnasium",
            "id": "metaray/Courier-v0",
            "kwargs": {"steps": 6},
            "vary": {"column": [0, 4], "row": [0, 4]},
            "via": "options",
            "outside": "clip",
        },
        "model": {"name": "multi_categorical", "hidden": [5]},
    },
    "stratified, an end at the horizon": {
        "task": {
            "family": "gymnasium",
            "id": "metaray/CartPolePhysics-v0",
            "vary": {"length": [0.3, 1.0], "reversed": {"choice": [False, True]}},
            "via": "options",
            "stratified": True,
        },
        "model": {"name": "categorical", "hidden": [5]},
        "advantage": {"horizon": "end"},
    },
    "random maps by arguments": {
        "task": {
            "family": "gymnasium",
            "id": "metaray/FrozenLakeMaps-v0",
            "kwargs": {"size": 2},
            "vary": {"map": [0, 999]},
        },
        "model": {"name": "categorical", "hidden": []},
    },
    "set_task": {  # its module is imported by workers, whose path is the project
        "task": {"family": "task_settable", "env": "tests.helpers.settable:Line"},
        "model": {"name": "gaussian", "hidden": [5]},
    },
}


class Silent:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def configured(path: str, workers: int) -> Config:
    raw = PATHS[path]
    return parse(
        {
            **raw,
            "task": {**raw["task"], "horizon": 6, "trajectories": 3},
            "inner": {"lr": 0.5, "steps": 1},
            "outer": {"steps": 2, "step": "trpo"},
            "meta_batch": 5,
            "shard": 2,
            "engine": "loop",
            "cluster": {"workers": workers},
        }
    )


def trained(config: Config, pool: Pool) -> str:
    setup = build(config)
    learner = Learner(config.outer, setup.layout, setup.initial_params())
    start = learner.fingerprint
    meta_train(config, learner, pool, Silent(), StopFlag())  # type: ignore[arg-type]
    assert learner.step == 2
    assert learner.fingerprint != start
    return learner.fingerprint


@pytest.mark.parametrize("path", PATHS)
def test_the_bits_do_not_depend_on_workers(local_ray: None, path: str) -> None:
    alone = configured(path, 0)
    expected = trained(alone, InlinePool(build(alone)))
    for workers in (1, 2):
        config = configured(path, workers)
        pool = RayPool(build(config))
        try:
            assert trained(config, pool) == expected
        finally:
            pool.close()
        assert pool.failures == []
