"""The ranking of a search: by validation, then the best few on tasks that have chosen nothing yet."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cluster.errors import MetarayError
from cluster.runs import checkpoint as checkpoints
from cluster.search.folder import SearchFolder
from cluster.search.ranking import rank
from cluster.search.settings import Search, load
from cluster.search.trial import train_trial
from cluster.search.trials import Trial
from cluster.setups.build import build
from cluster.workers.messages import ScoresRequest, TaskRange
from cluster.workers.worker import Worker
from helpers.folders import make_search

FAMILY = '''
from dataclasses import dataclass
from tasks.sinusoid import Sinusoid

DRAWN = []


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """Sinusoids that write down which tasks are drawn."""

    @property
    def spec(self):
        return Sinusoid(shot=4, query=3).spec

    def draw(self, key):
        DRAWN.append((key.split, key.index))
        return Sinusoid(shot=4, query=3).draw(key)
'''
BASE: Mapping[str, Any] = {
    "task": {"family": "recorded_family:Recorded"},
    "model": {"name": "mlp", "hidden": [6], "init_std": None},
    "inner": {"lr": 0.05, "steps": 1},
    "outer": {"lr": 0.02, "steps": 4},
    "meta_batch": 4,
    "shard": 2,
    "engine": "loop",
    "eval": {"steps": [0, 1, 2], "every": 2, "val_tasks": 5},
    "cluster": {"workers": 0},
}
RATES = (0.02, 0.1, 1e-4, 0.3)  # the first is the base's own


class Found:
    """A search whose trials have been trained, and the tasks that were drawn for it."""

    def __init__(self, search: Search, folder: SearchFolder, rates: tuple[float, ...]) -> None:
        self.search, self.folder = search, folder
        self.drawn: list[tuple[str, int]] = importlib.import_module("recorded_family").DRAWN
        self.drawn.clear()
        for number, rate in enumerate(rates):
            values, path = {"outer.lr": rate}, folder.run(number).path
            status, error = train_trial(search, values, f"trial{number}", path, None, lambda *_: None)
            trial = Trial(number=number, values=values, status=status, error=error)
            folder.write(folder.refreshed(trial, search.settings.metric, higher=False))
        self.before = set(self.drawn)
        self.drawn.clear()

    def scores(self, number: int, tasks: range) -> np.ndarray:
        """Scores of a trial's best θ on validation tasks, as a worker of its own finds them."""
        run = self.folder.run(number)
        setup = build(run.config)
        _, state = checkpoints.chosen(run.checkpoints)
        request = ScoresRequest(
            step=0,
            shard=0,
            tasks=TaskRange(split="val", start=tasks.start, stop=tasks.stop),
            inner_steps=(self.search.inner_steps,),
        )
        return Worker(build(run.config)).run(request, setup.layout.flatten(state.params).numpy()).scores[:, 0]


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Train the trials of a small search in this process; keywords change the section ``search``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recorded_family.py").write_text(FAMILY)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**BASE}))

    def make(rates: tuple[float, ...] = RATES, **changes: Any) -> Found:
        section = {
            "base": "base.yaml",
            "space": {"outer.lr": {"loguniform": [1e-5, 1.0]}},
            "metric": "val/mse_1",
            "trials": len(rates),
            "confirm": 2,
            "confirm_tasks": 7,
        }
        (tmp_path / "search.yaml").write_text(yaml.safe_dump({"search": section | changes}))
        search = load(tmp_path / "search.yaml")
        return Found(search, make_search(search, "one"), rates)

    return make


def test_a_search_confirms_on_validation_tasks_that_chose_nothing(found):
    one = found()
    assert {("val", index) for index in range(5)} <= one.before
    rank(one.search, one.folder, higher=False)
    fresh = set(one.drawn)
    assert fresh
    assert {split for split, _ in fresh} == {"val"}
    assert not fresh & one.before


def test_what_is_confirmed_is_each_trials_best_theta_on_those_tasks(found):
    one = found(metric="val/mse_2")
    result = rank(one.search, one.folder, higher=False)
    indices = [index for _, index in one.drawn]
    tasks = range(min(indices), max(indices) + 1)
    assert len(result.confirmed) >= 2
    for number, scores in result.confirmed.items():
        assert len(scores) >= 7
        expected = one.scores(number, tasks)
        assert all(np.isclose(score, expected, rtol=1e-5).any() for score in scores)


def test_the_best_few_by_validation_and_the_base_are_looked_at_again(found):
    one = found()
    by_validation = sorted(one.folder.trials(), key=lambda trial: trial.value or 0.0)
    result = rank(one.search, one.folder, higher=False)
    assert set(result.confirmed) == {by_validation[0].number, by_validation[1].number, 0}
    assert result.base == 0
    assert [trial.number for trial in result.trials] == [0, 1, 2, 3]
    means = {number: scores.mean() for number, scores in result.confirmed.items()}
    assert result.order[0] == result.best.number == min(means, key=lambda number: means[number])
    worst_first = rank(one.search, one.folder, higher=True)
    assert by_validation[-1].number in worst_first.confirmed


def test_what_a_search_prints_agrees_with_its_folder(found):
    one = found()
    result = rank(one.search, one.folder, higher=False)
    plain = result.as_json()
    best = result.best
    assert plain["metric"] == "val/mse_1"
    assert plain["base"] == 0
    assert plain["search_dir"] == str(one.folder.path)
    assert plain["run_id"] is None
    assert plain["warnings"] == []
    assert {int(number) for number in plain["confirmed"]} == set(result.confirmed)
    assert plain["best"]["trial"] == best.number
    assert plain["best"]["confirmed"] == plain["confirmed"][str(best.number)]
    assert plain["best"]["confirmed"]["mean"] == pytest.approx(result.confirmed[best.number].mean())
    for trial, row in zip(result.trials, plain["trials"], strict=True):
        assert (row["trial"], row["status"], row["error"]) == (trial.number, "finished", None)
        assert row["values"] == {"outer.lr": RATES[trial.number]}
        assert row["config"]["outer"]["lr"] == RATES[trial.number]
        assert row["run_dir"] == str(one.folder.run(trial.number).path)
        assert (row["value"], row["steps"]) == (trial.value, 4)
        assert row["value"] == pytest.approx(float(one.scores(trial.number, range(5)).mean()), rel=1e-5)
    second = result.order[1]
    assert plain["lead"]["over"] == second
    difference = result.confirmed[second].mean() - result.confirmed[best.number].mean()
    assert plain["lead"]["mean"] == pytest.approx(difference)
    if best.number != 0:
        assert plain["gain"]["over"] == 0


def test_a_trial_that_takes_over_goes_on_from_there_under_its_own_values(found):
    one = found(rates=(0.02,))
    state = checkpoints.load(one.folder.run(0).checkpoints, checkpoints.step_name(2))
    run = one.folder.run(1)
    status, error = train_trial(one.search, {"outer.lr": 0.07}, "other", run.path, state, lambda *_: None)
    assert (status, error) == ("finished", None)
    assert {index for split, index in one.drawn if split == "train"} == set(range(8, 16))  # steps 2 and 3
    newest = checkpoints.newest(run.checkpoints)
    assert newest is not None
    assert newest.step == 4
    assert newest.config["outer"]["lr"] == 0.07
    first = json.loads(run.metrics_path.read_text().splitlines()[0])
    assert (first["step"], first["values"]) == (2, {"search/outer.lr": 0.07})


def test_a_search_without_a_finite_score_says_what_became_of_its_trials(found):
    one = found(rates=(1e3, 1e4))
    with pytest.raises(MetarayError, match=r"none of 2 trials came to a finite val/mse_1 \(trial 0 diverged"):
        rank(one.search, one.folder, higher=False)
