"""``metaray bench``, what it fits the rule by, and the family that it measures through Ray with. No clock is asked."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from benchmarks.families import SyntheticImages
from benchmarks.fit import NEVER, STRATEGIES, Fitted, keep, loads, measured, rule, worthwhile
from benchmarks.memory import Fresh
from benchmarks.suites import SUITES
from cluster.bench.training import config_of, has_family
from cluster.commands.cli import app
from cluster.errors import ConfigError
from cluster.setups.build import build
from tasks.checker import check_family
from tasks.family import TaskKey

TINY = replace(SUITES["sinusoid"], tasks=3)


@pytest.fixture
def bench(monkeypatch):
    """The command on small suites, without the processes and products that it measures machines by."""
    for name, suite in SUITES.items():
        monkeypatch.setitem(SUITES, name, replace(TINY, name=name, says=suite.says))
    monkeypatch.setattr("meta.engine.memory.keep_freed_memory", lambda: True)
    monkeypatch.setattr("benchmarks.peak.peaks", lambda *_: {"1": 50.0})
    monkeypatch.setattr("benchmarks.run.fresh", lambda *_: Fresh(1.0, 2.0))

    def run(*words):
        return CliRunner().invoke(app, ["bench", *words])

    return run


def test_one_suite_is_one_object(bench):
    done = bench("sinusoid", "--json", "--threads", "1", "--pairs", "2", "--peers", "", "--strategies", "trace")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["suite"] == "sinusoid"
    assert {"hardware", "peak_gflops", "results", "versions"} <= found.keys()
    assert [row["name"] for row in found["results"]] == ["metaray", "metaray (trace)", "loop"]
    keys = {"name", "tasks_per_second", "milliseconds", "ratio_to_loop", "peak_fraction"}
    assert all(keys <= row.keys() for row in found["results"])
    assert {(row["peak_memory_mb"], row["first_call_seconds"]) for row in found["results"]} == {(1.0, 2.0)}


@pytest.mark.nightly
def test_without_a_suite_all_are_measured(bench):
    done = bench("--json", "--threads", "1", "--pairs", "1", "--peers", "")
    assert [one["suite"] for one in json.loads(done.stdout)["suites"]] == list(SUITES)


def test_a_table_names_everyone(bench):
    done = bench("sinusoid", "--threads", "1", "--pairs", "1", "--peers", "")
    assert done.exit_code == 0, done.output
    assert "metaray" in done.stdout
    assert "loop" in done.stdout
    assert "tasks/s" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["omniglott"], "did you mean 'omniglot'?"),
        (["sinusoid", "--peers", "jaxx"], "did you mean 'jax'?"),
        (["sinusoid", "--strategies", "vmapp"], "did you mean 'vmap'?"),
        (["sinusoid", "--threads", "4096"], "threads: expected 1 to"),
        (["sinusoid", "--device", "tpu"], "--device: expected cpu or cuda, received 'tpu'"),
        (["sinusoid", "--fit"], "--fit: expected no SUITE"),
        (["omniglott", "--workers", "2"], "did you mean 'omniglot'?"),
    ],
)
def test_wrong_usage_leaves_with_two(bench, words, message):
    done = bench(*words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_fitting_writes_the_rule_and_a_record(bench, monkeypatch, tmp_path):
    numbers = {"native_tasks": 100, "native_convolution_tasks": 20, "vectorised_images": 10}
    found = [Fitted("sinusoid", 20, {"trace": 1.0, "loop": 1.0}, {"trace": 0.001, "loop": 0.002})]
    monkeypatch.setattr("benchmarks.fit.fit", lambda rounds, say: (numbers, found))
    monkeypatch.setattr("benchmarks.fit.keep", lambda *given: keep(*given, tmp_path, tmp_path / "rule.json"))
    done = bench("--fit", "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert json.loads((tmp_path / "rule.json").read_text()) == {"cpu": numbers}
    assert printed["rules"] == str(tmp_path / "rule.json")
    record = json.loads(Path(printed["record"]).read_text())
    assert record["rule"] == numbers
    assert record["measurements"][0]["task"] == {"trace": 0.001, "loop": 0.002}
    table = bench("--fit")
    assert table.exit_code == 0, table.output
    assert "1.0 s, 2 ms" in table.stdout


def test_a_rule_for_another_kind_of_device_stays(tmp_path):
    path = tmp_path / "rule.json"
    path.write_text('{"gpu": {"native_tasks": 7}, "cpu": {"native_tasks": 8}}')
    keep({"native_tasks": 9}, [], tmp_path, path)
    assert json.loads(path.read_text()) == {"gpu": {"native_tasks": 7}, "cpu": {"native_tasks": 9}}


def fitted(trace, loop, native=None, images=10, compiling=30.0):
    first, task = {"trace": 1.0, "loop": 1.0}, {"trace": trace, "loop": loop}
    if native is not None:
        first, task = first | {"native": compiling}, task | {"native": native}
    return Fitted("", images, first, task)


@pytest.mark.parametrize(
    ("found", "tasks"),
    [
        (fitted(0.02, 0.03, 0.01), 3000),
        (fitted(0.02, 0.0155, 0.01), 6000),
        (fitted(0.0201, 0.03, 0.01), 3000),
        (fitted(0.0199, 0.03, 0.01), 4000),
        (fitted(0.02, 0.03, 0.01, compiling=0.001), 1),
        (fitted(0.02, 0.03, 0.02), NEVER),
        (fitted(0.02, 0.03), NEVER),
    ],
)
def test_compiling_pays_from_so_many_tasks_on(found, tasks):
    assert worthwhile(found) == tasks


def test_convolutions_are_vectorised_while_that_is_faster():
    sweep = [fitted(1, 2, images=10), fitted(2, 2, images=20), fitted(3, 2, images=40), fitted(1, 2, images=80)]
    assert rule(fitted(1, 2), fitted(1, 2), sweep)["vectorised_images"] == 20
    assert rule(fitted(1, 2), fitted(1, 2), [fitted(3, 2)])["vectorised_images"] == 0


def test_a_suite_is_timed_under_each_strategy():
    found = measured(TINY, STRATEGIES[:2], rounds=1)
    assert set(found.first) == set(found.task) == {"trace", "loop"}
    assert found.images == 20


def test_the_rule_is_fitted_to_more_and_more_images():
    (sinusoid, _), *others = loads()
    assert sinusoid.name == "sinusoid"
    images = [suite.support + suite.queries for suite, _ in others]
    assert images == sorted(images)
    assert images[0] == 10
    assert images[-1] == 80


def test_the_images_keep_a_familys_contract():
    family = SyntheticImages(channels=2, size=6, way=3, shot=1, query=2)
    check_family(family)
    episode = family.draw(TaskKey(0, "train", 0))
    assert tuple(episode.support.inputs.shape) == (3, 2, 6, 6)
    assert episode.query.targets.tolist() == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="at least 1"):
        SyntheticImages(way=0)


@pytest.mark.parametrize("suite", [suite for suite in SUITES.values() if has_family(suite)], ids=lambda one: one.name)
def test_a_suite_is_the_same_work_as_a_training(suite):
    config = config_of(suite, workers=3)
    setup = build(config)
    model = setup.algorithm.model
    # What a query image is normalised by is the model's default in both.
    assert model == suite.model
    assert (setup.algorithm.inner.steps, setup.algorithm.inner.lr) == (suite.steps, suite.lr)
    assert config.meta_batch == suite.tasks
    assert config.engine == "native"
    assert (config.cluster.workers, config.cluster.threads) == (3, 1)
    assert config.shard_size == -(-suite.tasks // 3)
    episode = setup.family.draw(TaskKey(0, "train", 0))
    assert (len(episode.support.inputs), len(episode.query.inputs)) == (suite.support, suite.queries)
    assert setup.layout.names == tuple(sorted(suite.params()))
    assert episode.support.inputs.shape[1:] == torch.Size(suite.model.inputs)


def test_a_suite_without_a_family_does_not_go_through_ray():
    with pytest.raises(ConfigError, match=r"expected a suite of sinusoid, .*received 'navigation'"):
        config_of(SUITES["navigation"], workers=2)
