"""Comparisons without Ray: files, rows, budgets, the arithmetic of the table, clocks and peaks of memory."""

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from cluster.compare.check import require_comparable
from cluster.compare.clock import RATE, Clock, seconds_at
from cluster.compare.folder import CompareFolder, find, plan, plan_named
from cluster.compare.memory import peak_memory_mb
from cluster.compare.settings import Comparison, load, reload
from cluster.compare.table import advantage, over_seeds, row_figures, row_usage
from cluster.compare.trial import plain_scores, scores_of
from cluster.errors import ConfigError
from cluster.evaluation.intervals import Kinds
from meta.objectives import MSE

ROOT = Path(__file__).parents[2]
BASE = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [20, 20]},
    "inner": {"lr": 0.01},
    "outer": {"lr": 0.001, "steps": 900},
    "meta_batch": 4,
    "eval": {"steps": [0, 1, 5], "every": 100, "tasks": 20, "baselines": ["pretrain"]},
}
COMPARE = {
    "base": "base.yaml",
    "budget": {"steps": 300},
    "rows": {"maml": None, "first order": {"algorithm": "fomaml"}},
}


@pytest.fixture
def compare_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a comparison file and its base; keywords change the section ``compare``, ``also`` adds other sections."""

    def write(also: dict[str, Any] | None = None, drop: tuple[str, ...] = (), **changes: Any) -> Path:
        section = {key: value for key, value in {**COMPARE, **changes}.items() if key not in drop}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump({"compare": section, **(also or {})}, sort_keys=False))
        return path

    return write


@pytest.fixture
def comparison(compare_file: Callable[..., Path]) -> Callable[..., Comparison]:
    return lambda **changes: load(compare_file(**changes))


@pytest.mark.parametrize("path", sorted((ROOT / "tune_configs" / "compare").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_comparison_loads_and_its_rows_can_be_compared(path, make_store: Callable[..., Path]):
    # Data sets are not here: any store of images of the right kind has the same keys.
    name = yaml.safe_load(path.read_text())["compare"]["base"]
    needs_data = "root" in yaml.safe_load((path.parent / name).read_text())["task"]
    loaded = load(path, [f"task.root={make_store((28, 28, 1), 40, 24)}"] if needs_data else [])
    require_comparable(loaded)
    assert len({loaded.config({"row": row, "seed": 0}).to_yaml() for row in loaded.rows}) == len(loaded.rows)


def test_a_row_is_the_base_with_its_changes(comparison):
    rows = {
        "base": None,
        "dotted": {"inner.lr": 0.05, "model.hidden": [8]},
        "nested": {"inner": {"lr": 0.05, "steps": 2}},
    }
    compared = comparison(rows=rows)
    base, dotted, nested = (compared.config({"row": row, "seed": 7}) for row in rows)
    assert (base.inner.lr, base.outer.steps, base.seed, base.eval.baselines) == (0.01, 300, 7, ())
    assert base.cluster.workers == 0  # each trial computes in its own process
    assert base.checkpoint.every == 100  # no later than what is shown
    assert (dotted.inner.lr, dotted.inner.steps, dotted.model.params["hidden"]) == (0.05, 1, (8,))
    assert (nested.inner.lr, nested.inner.steps, nested.model.params["hidden"]) == (0.05, 2, (20, 20))
    assert nested.eval.steps == (0, 1, 2, 5)  # the score of a row is among those that are shown
    assert compared.metric({"row": "nested", "seed": 7}) == "val/mse_2"
    assert compared.changes("nested") == {"inner.lr": 0.05, "inner.steps": 2}


def test_a_section_that_names_another_class_is_replaced(comparison, monkeypatch, tmp_path):
    (tmp_path / "own_model_of_a_row.py").write_text(
        "from meta.models import MLP\nclass Narrow(MLP):\n"
        "    def __init__(self, inputs: tuple[int, ...], outputs: int, width: int):\n"
        "        super().__init__(inputs=inputs, outputs=outputs, hidden=(width,))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    compared = comparison(rows={"maml": {}, "own": {"model": {"name": "own_model_of_a_row:Narrow", "width": 3}}})
    assert compared.config({"row": "own", "seed": 0}).model.params == {"width": 3}
    require_comparable(compared)


def test_trials_are_all_rows_from_one_seed_and_then_from_the_next(comparison):
    compared = comparison(seeds=2, also={"seed": 5})
    rows = ["maml", "first order"]
    assert compared.points() == [{"row": row, "seed": seed} for seed in (5, 6) for row in rows]
    assert comparison(seeds=[9, 3]).seeds == [9, 3]


@pytest.mark.parametrize(
    ("budget", "steps", "words"),
    [
        ({"steps": 300}, 300, "300 outer steps"),
        ({"tasks": 800}, 200, "800 training tasks"),
        ({"seconds": 2.5}, 900, "2.5 seconds of training"),
    ],
)
def test_budgets(comparison, budget, steps, words):
    compared = comparison(budget=budget)
    assert compared.config({"row": "maml", "seed": 0}).outer.steps == steps
    assert str(compared.settings.budget) == words


def test_tasks_of_a_row_with_another_meta_batch(comparison):
    rows = {"four": {}, "eight": {"meta_batch": 8}}
    compared = comparison(budget={"tasks": 800}, rows=rows)
    assert [compared.config({"row": row, "seed": 0}).outer.steps for row in rows] == [200, 100]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bugdet": {"steps": 1}}, r"compare\.bugdet: unknown key; did you mean 'budget'"),
        ({"budget": {"stpes": 1}}, r"compare\.budget\.stpes: unknown key; did you mean 'steps'"),
        ({"budget": {}}, "expected exactly one of steps, tasks, seconds, received none"),
        ({"budget": {"steps": 3, "tasks": 4}}, "received steps and tasks"),
        ({"budget": {"tasks": 801}}, r"multiple of meta_batch, which is 4, such as 800, received 801"),
        ({"budget": {"seconds": 0}}, "greater than 0"),
        ({"drop": ("budget",)}, r"compare\.budget: missing"),
        ({"drop": ("rows",)}, r"compare\.rows: missing"),
        ({"rows": {}}, "at least 1 item"),
        ({"rows": {"x" * 41: {}}}, "at most 40 characters"),
        ({"rows": {"a": {"inner.lrr": 1}}}, r"compare\.rows\.a: inner\.lrr: unknown key; did you mean 'lr'"),
        ({"rows": {"a": {"inner": {"lrr": 1}}}}, r"compare\.rows\.a: inner\.lrr: unknown key; did you mean 'lr'"),
        ({"rows": {"a": {"iner.lr": 1}}}, r"compare\.rows\.a: iner: unknown key; did you mean 'inner'"),
        ({"rows": {"a": {"algorithm": "mamll"}}}, r"compare\.rows\.a: .*did you mean 'maml'"),
        ({"rows": {"a": {"inner.lr": -1}}}, r"compare\.rows\.a: inner\.lr: .*greater than or equal to 0"),
        ({"rows": {"a": {"outer": {"steps": 5}}}}, r"compare\.rows\.a: outer\.steps is the budget's"),
        ({"rows": {"a": {"seed": 5}}}, r"compare\.rows\.a: .*received 'seed', which is the same for all rows"),
        ({"rows": {"a": {"cluster.workers": 2}}}, r"received 'cluster\.workers'"),
        ({"rows": {"a": {"eval.tasks": 2}}}, r"received 'eval\.tasks'"),
        ({"rows": {"a": {"tracking": {"uri": "x"}}}}, r"received 'tracking\.uri'"),
        ({"seeds": 0}, r"compare\.seeds"),
        ({"seeds": [1, 1]}, "a list of different seeds"),
        ({"seeds": []}, "a list of different seeds"),
        ({"base": "bse.yaml"}, "found none; did you mean"),
    ],
)
def test_comparisons_that_cannot_be(comparison, changes, said):
    with pytest.raises(ConfigError, match=said):
        comparison(**changes)


def test_a_file_without_a_comparison(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(BASE))
    with pytest.raises(ConfigError, match="expected a section 'compare'"):
        load(path)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"task.shot": 7}, r"compare\.rows\.other: expected the test tasks of the first row"),
        ({"task.query": 6}, "expected the test tasks of the first row"),
        (
            {"task": {"family": "tabular"}, "model": {"name": "categorical"}},
            "other: expected the score",
        ),
    ],
)
def test_rows_with_other_scores_or_test_tasks_are_refused(comparison, row, said):
    with pytest.raises(ConfigError, match=said):
        require_comparable(comparison(rows={"maml": None, "other": row}))


def test_rows_may_differ_in_their_training_tasks(comparison):
    rows = {"maml": {"task.eval_shot": 5}, "more points": {"task": {"shot": 10, "eval_shot": 5}}}
    assert require_comparable(comparison(rows=rows)) is False


def test_a_comparison_is_the_same_from_its_own_record(compare_file, tmp_path):
    rows = {"maml": None, "first order": {"algorithm": "fomaml"}, "not cut": {"outer.clip_value": None}}
    compared = load(compare_file(seeds=2, rows=rows))
    path = tmp_path / "elsewhere" / "compare.yaml"
    path.parent.mkdir()
    path.write_text(compared.to_yaml())
    again = reload(path)
    assert again.settings == compared.settings
    assert again.points() == compared.points()
    for point in compared.points():
        assert again.config(point) == compared.config(point)
    longer = reload(path, ["compare.seeds=3", "compare.at_once=1"])
    assert longer.points()[:6] == compared.points()
    for change, said in [
        ("compare.budget={steps: 400}", r"compare\.budget\.steps: 300 there, 400 here"),
        ("inner.lr=0.02", r"inner\.lr"),
        ("eval.tasks=30", r"eval\.tasks"),
        ("compare.seeds=1", "more may be added at the end"),
        ("compare.rows.maml={inner.lr: 0.5}", r"compare\.rows\.maml"),
        ("compare.rows={first order: {algorithm: fomaml}, maml: {}, not cut: {outer.clip_value: null}}", "order"),
    ]:
        with pytest.raises(ConfigError, match=said):
            reload(path, [change])


def test_folders_are_found_by_path_and_name(comparison, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    compared = comparison()
    folder = plan(compared, "one")
    assert not folder.path.exists()
    folder.settle("compare.yaml", compared.to_yaml())
    assert find("one").path == find("runs/one").path == folder.path == tmp_path / "runs" / "one"
    assert isinstance(plan_named(compared, "one"), CompareFolder)
    with pytest.raises(ConfigError, match=r"compare\.budget"):
        plan_named(comparison(budget={"steps": 10}), "one")
    with pytest.raises(ConfigError, match="expected a comparison's folder"):
        find("two")


def test_means_and_intervals_over_seeds_and_tasks():
    # Seeds 0 and 1 have means 2 and 4; tasks have means 2, 3 and 4 over them. K: before adaptation, and after 1 step.
    after = np.array([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]])
    scores = [np.stack([np.full(3, 9.0), one], axis=1) for one in after]
    figures = row_figures(scores, [0, 1], MSE, None, [1])["1"]
    assert figures["mean"] == pytest.approx(3.0)
    assert figures["ci95"] == pytest.approx(stats.t.ppf(0.975, 2) * 1.0 / math.sqrt(3))
    assert figures["ci95_seeds"] == pytest.approx(stats.t.ppf(0.975, 1) * math.sqrt(2) / math.sqrt(2))
    assert (figures["median"], figures["diverged"]) == (3.0, 0)


def test_one_seed_has_no_interval_over_seeds_and_infinite_scores_no_mean():
    scores = [np.array([[1.0], [2.0]])]
    assert row_figures(scores, [1], MSE, None, [1])["1"]["ci95_seeds"] is None
    lost = row_figures([np.array([[1.0], [math.nan]]), *scores], [1], MSE, None, [1])["1"]
    assert (lost["mean"], lost["ci95"], lost["ci95_seeds"], lost["diverged"]) == (None, None, None, 1)


def test_kinds_of_tasks_are_weighted():
    kinds = Kinds.among(["a", "b"], ["a", "a", "a", "b", "b"])
    scores = [np.array([0.0, 0.0, 0.0, 6.0, 6.0]), np.array([0.0, 0.0, 0.0, 2.0, 2.0])]
    seeds = over_seeds(scores, kinds)
    assert seeds is not None
    assert seeds.mean == 2.0  # of 3 and 1, though most tasks are of the kind a


def test_differences_are_taken_task_by_task_and_seed_by_seed():
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    hardness, luck = 10 * rng.normal(size=40), (5 * rng.normal(size=3))[:, None]
    first = hardness + luck + np.zeros((3, 40))
    gain = 1 + 0.1 * rng.normal(size=(3, 40))
    figures = advantage(list(first + gain), list(first), higher_is_better=True, comparisons=4)
    assert figures is not None
    tasks, seeds = gain.mean(axis=0), gain.mean(axis=1)
    assert figures["mean"] == pytest.approx(gain.mean())
    assert figures["ci95"] == pytest.approx(stats.t.ppf(0.975, 39) * tasks.std(ddof=1) / math.sqrt(40))
    assert figures["ci95_seeds"] == pytest.approx(stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / math.sqrt(3))
    assert figures["corrected"] == pytest.approx(stats.t.ppf(1 - 0.025 / 4, 39) * tasks.std(ddof=1) / math.sqrt(40))
    assert figures["corrected_seeds"] > figures["ci95_seeds"]
    assert figures["sure"]
    errors = advantage(list(first + gain), list(first), higher_is_better=False, comparisons=4)
    assert errors is not None
    assert errors["mean"] == -figures["mean"]


@pytest.mark.parametrize(
    ("gains", "sure"),
    [
        ([[1.0, 1.1, 0.9], [1.0, 0.9, 1.1]], True),  # both ways far from zero
        ([[2.0, 2.1, 1.9], [0.1, 0.0, 0.2]], False),  # seeds differ
        ([[3.0, -1.0, 1.0], [3.0, -1.0, 1.0]], False),  # tasks differ
        ([[1.0, 1.1, 0.9]], False),  # one seed says nothing of others
    ],
)
def test_an_advantage_is_sure_by_tasks_and_by_seeds(gains, sure):
    rows = [np.array(one) for one in gains]
    figures = advantage(rows, [np.zeros(3)] * len(rows), higher_is_better=True)
    assert figures is not None
    assert figures["sure"] is sure


def test_no_difference_where_a_score_is_missing():
    assert advantage([np.array([1.0, math.inf])], [np.zeros(2)], higher_is_better=True) is None


def test_usage_of_a_row():
    runs = [
        {"steps": 10, "seconds": 2.0, "peak_memory_mb": 300.0, "parameters": 5},
        {"steps": 13, "seconds": 4.0, "peak_memory_mb": 200.0, "parameters": 5},
    ]
    assert row_usage(runs) == {"steps": 12, "seconds": 3.0, "peak_memory_mb": 300.0, "parameters": 5}


def test_scores_are_read_as_they_were_written():
    scores = np.array([[0.1, math.nan], [1 / 3, 2.0]])
    np.testing.assert_array_equal(scores_of(plain_scores(scores)), scores)
    assert plain_scores(np.array([[math.inf]])) == [[None]]


def test_a_clock_is_set_once_its_seconds_are_over():
    now = [100.0]
    clock = Clock(10.0, spent=4.0, now=lambda: now[0])
    endless = Clock(None, spent=4.0, now=lambda: now[0])
    assert not clock
    now[0] = 105.9
    assert not clock
    now[0] = 106.0
    assert clock
    assert not endless


def test_seconds_are_those_of_the_record_each_step_once():
    records = [
        {"step": 10, "values": {RATE: 5.0}},
        {"step": 10, "values": {"val/mse_1": 1.0}},
        {"step": 30, "values": {RATE: 4.0, "train/loss": 1.0}},
    ]
    assert seconds_at(records, [0, 10, 20, 30]).tolist() == [0.0, 2.0, 4.5, 7.0]
    assert seconds_at([], [5]).tolist() == [0.0]


PEAK = """
from cluster.compare.memory import peak_memory_mb
before = peak_memory_mb()
block = bytearray(300_000_000)
block[::4096] = b"x" * len(block[::4096])
del block
print(peak_memory_mb() - before)
"""


def test_the_peak_of_memory_outlasts_what_is_freed():
    done = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True, timeout=120, cwd=ROOT
    )
    assert 250 < float(done.stdout) < 350


def test_processes_that_are_no_workers_are_left_out():
    assert peak_memory_mb([1, 2**22 + 1]) == pytest.approx(peak_memory_mb(), rel=0.01)


def test_the_record_of_a_trial_names_row_and_seed(comparison, monkeypatch, tmp_path):
    from cluster.search.trials import Trial

    monkeypatch.chdir(tmp_path)
    compared = comparison()
    folder = plan(compared, "one")
    folder.settle("compare.yaml", compared.to_yaml())
    trial = Trial(number=1, values=compared.points()[1])
    folder.write(trial)
    assert folder.trials() == [trial]
    assert compared.kept_values(trial.values, {}) == trial.values
    assert compared.overview([dataclasses.replace(trial, status="finished")], higher=True) == {"comparison/over": 1.0}
    assert compared.plain(trial.values)["compare"] == {"row": "first order"}


def test_what_was_under_way_or_failed_goes_on(comparison, monkeypatch, tmp_path):
    from cluster.compare.run import recovered
    from cluster.search.trials import Trial

    monkeypatch.chdir(tmp_path)
    compared = comparison(seeds=3)
    folder = plan(compared, "one")
    folder.settle("compare.yaml", compared.to_yaml())
    for number, status in enumerate(("finished", "running", "running", "failed", "diverged")):
        folder.write(Trial(number=number, values=compared.points()[number], status=status, error="lost"))
    (folder.run(2).path / "outcome.json").write_text("{}")  # it was over, and could not say so any more
    trials = recovered(compared, folder, higher=False)
    assert [one.status for one in trials] == ["finished", "waiting", "finished", "waiting", "diverged", "waiting"]
    assert [one.values for one in trials] == compared.points()
    assert [one.error for one in trials] == ["lost", None, None, None, "lost", None]
