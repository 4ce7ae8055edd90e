"""The benchmarks on sizes that take no time: counts, pairing, agreement, the command. Nothing here looks at a clock."""

import itertools
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import agreement
from benchmarks.__main__ import main
from benchmarks.agreement import compared, errors, reference, relative_error
from benchmarks.competitor import LeftOut, Option, Prepared
from benchmarks.contest import LOOP, PEERS, competitors
from benchmarks.flops import counted, layers, operations
from benchmarks.memory import Fresh, fresh
from benchmarks.ours import Metaray
from benchmarks.peak import peaks
from benchmarks.process import cores, empty_caches, in_child
from benchmarks.run import Settings, _Entry, _fastest, run_suite
from benchmarks.suites import SUITES, Work
from benchmarks.timing import Runner, alternate
from benchmarks.user_models import Encoder, ResNet18, SequenceClassifier, UserModel
from meta.engine.machine import available_cores, cache_folder
from meta.episode import leaves
from meta.models import MLP, Conv4, ResNet12
from meta.policy import GaussianPolicy

ROOT = Path(__file__).parents[2]
ONE = Option(1)
SMALL = {
    "sinusoid": {"tasks": 3},
    "omniglot": {"tasks": 2, "model": Conv4(inputs=(1, 28, 28), outputs=5, channels=6)},
    "omniglot_15": {"tasks": 2, "query": 3, "model": Conv4(inputs=(1, 21, 14), outputs=5, channels=4)},
    "omniglot_20way": {"tasks": 1, "way": 7, "model": Conv4(inputs=(1, 28, 28), outputs=7, channels=4)},
    "mini_imagenet": {
        "tasks": 2,
        "steps": 2,
        "query": 2,
        "model": Conv4(inputs=(3, 42, 42), outputs=5, channels=4, down="pool"),
    },
    "cifar_fs_resnet12": {"tasks": 2, "query": 2, "model": ResNet12(inputs=(3, 12, 12), outputs=5, widths=(4, 6))},
    "lstm": {"tasks": 2, "model": UserModel(lambda: SequenceClassifier(3, 4, 5), (9, 3))},
    "transformer": {"model": UserModel(lambda: Encoder(3, 8, 1, 5), (5, 3))},
    "resnet12_84": {"model": ResNet12(inputs=(3, 12, 12), outputs=5, widths=(4, 6))},
    "resnet18_84": {"model": UserModel(lambda: ResNet18(5, 2), (3, 32, 32))},
    "navigation": {
        "tasks": 2,
        "shot": 30,
        "query": 20,
        "model": GaussianPolicy(inputs=(2,), outputs=2, hidden=(8, 9)),
    },
}
TINY = {name: replace(SUITES[name], **changes) for name, changes in SMALL.items()}
SUITE = pytest.mark.parametrize("suite", TINY.values(), ids=TINY)


def test_the_suites_are_those_of_the_table():
    assert list(SUITES) == list(TINY)
    found = {name: (suite.tasks, suite.steps, suite.lr, suite.support, suite.queries) for name, suite in SUITES.items()}
    assert found == {
        "sinusoid": (25, 1, 0.01, 10, 10),
        "omniglot": (32, 1, 0.4, 5, 5),
        "omniglot_15": (32, 1, 0.4, 5, 75),
        "omniglot_20way": (16, 5, 0.1, 20, 20),
        "mini_imagenet": (4, 5, 0.05, 5, 75),
        "cifar_fs_resnet12": (2, 1, 0.05, 5, 75),
        "lstm": (4, 1, 0.05, 10, 10),
        "transformer": (2, 1, 0.05, 5, 5),
        "resnet12_84": (1, 1, 0.05, 5, 5),
        "resnet18_84": (1, 1, 0.05, 5, 5),
        "navigation": (20, 1, 0.1, 2000, 2000),
    }
    assert SUITES["sinusoid"].model == MLP(inputs=(1,), outputs=1, hidden=(40, 40), init_std=None)


@SUITE
def test_data_are_the_same_at_every_draw_and_precision(suite):
    once, again, double = Work.of(suite), Work.of(suite), Work.of(suite, torch.float64)
    for one, other, wide in zip(leaves(once.episodes), leaves(again.episodes), leaves(double.episodes), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, wide.to(one.dtype))
        assert len(one) == suite.tasks
    assert all(torch.equal(once.params[name], value.float()) for name, value in double.params.items())
    assert not torch.equal(once.tasks()[0].support.inputs, once.episodes.query.inputs[0, : suite.support])


@SUITE
def test_operations_by_the_shapes_are_those_that_torch_counts(suite):
    work = Work.of(suite)
    assert operations(suite) == counted(LOOP.prepare(work, ONE).run)


@pytest.mark.parametrize(
    ("name", "megaflop"), [("omniglot", 5.3), ("mini_imagenet", 55)], ids=["omniglot", "mini_imagenet"]
)
def test_a_forward_pass_has_the_operations_counted_by_hand(name, megaflop):
    assert sum(layer.forward for layer in layers(SUITES[name].model)) / 1e6 == pytest.approx(megaflop, rel=0.02)


@SUITE
def test_the_plain_loop_agrees_with_the_reference(suite):
    works = compared(suite)
    assert errors(LOOP, works, ONE, reference(works[torch.float64]))["error_float64"] < 1e-10


@SUITE
@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("loop", "inductor")])
def test_a_peer_that_is_installed_agrees_with_the_reference(suite, name):
    works = compared(suite)
    peer = PEERS[name]
    expected = reference(works[torch.float64])
    for option in peer.options(works[torch.float64], 1):
        try:
            peer.prepare(works[torch.float64], option)
        except LeftOut as reason:
            pytest.skip(f"{name}: {reason}")
        assert errors(peer, works, option, expected)["error_float64"] < 1e-10


@pytest.mark.parametrize(
    "suite",
    [pytest.param(suite, marks=pytest.mark.slow if name == "sinusoid" else pytest.mark.nightly, id=name)
     for name, suite in TINY.items()],
)  # fmt: skip
def test_inductor_agrees_with_the_reference(suite):
    """Marked by how long its C++ compiler takes; the other tests of it compile nothing."""
    works = compared(suite)
    peer = PEERS["inductor"]
    (option,) = peer.options(works[torch.float64], 1)
    assert errors(peer, works, option, reference(works[torch.float64]))["error_float64"] < 1e-10


def uncompiled(graph, inputs, options):
    """In Inductor's place: the recorded graph as it is."""
    assert options["cpp.threads"] == torch.get_num_threads() == 1
    assert [tuple(tensor.shape) for tensor in inputs]
    return graph


@SUITE
def test_inductor_gets_a_graph_of_the_whole_meta_gradient(suite, monkeypatch):
    monkeypatch.setattr("torch._inductor.compile", uncompiled)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        works, peer = compared(suite), PEERS["inductor"]
        (option,) = peer.options(works[torch.float64], 1)
        assert option == (1, "vmap" if suite.name == "sinusoid" else "loop")
        assert errors(peer, works, option, reference(works[torch.float64]))["error_float64"] < 1e-10
    finally:
        torch.set_num_threads(threads)


def test_inductor_compiles_once_for_each_number_of_threads(monkeypatch):
    given = []

    def count(graph, inputs, options):
        given.append(options["cpp.threads"])
        return graph

    monkeypatch.setattr("torch._inductor.compile", count)
    work, peer = Work.of(TINY["sinusoid"]), PEERS["inductor"]
    for option in peer.options(work, 2):
        prepared = peer.prepare(work, option)
        first, second = prepared.run(), prepared.run()
        assert all(torch.equal(first[name], second[name]) for name in work.params)
    assert given == [1, 2]


def test_inductor_is_left_out_with_its_reason_where_it_compiles_nothing(monkeypatch):
    def fail(graph, inputs, options):
        raise RuntimeError("\nno valid C++ compiler\nmore lines")

    monkeypatch.setattr("torch._inductor.compile", fail)
    result = run_suite(TINY["omniglot"], [LOOP, PEERS["inductor"]], Settings(threads=1, pairs=1, memory=False))
    assert [row["name"] for row in result["results"]] == ["loop"]
    reason = "Inductor does not compile the graph (RuntimeError: no valid C++ compiler)"
    assert result["left_out"] == [{"name": "inductor", "reason": reason}]


def test_second_order_counts_in_the_reference():
    """Or a competitor could leave it out and agree."""
    works = compared(TINY["sinusoid"])
    work = works[torch.float64]
    first_order = {name: torch.zeros_like(value) for name, value in work.params.items()}
    for episode in work.tasks():
        leaf = {name: value.clone().requires_grad_() for name, value in work.params.items()}
        inner = torch.autograd.grad(work.inner(leaf, episode.support), list(leaf.values()))
        moved = {
            name: (value - work.suite.lr * step).detach().requires_grad_()
            for (name, value), step in zip(leaf.items(), inner, strict=True)
        }
        outer = torch.autograd.grad(work.outer(moved, episode.query), list(moved.values()))
        first_order = {name: first_order[name] + part for name, part in zip(moved, outer, strict=True)}
    assert relative_error(first_order, reference(work)) > 1e-2


class Wrong:
    """The plain loop with one number of its gradient changed."""

    name = "wrong"

    def options(self, work, threads):
        return LOOP.options(work, threads)

    def prepare(self, work, option):
        right = LOOP.prepare(work, option)

        def run():
            gradient = right.run()
            first = next(iter(gradient))
            return gradient | {first: gradient[first] * 1.001}

        return Prepared(run=run)


class Absent(Wrong):
    """A library that is not there."""

    name = "absent"

    def prepare(self, work, option):
        raise LeftOut("not installed")


def test_who_disagrees_or_is_absent_is_named_and_not_timed():
    said = []
    settings = Settings(threads=1, pairs=1, memory=False)
    result = run_suite(TINY["sinusoid"], [LOOP, Wrong(), Absent()], settings, {"1": 50.0}, said.append)
    assert [row["name"] for row in result["results"]] == ["loop"]
    assert [one["name"] for one in result["left_out"]] == ["wrong", "absent"]
    assert "expected the reference's gradient to 1e-06" in result["left_out"][0]["reason"]
    assert any("wrong is left out" in line for line in said)


def test_a_gradient_that_is_not_finite_disagrees(monkeypatch):
    works = compared(TINY["sinusoid"])
    monkeypatch.setattr(agreement, "relative_error", lambda *_: math.nan)
    with pytest.raises(LeftOut, match="nan off"):
        errors(LOOP, works, ONE, reference(works[torch.float64]))


def test_the_fastest_option_by_the_turns_counts():
    entries = {
        name: _Entry(competitor=LOOP, option=ONE, seconds=warm, strategy="", runner=None, errors={})
        for name, warm in (("one", 1.0), ("two", 2.0))
    }
    assert list(_fastest(entries, {"one": [9.0, 9.0, 1.0], "two": [2.0, 2.0, 2.0]})) == ["two"]


def test_competitors_take_turns():
    order = []
    ticks = itertools.count()

    def runner(name, **options):
        return Runner(before=lambda: order.append(f"set {name}"), run=lambda: order.append(name), **options)

    runners = {"a": runner("a", rounds=3), "b": runner("b", rounds=2, calls=2), "c": runner("c", rounds=1)}
    times = alternate(runners, clock=lambda: float(next(ticks)))
    a, b, c = ["set a", "a"], ["set b", "b", "b"], ["set c", "c"]
    assert order == [*a, *b, *c, *a, *b, *a]
    assert times == {"a": [1.0] * 3, "b": [0.5] * 2, "c": [1.0]}


def test_the_command_prints_one_object(capsys, monkeypatch):
    # A process for each row, with empty caches, would compile in each.
    monkeypatch.setattr("benchmarks.run.fresh", lambda *_: Fresh(1.0, 2.0))
    words = ["sinusoid", "--json", "--threads", "1", "--pairs", "2", "--peers", "loop", "--strategies", "trace"]
    assert main(words, TINY) == 0
    out = json.loads(capsys.readouterr().out)
    assert {"suite", "hardware", "peak_gflops", "results", "versions", "threads", "allocation"} <= out.keys()
    assert out["suite"] == "sinusoid"
    assert out["peak_gflops"] == out["peaks"]["1"]
    assert [row["name"] for row in out["results"]] == ["metaray", "metaray (trace)", "loop"]
    keys = {"name", "tasks_per_second", "milliseconds", "peak_memory_mb", "ratio_to_loop", "peak_fraction"}
    for row in out["results"]:
        assert keys <= row.keys()
        assert row["milliseconds_min"] <= row["milliseconds"] <= row["milliseconds_max"]
        assert row["pairs"] == 2
        assert (row["peak_memory_mb"], row["first_call_seconds"]) == (1.0, 2.0)
        assert row["error_float64"] < 1e-6
    assert out["results"][-1]["ratio_to_loop"] == 1.0


@pytest.mark.nightly
def test_the_command_prints_a_table_and_keeps_a_record(capsys, tmp_path):
    words = ["navigation", "omniglot", "--threads", "1", "--pairs", "1", "--peers", "", "--no-memory", "--record"]
    assert main([*words, "--records", str(tmp_path)], {name: TINY[name] for name in ("navigation", "omniglot")}) == 0
    table = capsys.readouterr().out
    assert "tasks/s" in table
    assert "loop" in table
    (path,) = tmp_path.glob("*.json")
    assert [suite["suite"] for suite in json.loads(path.read_text())["suites"]] == ["navigation", "omniglot"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["omniglot_51"], "did you mean 'omniglot_15'?"),
        (["sinusoid", "--peers", "jaxx"], "did you mean 'jax'?"),
        (["sinusoid", "--strategies", "vmapp"], "did you mean 'vmap'?"),
        (["sinusoid", "--threads", "0"], "threads: expected 1 to"),
        (["sinusoid", "--pairs", "0"], "pairs: expected at least 1"),
    ],
)
def test_wrong_usage_is_told_and_leaves_with_two(capsys, words, message):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_the_peak_is_a_rate():
    assert set(peaks(1)) == {"1"}
    assert all(value > 0 for value in peaks(1).values())


def test_a_child_process_answers_and_tells_its_error():
    assert in_child(math.sqrt, 9.0) == 3.0
    with pytest.raises(RuntimeError, match="ValueError"):
        in_child(math.sqrt, -1.0)


def test_first_calls_are_measured_in_a_fresh_process():
    found = fresh(LOOP, TINY["sinusoid"], ONE)
    assert found.seconds > 0
    assert found.megabytes >= 0


def test_caches_are_empty_and_given_back(monkeypatch):
    monkeypatch.setenv("METARAY_CACHE", "before")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with empty_caches():
        assert cache_folder() != Path("before")
        assert not cache_folder().exists()
        assert not Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).exists()
    assert cache_folder() == Path("before")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_cores_are_given_back():
    before = available_cores()
    with cores(1):
        assert available_cores() == 1
    assert available_cores() == before


def test_benchmarks_import_neither_ray_nor_mlflow():
    code = (
        "import sys, benchmarks.__main__, benchmarks.run; "
        "sys.exit(bool({'ray', 'mlflow', 'pyarrow', 'rich', 'typer', 'cluster', 'jax'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_unknown_strategy_is_left_out():
    with pytest.raises(LeftOut, match="expected a strategy of auto, "):
        Metaray("none").prepare(Work.of(TINY["sinusoid"]), ONE)


def test_competitors_are_named_once():
    names = [one.name for one in competitors(["trace", "trace", "auto"])]
    assert names == ["metaray", "metaray (trace)", *PEERS]
