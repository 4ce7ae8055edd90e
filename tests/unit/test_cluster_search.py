"""Searches without Ray: files, spaces, points, records, rankings."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.errors import ConfigError
from cluster.evaluation.scores import difference
from cluster.evaluation.summary import interval
from cluster.search.board import Board
from cluster.search.confirm import ranked
from cluster.search.folder import SearchFolder, find
from cluster.search.points import base_number, points, total
from cluster.search.settings import Search, load, reload
from cluster.search.space import Domain, Space
from cluster.search.tpe import Suggestions
from cluster.search.trials import Trial, scores
from helpers.folders import make_search

ROOT = Path(__file__).parents[2]
BASE = {
    "task": {"family": "sinusoid", "shot": 5, "query": 5},
    "model": {"name": "mlp", "hidden": [20, 20]},
    "inner": {"lr": 0.01},
    "outer": {"lr": 0.001, "steps": 900},
    "meta_batch": 4,
    "eval": {"steps": [0, 1, 5], "every": 100},
    "cluster": {"workers": 0},
}
SEARCH = {
    "base": "base.yaml",
    "space": {"inner.lr": {"loguniform": [0.001, 0.1]}, "outer.lr": {"loguniform": [0.0001, 0.01]}},
    "metric": "val/mse_5",
    "trials": 9,
}


@pytest.fixture
def search_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a search file and its base; keywords change the section ``search``, ``also`` adds other sections."""

    def write(also: dict[str, Any] | None = None, drop: tuple[str, ...] = (), **changes: Any) -> Path:
        section = {key: value for key, value in {**SEARCH, **changes}.items() if key not in drop}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(BASE))
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump({"search": section, **(also or {})}))
        return path

    return write


@pytest.fixture
def search(search_file: Callable[..., Path]) -> Callable[..., Search]:
    return lambda **changes: load(search_file(**changes))


@pytest.mark.parametrize("path", sorted((ROOT / "tune_configs" / "search").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_search_loads_and_its_first_trials_are_valid(path, make_store: Callable[..., Path]):
    # Data sets are not here: any store of images of the right kind has the same keys.
    name = yaml.safe_load(path.read_text())["search"]["base"]
    needs_data = "root" in yaml.safe_load((path.parent / name).read_text())["task"]
    loaded = load(path, [f"task.root={make_store((28, 28, 1), 40)}"] if needs_data else [])
    for point in points(loaded)[:5] if loaded.settings.searcher != "tpe" else [loaded.base_values]:
        loaded.config(point)


@given(st.floats(1e-9, 1e3), st.floats(1.001, 1e6), st.floats(0, 1, exclude_max=True))
def test_a_number_lies_between_its_bounds(low, factor, share):
    high = low * factor
    for domain in (Domain(loguniform=(low, high)), Domain(uniform=(low, high))):
        value = domain.at(share)
        assert low <= value <= high
        assert domain.holds(value)
        assert value in (low, high) or value == float(f"{value:.4g}")


@given(st.integers(-50, 50), st.integers(1, 20), st.integers(0, 10_000))
def test_all_integers_are_reached_equally_often(low, more, offset):
    domain = Domain(randint=(low, low + more))
    count = 12 * (more + 1)
    drawn = [domain.at((number + offset / 10_001) / count) for number in range(count)]
    assert {value: drawn.count(value) for value in set(drawn)} == dict.fromkeys(range(low, low + more + 1), 12)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "received none"),
        ({"uniform": [0, 1], "choice": [1]}, "uniform and choice"),
        ({"uniform": [1, 0]}, "the lower one first"),
        ({"loguniform": [0, 1]}, "positive"),
        ({"uniform": [0, math.inf]}, "finite"),
        ({"uniforme": [0, 1]}, "Extra inputs"),
        ({"choice": []}, "at least 1 item"),
    ],
)
def test_domains_that_make_no_sense(given_, said):
    with pytest.raises(ValidationError, match=said):
        Domain(**given_)


def test_a_grid_is_tried_whole_and_in_order():
    space = Space({"a": Domain(grid=(1, 2)), "b": Domain(choice=("x", "y")), "c": Domain(randint=(0, 1))})
    assert len(space.grid()) == 8
    assert space.grid()[:3] == [{"a": 1, "b": "x", "c": 0}, {"a": 1, "b": "x", "c": 1}, {"a": 1, "b": "y", "c": 0}]


@pytest.mark.parametrize("searcher", ["random", "quasi_random"])
def test_points_are_the_base_and_then_a_function_of_seed_and_number(search, searcher):
    few, many = (search(searcher=searcher, trials=trials) for trials in (5, 40))
    assert points(many)[0] == {"inner.lr": 0.01, "outer.lr": 0.001}
    assert points(many)[:5] == points(few)
    assert len(points(many)) == total(many) == 40
    assert len({tuple(point.values()) for point in points(many)}) == 40
    assert points(search(searcher=searcher, trials=40, seed=1))[1:] != points(many)[1:]
    assert all(many.space.holds(point) for point in points(many))


def test_quasi_random_points_leave_no_large_holes(search):
    found = points(search(searcher="quasi_random", trials=33))[1:]
    cells = {
        (int(4 * (math.log10(p["inner.lr"]) + 3) / 2), int(4 * (math.log10(p["outer.lr"]) + 4) / 2)) for p in found
    }
    assert len(cells) == 16  # 32 points of a Sobol' sequence put two into each of 4 × 4 cells


def test_a_base_outside_of_the_space_is_no_trial(search):
    outside = search(space={"inner.lr": {"uniform": [0.1, 0.2]}})
    assert all(0.1 <= point["inner.lr"] <= 0.2 for point in points(outside))
    assert len(points(outside)) == 9


def test_what_is_judged_by_also_picks_the_best(search):
    found = search()
    config = found.config({"inner.lr": 0.05})
    assert config.inner.lr == 0.05
    assert config.select_steps == found.inner_steps == 5
    assert config.checkpoint.every == 100  # no later than what is reported
    assert config.eval.baselines == ()


def test_sections_beside_the_search_change_the_base(search_file):
    changed = load(search_file(also={"outer": {"steps": 300}, "eval": {"every": 50}}), ["outer.lr=0.002"])
    assert changed.base.outer.steps == 300
    assert changed.base.outer.lr == 0.002
    assert changed.base.meta_batch == 4


def test_keys_of_the_outer_step_are_searched_where_the_base_has_a_name_alone(search_file, tmp_path):
    space = {
        "outer.optimizer.weight_decay": {"loguniform": [0.001, 0.1]},
        "outer.optimizer.groups.head.lr": {"choice": [0.1, 0.2]},
        "outer.schedule.warmup": {"randint": [0, 30]},
        "outer.clip_norm": {"uniform": [1, 10]},
        "outer.ema": {"choice": [0.9, 0.99]},
    }
    groups = {"head": {"patterns": "layer2.*"}}
    also = {"outer": {"schedule": "cosine", "optimizer": {"weight_decay": 0.002, "groups": groups}}}
    found = load(search_file(space=space, also=also))
    for point in points(found):
        outer = found.config(point).outer
        assert outer.optimizer.params["weight_decay"] == point["outer.optimizer.weight_decay"]
        assert outer.optimizer.groups["head"].lr == point["outer.optimizer.groups.head.lr"]
        assert (outer.schedule.name, outer.schedule.params["warmup"]) == ("cosine", point["outer.schedule.warmup"])
        assert (outer.clip_norm, outer.ema) == (point["outer.clip_norm"], point["outer.ema"])
    path = tmp_path / "elsewhere" / "search.yaml"
    path.parent.mkdir()
    path.write_text(found.to_yaml())
    again = reload(path)
    assert [again.config(point) for point in points(again)] == [found.config(point) for point in points(found)]


def test_whole_optimizers_are_searched_and_the_base_is_one_of_them(search_file):
    choices = [{"name": "sgd", "momentum": 0.9}, "adam", "Adagrad"]
    found = load(search_file(space={"outer.optimizer": {"choice": choices}}))
    assert points(found)[0] == {"outer.optimizer": "adam"}
    assert base_number(found) == 0
    names = [found.config({"outer.optimizer": choice}).outer.optimizer.name for choice in choices]
    assert names == ["sgd", "adam", "adagrad"]


def test_sections_of_a_search_add_to_a_base_with_names_alone(search_file, tmp_path):
    path = search_file(also={"outer": {"optimizer": {"momentum": 0.5}, "schedule": {"warmup": 5}}})
    base = {**BASE, "outer": {**BASE["outer"], "optimizer": "sgd", "schedule": "cosine"}}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    outer = load(path).base.outer
    assert (outer.optimizer.name, outer.optimizer.params["momentum"]) == ("sgd", 0.5)
    assert (outer.schedule.name, outer.schedule.params["warmup"]) == ("cosine", 5)


def test_a_search_is_the_same_from_its_own_record(search_file, tmp_path):
    found = load(search_file(searcher="quasi_random"))
    path = tmp_path / "elsewhere" / "search.yaml"
    path.parent.mkdir()
    path.write_text(found.to_yaml())
    again = reload(path)
    assert points(again) == points(found)
    assert again.base == found.base
    assert again.settings == found.settings
    assert reload(path, ["search.trials=12", "search.at_once=1"]).settings.trials == 12
    with pytest.raises(ConfigError, match=r"inner\.steps"):
        reload(path, ["inner.steps=3"])
    with pytest.raises(ConfigError, match="scheduler"):
        reload(path, ["search.scheduler=none"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"inner.lrr": {"uniform": [0, 1]}}}, r"search\.space: inner\.lrr: unknown key; did you mean 'lr'"),
        ({"space": {"iner.lr": {"uniform": [0, 1]}}}, "iner: unknown key; did you mean 'inner'"),
        ({"space": {"model.hiden": {"choice": [[20]]}}}, "did you mean 'hidden'"),
        ({"space": {"inner.lr": {"uniform": [-1, 1]}}}, "greater than or equal to 0"),
        ({"space": {"inner.lr": {"log_uniform": [0.1, 1]}}}, r"search\.space\.inner\.lr\.log_uniform: unknown key"),
        ({"space": {"algorithm": {"choice": ["maml", "mamll"]}}}, "did you mean 'maml'"),
        ({"space": {"outer.steps": {"choice": [1, 2]}}}, "outer.steps is what schedulers shorten"),
        (
            {"space": {"outer.optimizer.name": {"choice": ["adam", "sgd"]}}},
            "search whole values, outer.optimizer: {choice",
        ),
        ({"space": {"outer.optimizer.momentum": {"uniform": [0, 1]}}}, "outer.optimizer.momentum: unknown key"),
        ({"space": {"outer.optimizer.weight_decay": {"uniform": [-1, 1]}}}, "Invalid weight_decay value: -1.0"),
        ({"space": {"eval.tasks": {"choice": [10, 20]}}}, "keys that change θ"),
        ({"space": {}}, "at least 1 item"),
        ({"metric": "val/mse_3"}, r"expected one that trials report \(val/mse_0, val/mse_1, val/mse_5\)"),
        ({"metric": "val/accuracy_5"}, "did you mean 'val/mse_5'"),
        ({"metric": "train/loss"}, "expected one that trials report"),
        ({"searcher": "grid"}, "is a continuum"),
        ({"searcher": "bayes"}, "'random', 'grid', 'tpe' or 'quasi_random'"),
        ({"space": {"seed": {"grid": [1, 2]}}}, "set searcher: grid"),
        ({"drop": ("trials",)}, "trials: missing"),
        ({"scheduler": "pbt", "space": {"model.hidden": {"choice": [[20]]}}}, "while θ is trained"),
        ({"scheduler": "pbt", "searcher": "tpe"}, "expected random with scheduler: pbt"),
        ({"grace": 950}, "at most outer.steps"),
        ({"grace": 50}, "at least eval.every"),
        ({"base": "bse.yaml"}, "found none; did you mean"),
        ({"alias": "champion"}, "only with register_as"),
        ({"also": {"eval": {"every": 0}}}, "eval.every: a search judges by validation"),
    ],
)
def test_searches_that_cannot_be(search, changes, said):
    with pytest.raises(ConfigError, match=said):
        search(**changes)


def test_a_file_without_a_search(tmp_path):
    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump(BASE))
    with pytest.raises(ConfigError, match="expected a section 'search'"):
        load(path)


def test_suggestions_come_from_the_results_and_only_from_them(search):
    found = search(searcher="tpe", trials=60)
    suggestions = Suggestions(found, higher_is_better=False)
    assert suggestions.suggest(0, []) == {"inner.lr": 0.01, "outer.lr": 0.001}

    def loss(values: dict[str, float]) -> float:
        return (math.log10(values["inner.lr"]) + 1.5) ** 2 + (math.log10(values["outer.lr"]) + 3) ** 2

    trials: list[Trial] = []
    for number in range(40):
        values = suggestions.suggest(number, trials)
        assert found.space.holds(values)
        bad = number % 7 == 3
        status: Any = "diverged" if bad else "stopped" if number % 5 == 2 else "finished"
        score = None if bad else loss(values)
        trials.append(
            Trial(number=number, values=values, status=status, value=score, steps=300, history=((300, loss(values)),))
        )
    assert suggestions.suggest(40, trials) == Suggestions(found, higher_is_better=False).suggest(40, trials[::-1])
    late = np.median([loss(dict(trial.values)) for trial in trials[25:]])
    assert late < 0.5 * np.median([loss(point) for point in points(search(trials=60))])


def test_categories_and_integers_are_suggested_too(search):
    space = {
        "model.hidden": {"choice": [[20], [40, 40]]},
        "inner.steps": {"randint": [1, 3]},
        "algorithm": {"choice": ["maml", "fomaml"]},
    }
    found = search(searcher="tpe", space=space, trials=30)
    suggestions = Suggestions(found, higher_is_better=True)
    trials: list[Trial] = []
    for number in range(16):
        values = suggestions.suggest(number, trials)
        found.config(values)
        trials.append(Trial(number=number, values=values, status="finished", value=float(number), history=()))
    assert {trial.values["inner.steps"] for trial in trials} == {1, 2, 3}
    assert {trial.values["algorithm"] for trial in trials} == {"maml", "fomaml"}


def test_a_trial_is_read_as_it_was_written(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_search(search(), "one")
    trial = Trial(number=3, values={"inner.lr": 0.1}, history=((100, 1.5), (200, None)), steps=200, value=1.5)
    folder.write(trial)
    assert folder.read(3) == trial
    assert [one.number for one in folder.trials()] == [3]
    assert find("one").path == folder.path == tmp_path / "runs" / "one"
    with pytest.raises(ConfigError, match="expected a search's folder"):
        find("two")


def test_scores_are_those_of_the_run_itself(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_search(search(), "one")
    folder.write(Trial(number=0, values={}))
    lines = [
        {"step": 100, "time": 0, "values": {"val/mse_5": 2.0, "val/mse_0": 9.0}},
        {"step": 150, "time": 0, "values": {"train/loss": 1.0}},
        {"step": 200, "time": 0, "values": {"val/mse_5": None}},
        {"step": 300, "time": 0, "values": {"val/mse_5": 3.0}},
    ]
    run = folder.run(0)
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 400, "val')
    assert scores(run, "val/mse_5") == [(100, 2.0), (200, None), (300, 3.0)]
    refreshed = folder.refreshed(folder.read(0), "val/mse_5", higher=False)
    assert (refreshed.value, refreshed.steps) == (2.0, 300)
    assert folder.refreshed(folder.read(0), "val/mse_5", higher=True).value == 3.0


def test_a_difference_is_taken_task_by_task():
    rng = np.random.Generator(np.random.Philox(key=[0, 0]))
    hard = rng.normal(size=400) * 10
    better, worse = hard + 1 + rng.normal(size=400), hard
    paired = difference(better, worse, paired=True, higher_is_better=True)
    apart = difference(better, worse, paired=False, higher_is_better=True)
    assert paired is not None
    assert apart is not None
    assert paired["mean"] == pytest.approx(apart["mean"])
    assert paired["mean"] - paired["ci95"] > 0 > apart["mean"] - apart["ci95"]
    assert paired["ci95"] == pytest.approx(1.96 * (better - worse).std(ddof=1) / 20)
    assert apart["ci95"] == pytest.approx(1.96 * math.sqrt((better.var(ddof=1) + worse.var(ddof=1)) / 400))
    errors = difference(worse, better, paired=True, higher_is_better=False)
    assert errors is not None
    assert errors["mean"] == pytest.approx(paired["mean"])
    assert difference(better, np.full(400, math.inf), paired=True, higher_is_better=True) is None


def test_trials_rank_by_their_mean_and_those_without_come_last():
    found = {4: np.array([1.0, 3.0]), 2: np.array([1.0, math.nan]), 7: np.array([0.0, 1.0]), 1: np.array([0.5, 0.5])}
    assert list(ranked(found, higher_is_better=True)) == [4, 1, 7, 2]
    assert list(ranked(found, higher_is_better=False)) == [1, 7, 4, 2]
    assert interval(found[2]) == {"mean": None, "ci95": None}
    assert interval(found[4]) == {"mean": 2.0, "ci95": pytest.approx(12.7062, rel=1e-5)}  # t of one degree of freedom


def test_the_board_says_how_the_search_stands():
    from rich.console import Console

    console = Console(record=True, width=200, force_terminal=False)
    board = Board(console, "val/mse_5", ["inner.lr"], 4, 300, higher=False)
    one = Trial(number=0, values={"inner.lr": 0.01}, status="finished", steps=300, value=0.5)
    board.update(one)
    board.update(dataclasses.replace(one, number=1, values={"inner.lr": 0.02}, value=0.4))
    board.update(Trial(number=2, values={"inner.lr": 1.0}, status="diverged"))
    board.update(Trial(number=3, values={"inner.lr": 0.05}, steps=100, value=0.9, status="running"))
    assert board.line() == (
        "search: 3 of 4 trials over (1 diverged), 3 under way; best val/mse_5 0.4 in trial 1 (inner.lr 0.02)"
    )
    console.print(board.table())
    text = console.export_text()
    assert text.index("0.05") < text.index("0.02") < text.index("finished")
    assert "100/300" in text


def test_a_search_folder_is_absolute(search, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make_search(search(), "one").path.is_absolute()
    assert SearchFolder(tmp_path / "runs" / "one").info["name"] == "one"


def test_the_private_parts_of_ray_are_those_that_halving_uses() -> None:
    """Checked with Ray 2.60; another version may have moved them, and ``cluster/search/halving.py`` has to follow."""
    import ray

    from cluster.search.halving import SCORE, STEP, Halving

    settings = {"time_attr": STEP, "metric": SCORE, "mode": "max", "max_t": 9, "grace_period": 1, "brackets": 2}
    halving = Halving([], lambda value: value or 0.0, None, reduction_factor=3, stop_last_trials=False, **settings)
    said = f"Ray {ray.__version__}"
    assert halving._trial_info == {}, said
    assert [len(bracket._rungs) for bracket in halving._brackets] == [3, 2], said
    assert halving._bracket(0) in halving._brackets
