"""The number of workers that pays: none for shards of microseconds, all cores for long ones."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.overrides import with_overrides
from cluster.config.schema import parse
from cluster.errors import ConfigError, EngineError
from cluster.setups.build import build
from cluster.workers import auto
from cluster.workers.messages import Request, gradient_requests
from cluster.workers.worker import Worker

BASE: dict[str, Any] = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [8]},
    "outer": {"steps": 4},
    "meta_batch": 4,
    "engine": "loop",
}
seconds = st.floats(1e-6, 100)


@given(seconds, st.integers(1, 64), st.integers(1, 100_000), st.integers(1, 32))
def test_never_more_workers_than_shards_or_cores(shard: float, shards: int, batches: int, cores: int) -> None:
    count = auto.choose(shard, shards, batches, cores)
    assert 0 <= count.workers <= min(shards, cores)
    assert count.reason.startswith("a shard takes ")


@given(seconds, st.integers(1, 64), st.integers(1, 100_000), st.integers(1, 32))
def test_longer_shards_never_make_it_fewer(shard: float, shards: int, batches: int, cores: int) -> None:
    assert (auto.choose(shard, shards, batches, cores).workers > 0) <= (
        auto.choose(2 * shard, shards, batches, cores).workers > 0
    )


@pytest.mark.parametrize(
    ("shard", "shards", "batches", "cores", "expected"),
    [
        (2e-4, 1, 70_000, 2, 0),  # sinusoid
        (2e-4, 16, 70_000, 2, 0),
        (3.4e-3, 16, 60_000, 2, 2),  # Omniglot
        (3.4e-3, 16, 60, 2, 0),  # over before Ray has started
        (1.0, 4, 1000, 16, 4),
        (1.0, 6, 1000, 4, 3),  # two rounds with three as with four
        (0.1, 16, 1, 8, 0),
        (50.0, 16, 1, 8, 8),
    ],
)
def test_what_pays(shard: float, shards: int, batches: int, cores: int, expected: int) -> None:
    assert auto.choose(shard, shards, batches, cores).workers == expected


def settled(*overrides: str, batches: int = 1) -> tuple[Any, str]:
    config = parse(with_overrides(BASE, overrides))
    return auto.settled(build(config), gradient_requests(0, 4, config.shard_size), batches)


def test_a_number_of_the_configuration_stands() -> None:
    setup, reason = settled("cluster.workers=3")
    assert (setup.config.cluster.workers, reason) == (3, "")


def test_small_work_stays_in_this_process_and_nothing_else_changes() -> None:
    setup, reason = settled()
    assert setup.config.cluster.workers == 0
    assert "in this process" in reason
    before = parse(with_overrides(BASE, []))
    assert setup.config.identity == before.identity
    assert setup.config.model_copy(update={"cluster": before.cluster}) == before


def test_long_work_gets_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_timed", lambda setup, request: 5.0)
    monkeypatch.setattr(auto, "available_cores", lambda: 3)
    setup, reason = settled("cluster.threads=1", batches=100)
    assert setup.config.cluster.workers == 2  # four shards: two rounds with two as with three
    assert "5 s" in reason
    assert settled("cluster.threads=2", batches=100)[0].config.cluster.workers in {0, 1}


@pytest.mark.parametrize("override", ["cluster.address=10.0.0.1:6379"])
def test_elsewhere_the_pool_decides(override: str) -> None:
    assert settled(override)[0].config.cluster.workers == "auto"


def test_an_engine_that_cannot_run_here_is_left_for_the_workers_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(setup: Any, request: Any) -> float:
        raise EngineError("no compiler")

    monkeypatch.setattr(auto, "_timed", fails)
    monkeypatch.setattr(auto, "available_cores", lambda: 2)
    setup, reason = settled()
    assert setup.config.cluster.workers == 2
    assert "no compiler" in reason


def timed(monkeypatch: pytest.MonkeyPatch, tasks: int, seconds: Callable[[int, int], float]) -> tuple[float, float]:
    """A shard's estimated seconds, and those that estimating took.

    Args:
        monkeypatch: replaces the worker.
        tasks: of the shard.
        seconds: that a call takes, by its number and its number of tasks.
    """
    clock, calls = SimpleNamespace(now=0.0), itertools.count()

    def run(worker: Worker, request: Request, theta: object) -> None:
        clock.now += seconds(next(calls), len(request.tasks.indices))

    monkeypatch.setattr(Worker, "run", run)
    config = parse(with_overrides(BASE, [f"meta_batch={tasks}", f"shard={tasks}"]))
    request = gradient_requests(0, tasks, tasks)[0]
    return auto._timed(build(config), request, clock=lambda: clock.now), clock.now


@pytest.mark.parametrize(
    ("tasks", "first", "each", "estimate", "bound"),
    [
        pytest.param(4, 0.5, 0.001, 0.004, 1, id="compiling_is_left_out"),
        pytest.param(1, 0.9, 0.1, 0.1, 2, id="a_shard_of_one_task"),
        pytest.param(40, 0.1, 0.3, 12.0, 5, id="a_long_shard_is_estimated"),
        pytest.param(40, 4.0, 4.0, 160.0, 9, id="rollouts_of_seconds"),
        pytest.param(40, 60.0, 60.0, 2400.0, 61, id="a_task_of_a_minute_is_computed_once"),
        pytest.param(100_000, 0.01, 1e-4, 10.0, 4, id="a_huge_shard"),
    ],
)
def test_timing_a_shard_takes_seconds_whatever_its_length(monkeypatch, tasks, first, each, estimate, bound):
    seconds, took = timed(monkeypatch, tasks, lambda call, count: first if call == 0 else count * each)
    assert seconds == pytest.approx(estimate)
    assert took < bound


def test_tasks_that_are_computed_side_by_side_are_timed_together(monkeypatch):
    seconds, _ = timed(monkeypatch, 50, lambda call, count: 0.015 + 0.0001 * count)
    assert seconds == pytest.approx(0.02)


def test_the_bounds_of_a_configuration_hold_for_this_machine_too(monkeypatch):
    monkeypatch.setattr(auto, "available_cores", lambda: 8)
    monkeypatch.setattr(auto, "_timed", lambda setup, request: 5.0)
    assert settled(batches=100)[0].config.cluster.workers == 4
    assert settled("cluster.max_workers=2", batches=100)[0].config.cluster.workers == 2
    monkeypatch.setattr(auto, "_timed", lambda setup, request: 1e-4)
    assert settled()[0].config.cluster.workers == 0
    setup, reason = settled("cluster.min_workers=2")
    assert setup.config.cluster.workers == 2
    assert reason.startswith("cluster.min_workers; a shard takes 0.1 ms")


def test_words_other_than_auto_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.workers"):
        parse(with_overrides(BASE, ["cluster.workers=many"]))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["cluster.workers=4", "cluster.max_workers=8"], "max_workers: expected only beside workers: auto"),
        (["cluster.workers=4", "cluster.min_workers=5"], "min_workers: expected at most 4.*or raise workers"),
        (["cluster.min_workers=5", "cluster.max_workers=4"], "min_workers: expected at most 4.*or raise max_workers"),
        (["cluster.max_workers=0"], "max_workers"),
    ],
)
def test_bounds_that_contradict_each_other_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        parse(with_overrides(BASE, overrides))
