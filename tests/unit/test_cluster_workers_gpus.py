"""GPUs of workers: a driver without any leaves them alone, a cluster without any is refused."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cluster.config.overrides import with_overrides
from cluster.config.schema import Config, parse
from cluster.config.sections import ClusterConfig
from cluster.errors import ConfigError
from cluster.search import trial
from cluster.setups.build import build
from cluster.training import preflight
from cluster.training.start import begin
from cluster.workers import remote
from cluster.workers.gpus import require_gpus
from cluster.workers.pool import InlinePool
from meta.engine.choice import Choice

BASE: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
    "cluster": {"gpus_per_worker": 1, "address": "10.0.0.1:6379", "workers": 2},
}
POLICIES: dict[str, Any] = {
    **BASE,
    "task": {"family": "navigation", "horizon": 4, "trajectories": 3},
    "model": {"name": "gaussian", "hidden": [5]},
}


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver whose torch has no CUDA, and where whatever puts a tensor there fails."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the driver has touched the GPU")

    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Configurations that a worker was asked to try; it answers ``trace`` unless they name an engine."""
    asked: list[Config] = []

    def answer(config: Config, function: Any) -> str:
        assert function is preflight._tried_there
        asked.append(config)
        name = config.engine if config.engine == "graph" else "trace"
        return json.dumps(Choice(name, "vectorised over tasks on cuda", {"native": "no"}, recompute=True)._asdict())

    monkeypatch.setattr(remote, "on_a_worker", answer)
    monkeypatch.setattr(preflight, "shared_session", lambda config: SessionOfNothing())
    return asked


class SessionOfNothing:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("raw", [BASE, POLICIES], ids=["drawn", "policies"])
@pytest.mark.parametrize("engine", ["auto", "measure", "graph"])
def test_a_driver_without_a_gpu_has_a_worker_try_the_run(no_gpu, worker, tmp_path, raw, engine):
    start = begin(parse(with_overrides(raw, [f"engine={engine}", f"checkpoint.root={tmp_path}"])), "run")
    assert [config.engine for config in worker] == [engine]
    chosen = "graph" if engine == "graph" else "trace"
    assert start.folder.info["engine"] == start.setup.config.engine == chosen
    assert start.folder.info["engines_passed_over"] == {"native": "no"}
    assert start.setup.config.inner.recompute is True
    assert start.setup.device == torch.device("cpu")
    assert {value.device.type for value in start.setup.initial_params().values()} == {"cpu"}


def test_a_trial_of_a_search_asks_a_worker_too(no_gpu, worker):
    local = parse(with_overrides(BASE, ["cluster.address=local"]))
    assert trial._choice(build(local)).name == "trace"
    assert worker == [local]
    alone = parse(with_overrides(BASE, ["cluster.address=local", "cluster.workers=0"]))
    with pytest.raises(ConfigError, match="torch sees none here"):
        trial._choice(build(alone))


@pytest.mark.parametrize("override", ["cluster.address=local", "cluster.workers=0"])
def test_who_computes_here_needs_a_gpu_here(no_gpu, worker, tmp_path, override):
    with pytest.raises(ConfigError, match=r"cluster\.gpus_per_worker: expected 0 on a machine without a GPU"):
        begin(parse(with_overrides(BASE, [override, f"checkpoint.root={tmp_path}"])), "run")
    assert worker == []
    assert list(tmp_path.iterdir()) == []


def test_workers_compute_on_their_gpu_and_the_driver_does_not(monkeypatch):
    setup = build(parse(BASE))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert setup.device.type == "cpu"
    placed = setup.placed()
    assert placed.device.type == "cuda"
    assert setup.device.type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees none here"):
        InlinePool(setup)
    on_processor = build(parse(with_overrides(BASE, ["cluster.gpus_per_worker=0"])))
    assert on_processor.placed() is on_processor


def node(gpus: float | None, *, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": 8.0} | ({} if gpus is None else {"GPU": gpus})}


@pytest.mark.parametrize(
    ("requested", "nodes", "most"),
    [
        (0, [], None),
        (0.5, [node(1.0)], None),
        (2, [node(None), node(4.0)], None),
        (1, [node(None)], {"CPU": 64, "GPU": 8}),  # an autoscaler starts nodes with GPUs once they are asked for
    ],
)
def test_gpus_that_are_there_or_may_come_are_taken(requested, nodes, most):
    require_gpus(ClusterConfig(gpus_per_worker=requested), nodes, most)


@pytest.mark.parametrize(
    ("requested", "nodes", "most", "there"),
    [
        (1, [node(None), node(None)], None, "the 2 nodes of the cluster has more than 0"),
        (1, [node(None), node(1.0, alive=False)], None, "the 1 nodes of the cluster has more than 0"),
        (2, [node(1.0), node(1.0)], {"CPU": 64, "GPU": 0}, "the 2 nodes of the cluster has more than 1"),
        (0.5, [], None, "the 0 nodes"),
    ],
)
def test_gpus_that_no_node_has_are_refused(requested, nodes, most, there):
    with pytest.raises(ConfigError, match=rf"gpus_per_worker: .* received {requested:g}: none of {there}"):
        require_gpus(ClusterConfig(gpus_per_worker=requested), nodes, most)


class NoRay(SimpleNamespace):
    """A Ray whose calls end as the test says."""

    def __init__(self, outcome: Exception) -> None:
        self.cancelled: list[Any] = []

        def get(ref: Any, timeout: float) -> str:
            raise outcome

        super().__init__(
            remote=lambda function: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda config: "ref")),
            get=get,
            cancel=lambda ref, force: self.cancelled.append(ref),
        )


def test_a_cluster_without_room_for_the_trial_is_not_waited_for_for_ever(monkeypatch):
    from ray.exceptions import GetTimeoutError

    fake = NoRay(GetTimeoutError("late"))
    monkeypatch.setattr(remote, "ray", fake)
    config = parse(with_overrides(BASE, ["cluster.start_timeout=20", "cluster.order_timeout=30"]))
    with pytest.raises(Exception, match=r"1 CPU and 1 GPU to try the run within 50 s"):
        remote.on_a_worker(config, preflight._tried_there)
    assert fake.cancelled == ["ref"]
