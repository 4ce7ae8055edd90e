"""Methods other than MAML under real Ray: θ of three workers is that of the command's own process."""

from typing import Any

import pytest

from cluster.setups.build import build
from cluster.workers.ray_pool import RayPool
from helpers.folders import new_run
from helpers.learning import trained, trained_alone

STEPWISE = {"lr": 0.02, "steps": 2, "rule": {"name": "learned_sgd", "per": "step"}}
METHODS: dict[str, dict[str, Any]] = {
    # Its weights change with every outer step, and its program after the third.
    "mamlpp": {"algorithm": {"name": "mamlpp", "multi_step": 6, "first_order": 3}, "inner": STEPWISE},
    "adam": {"inner": {"lr": 0.01, "steps": 3, "rule": "adam", "recompute": True}},
    "implicit": {"inner": {"lr": 0.02, "steps": 3, "derivative": {"name": "implicit", "iterations": 3}}},
    "reptile": {"algorithm": "reptile", "outer": {"steps": 10, "lr": 0.5, "optimizer": "sgd"}},
    "cavia": {"algorithm": {"name": "cavia", "size": 3}, "inner": {"lr": 0.5, "steps": 1}},
}


@pytest.mark.parametrize("engine", ["trace", "native"])
@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_workers(local_ray, make_config, method: str, engine: str):
    config = make_config(**{"outer__steps": 10, **METHODS[method]}, engine=engine, cluster__workers=3)
    reference = trained_alone(config)
    pool = RayPool(build(config))
    try:
        assert trained(config, pool, new_run(config, "run")) == reference
    finally:
        pool.close()
    assert pool.failures == []
