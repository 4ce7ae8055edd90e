"""The number of workers that pays: none for shards of microseconds, all cores for long ones."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.schema import parse, with_overrides
from cluster.errors import ConfigError, EngineError
from cluster.setups.build import build
from cluster.workers import auto
from cluster.workers.messages import gradient_requests

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


def test_compiling_is_left_out_of_the_time() -> None:
    config = parse(with_overrides(BASE, []))
    times = iter([0.0, 0.9, 1.0, 1.2, 2.0, 2.1])
    request = gradient_requests(0, 4, config.shard_size)[0]
    assert auto._timed(build(config), request, clock=lambda: next(times)) == pytest.approx(0.1)


def test_words_other_than_auto_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.workers"):
        parse(with_overrides(BASE, ["cluster.workers=many"]))
