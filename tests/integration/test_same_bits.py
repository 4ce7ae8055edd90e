"""Guarantee 3: the same bits of θ for any number of workers, and whatever is killed on the way."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.config.schema import Config
from cluster.interrupts import StopFlag
from cluster.runs import checkpoint as checkpoints
from cluster.runs.folder import RunFolder
from cluster.setups.build import build
from cluster.training.learner import Learner
from cluster.training.loop import meta_train
from cluster.training.recorder import Recorder
from cluster.workers.pool import InlinePool
from cluster.workers.ray_pool import RayPool
from helpers.folders import new_run
from helpers.learning import Silent, trained, trained_alone
from helpers.waiting import wait_for

STEPS = 200
DTYPES = ["float32", "float64"]


@pytest.fixture
def long_config(make_config: Callable[..., Config]) -> Callable[..., Config]:
    def make(**changes: object) -> Config:
        return make_config(outer__steps=STEPS, checkpoint__every=50, eval__every=100, **changes)

    return make


@pytest.fixture(scope="session")
def reference() -> dict[str, str]:
    """θ by type as computed without Ray; filled by the first test that needs it."""
    return {}


def expected(reference: dict[str, str], config: Config) -> str:
    if config.dtype not in reference:
        reference[config.dtype] = trained_alone(config)
    return reference[config.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers(local_ray, long_config, reference, dtype, workers):
    config = long_config(dtype=dtype, cluster__workers=workers)
    pool = RayPool(build(config))
    try:
        assert trained(config, pool, new_run(config, "run")) == expected(reference, config)
    finally:
        pool.close()
    assert pool.failures == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_worker_killed_at_step_50(local_ray, long_config, reference, dtype):
    config = long_config(dtype=dtype, cluster__workers=2)
    pool = RayPool(build(config))
    kill = Silent(at=50, do=lambda: os.kill(pool.pids[0], signal.SIGKILL))
    try:
        assert trained(config, pool, new_run(config, "run"), kill) == expected(reference, config)
    finally:
        pool.close()
    assert len(pool.failures) == 1
    assert "its shards were computed again" in pool.failures[0]


@pytest.mark.parametrize("engine", ["trace", "loop", "native"])
def test_images_with_a_worker_killed(local_ray, make_config, make_store, engine):
    # Episodes are drawn ahead on a thread of the worker's here, and lost with it.
    images = {"family": "images", "root": str(make_store((8, 8, 1), classes=8, images=10)), "way": 3, "query": 4}
    model = {"name": "conv4", "channels": 4, "blocks": 2}
    config = make_config(task=images, model=model, outer__steps=30, engine=engine, cluster__workers=2)
    reference = trained_alone(config)
    pool = RayPool(build(config))
    kill = Silent(at=10, do=lambda: os.kill(pool.pids[0], signal.SIGKILL))
    try:
        assert trained(config, pool, new_run(config, "run"), kill) == reference
    finally:
        pool.close()
    assert len(pool.failures) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_driver_killed_and_resumed(metaray, config_file, long_config, reference, dtype, tmp_path: Path):
    config = long_config(dtype=dtype, cluster__workers=2)
    overrides = [f"dtype={dtype}", f"outer.steps={STEPS}", "checkpoint.every=50", "eval.every=100"]
    driver = metaray("train", str(config_file), *overrides)
    runs = tmp_path / "runs"
    wait_for(lambda: any(runs.glob("*/checkpoints/step-000000100.safetensors")), "step 100")
    family = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in family if "WorkerActor" in process_name(process)]
    assert workers
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == [], "workers left behind by the killed driver"
    for process in family:  # Ray's agents take a minute or more to notice
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()

    (run,) = runs.iterdir()
    resumed = metaray("train", str(config_file), *overrides, "--resume", str(run), "--json")
    output, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    result = json.loads(output)
    assert result["steps"] == STEPS
    assert result["theta_sha256"] == expected(reference, config)
    assert checkpoints.newest(RunFolder(run).checkpoints).step == STEPS


def process_name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def test_resume_repeats_no_metric(long_config):
    config = long_config(cluster__workers=0, outer__schedule="constant")
    folder = new_run(config, "run")
    short = config.model_copy(update={"outer": config.outer.model_copy(update={"steps": 120})})
    for part in (short, config):
        pool = InlinePool(build(part))
        setup = build(part)
        learner = Learner(part.outer, setup.layout, setup.initial_params())
        books = Recorder(part, setup, folder, pool, Silent())
        saved = checkpoints.newest(folder.checkpoints)
        if saved is not None:
            learner.load(dict(saved.tensors), saved.step, saved.skipped)
        meta_train(part, learner, pool, books, StopFlag())
        pool.close()
    records = [json.loads(line) for line in folder.metrics_path.read_text().splitlines()]
    seen = [(record["step"], name) for record in records for name in record["values"]]
    assert len(seen) == len(set(seen))
    assert {step for step, name in seen if name == "train/loss"} == set(range(5, STEPS + 1, 5))
