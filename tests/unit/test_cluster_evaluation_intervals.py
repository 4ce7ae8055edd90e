"""Intervals: Student's t where tasks are few, none for one task, means over kinds of task, and how often they hold."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.evaluation.intervals import MANY, NORMAL, Kinds, contrast, estimate, quantile
from cluster.evaluation.protocol import conditions, mean_in_words, rows
from cluster.evaluation.scores import difference, mean_score, with_baselines
from cluster.evaluation.summary import Scores, diverged_tasks, interval, summary
from cluster.registry.champion import paired
from cluster.reports.html import interval as shown
from cluster.search.ranking import Result
from meta.objectives import CROSS_ENTROPY, MSE, RETURN


def rng(number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[number, 0]))


# --- Student's t ---


@pytest.mark.parametrize("count", [2, 3, 5, 20, 40, 99, 100, 600])
def test_intervals_are_students_below_100_tasks(count: int) -> None:
    values = rng(count).normal(size=count)
    t = stats.t.ppf(0.975, count - 1) if count < 100 else 1.96
    half = t * values.std(ddof=1) / count**0.5
    assert interval(values) == {"mean": pytest.approx(values.mean()), "ci95": pytest.approx(half)}
    alone = difference(values, np.zeros(count), paired=True, higher_is_better=True)
    assert alone == {"mean": pytest.approx(values.mean()), "ci95": pytest.approx(half)}
    assert paired(values, np.zeros(count), RETURN).ci95 == pytest.approx(half)
    assert summary(values[:, None], [0], RETURN)["0"]["ci95"] == pytest.approx(half)


def test_the_normal_quantile_is_that_of_many_degrees() -> None:
    assert quantile(MANY, 0.025) == NORMAL
    assert quantile(MANY, 0.01) == pytest.approx(stats.norm.isf(0.01))


def test_independent_means_have_welchs_degrees() -> None:
    one, other = rng(0).normal(size=12), 3 * rng(1).normal(size=12)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
    found = difference(one, other, paired=False, higher_is_better=True)
    assert found is not None
    assert found["ci95"] == pytest.approx((expected.high - expected.low) / 2)


@pytest.mark.filterwarnings("error")
def test_one_task_has_a_mean_and_no_interval() -> None:
    one = np.array([1.5])
    assert interval(one) == {"mean": 1.5, "ci95": None}
    assert difference(one, one - 1, paired=True, higher_is_better=True) == {"mean": 1.0, "ci95": None}
    assert difference(one, one - 1, paired=False, higher_is_better=False) == {"mean": -1.0, "ci95": None}
    gain = paired(one + 1, one, RETURN)
    assert (gain.mean, gain.ci95, gain.is_gain) == (1.0, None, False)
    assert str(gain) == "return better by 1 on 1 test tasks"
    row = summary(one[:, None], [0], MSE)["0"]
    assert row == {"mean": 1.5, "ci95": None, "median": 1.5, "diverged": 0}
    assert shown(row, "mse") == "1.500"
    assert mean_in_words(row, mean=".3f", half=".3f") == "1.500"


def test_intervals_hold_as_often_as_they_say_for_few_tasks() -> None:
    draws = rng(7).normal(size=(20000, 5))
    halves = np.array([interval(row)["ci95"] for row in draws])
    missed = (np.abs(draws.mean(axis=1)) > halves).mean()
    assert missed == pytest.approx(0.05, abs=0.005)
    assert (np.abs(draws.mean(axis=1)) > 1.96 * draws.std(axis=1, ddof=1) / 5**0.5).mean() > 0.1  # as with 1.96


# --- divergence ---


@pytest.mark.parametrize("shown_steps", [[5, 10], [0, 5, 10], [10], [5]])
def test_divergence_is_relative_to_before_adaptation_whatever_is_shown(shown_steps: list[int]) -> None:
    scores = np.array([[1.0, 50.0, 60.0], [1.0, 0.5, 0.4], [1.0, 0.6, 11.0]])
    found = summary(scores, [0, 5, 10], MSE, shown=shown_steps)
    assert list(found) == [str(number) for number in shown_steps]
    counts = {"0": 0, "5": 1, "10": 2}
    assert {number: row["diverged"] for number, row in found.items()} == {n: counts[n] for n in found}


def test_a_score_of_zero_before_adaptation_is_no_divergence_after() -> None:
    scores = np.array([[0.0, 0.01], [0.0, 0.0], [1.0, 0.3], [2.0, 0.5], [0.0, 30.0]])
    assert diverged_tasks(scores, [0, 1], MSE)[:, 1].tolist() == [False, False, False, False, True]
    assert not diverged_tasks(np.array([[0.0, 1e-9], [0.0, 0.5]]), [0, 1], MSE).any()  # all are solved before
    assert not diverged_tasks(scores, [0, 1], CROSS_ENTROPY).any()


def test_units_do_not_decide_what_diverges() -> None:
    scores = np.exp(3 * rng(3).normal(size=(200, 3)))
    expected = diverged_tasks(scores, [0, 1, 5], MSE)
    assert 0 < expected.sum() < expected.size
    for unit in (1e-8, 1e8):
        assert (diverged_tasks(unit * scores, [0, 1, 5], MSE) == expected).all()


# --- kinds of task ---

NAMES = ("backward", "forward")


def kinds(of: list[int] | np.ndarray, names: tuple[str, ...] = NAMES) -> Kinds:
    return Kinds.among(names, [list(dict.fromkeys(names))[number] for number in of])


def test_a_mean_over_kinds_does_not_hang_on_their_share_of_the_tasks() -> None:
    of = np.array([1] * 14 + [0] * 6)
    values = np.where(of == 1, 10.0, -10.0) + rng(0).normal(size=20)
    means = [values[of == number].mean() for number in (0, 1)]
    found = interval(values, kinds(of))
    assert found["mean"] == pytest.approx(np.mean(means))
    variances = [values[of == number].var(ddof=1) / (of == number).sum() for number in (0, 1)]
    degrees = sum(variances) ** 2 / sum(v**2 / ((of == n).sum() - 1) for n, v in enumerate(variances))
    half = stats.t.ppf(0.975, degrees) * sum(variances) ** 0.5 / 2
    assert found["ci95"] == pytest.approx(half)
    assert mean_score(values[:, None], 0, kinds(of)) == pytest.approx(np.mean(means))
    assert values.mean() > 3  # what it was


def test_a_kind_that_stands_twice_counts_twice() -> None:
    found = kinds([0, 1, 1], ("a", "a", "b"))
    assert (found.names, found.weights) == (("a", "b"), (2 / 3, 1 / 3))
    assert estimate(np.array([3.0, 6.0, 6.0]), found).mean == pytest.approx(4.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("of", [[0, 0, 0], [0, 1, 1], [1]])
def test_a_kind_with_one_task_or_none_has_no_interval(of: list[int]) -> None:
    values = np.arange(len(of), dtype=np.float64)
    found = interval(values, kinds(of))
    assert (found["ci95"], np.isfinite(found["mean"] or 0)) == (None, True)
    assert difference(values + 1, values, paired=True, higher_is_better=True, kinds=(kinds(of), kinds(of))) == {
        "mean": pytest.approx(1.0),
        "ci95": None,
    }
    unpaired = contrast(values, values, paired=False, kinds=(kinds(of), None))
    assert unpaired.half_width() is None


def test_medians_weigh_kinds_too() -> None:
    of = np.array([1] * 15 + [0] * 5)
    values = np.where(of == 1, 10.0, -10.0)
    assert summary(values[:, None], [0], RETURN, kinds=kinds(of))["0"]["median"] == pytest.approx(0.0)
    even = rng(1).normal(size=12)
    assert summary(even[:, None], [0], RETURN, kinds=kinds([0, 1] * 6))["0"]["median"] == pytest.approx(np.median(even))


def test_each_kind_has_its_row_in_tables_and_protocol() -> None:
    row = {"1": {"mean": 1.0, "ci95": None, "median": 1.0, "diverged": 0}}
    own = {"algorithm": "maml", "metric": "return", "split": "test", "tasks": 3, "shot": 4, "horizon": 10, "steps": row}
    own |= {"kinds": {"backward": row, "forward": row}, "kind_tasks": {"backward": 2, "forward": 1}}
    found = with_baselines(own, {"oracle": own, "plain": {"steps": row}})
    assert [name for name, _ in rows(found, "this run")] == [
        "this run",
        "this run, backward",
        "this run, forward",
        "oracle",
        "oracle, backward",
        "oracle, forward",
        "plain",
    ]
    assert conditions(found)[1] == "mean over kinds of task (2 backward, 1 forward)"
    assert with_baselines(own, {}) == own


# --- searches ---


def result(choosing: dict[int, Scores], confirmed: dict[int, Scores], **changed: Any) -> Result:
    """A search whose trials all solve the same tasks; trial 0 has the base configuration's values."""
    folder: Any = SimpleNamespace(run=lambda number: SimpleNamespace(config=SimpleNamespace(task="t", seed=0)))
    values = {"choosing": choosing, "confirmed": confirmed, "higher_is_better": True, "base": 0} | changed
    return Result(folder=folder, search=None, trials=[], **values)  # type: ignore[arg-type]


def equal_trials(number: int, tasks: int) -> dict[int, Scores]:
    """Scores of three finalists and the base that are equally good, on the same tasks."""
    draws = rng(number)
    difficulty = draws.normal(size=tasks)
    return {trial: difficulty + draws.normal(size=tasks) for trial in range(4)}


@pytest.mark.parametrize("tasks", [12, 150])
@pytest.mark.nightly
def test_a_gain_among_equals_is_called_sure_in_at_most_2_5_per_cent(tasks: int) -> None:
    searches = 4000
    sure = {"gain": 0, "lead": 0, "any": 0, "reused": 0}
    for number in range(searches):
        one, other = equal_trials(2 * number, tasks), equal_trials(2 * number + 1, tasks)
        found = result(one, other)
        leads = [lead for over in range(4) if (lead := found.lead(over)) is not None]
        assert len(leads) == 3
        gain, lead = found.lead(0), found.lead(found.order[1])
        sure["gain"] += gain is not None and gain["sure"]
        sure["lead"] += lead is not None and lead["sure"]
        sure["any"] += any(lead["sure"] for lead in leads)
        reused = result(one, one).lead(0)  # tested on the tasks that chose, and not corrected, as it was
        sure["reused"] += reused is not None and reused["mean"] > reused["ci95"]
    error = 3 * (0.025 * 0.975 / searches) ** 0.5
    rates = {name: count / searches for name, count in sure.items()}
    assert rates["gain"] <= 0.025 + error, rates
    assert rates["lead"] <= 0.025 + error, rates
    assert rates["any"] <= 0.025 + error, rates
    assert rates["reused"] > 0.04, rates


def test_what_tests_the_choice_does_not_choose() -> None:
    choosing = {0: np.array([0.0, 0.1]), 1: np.array([1.0, 1.1]), 2: np.array([0.5, 0.6])}
    confirmed = {0: np.array([0.0, 0.3]), 1: np.array([1.0, 2.0]), 2: np.array([5.0, 5.5])}
    found = result(choosing, confirmed)
    assert found.order == [1, 2, 0]
    lead = found.lead(2)
    assert lead is not None
    assert (lead["over"], lead["mean"], lead["sure"], lead["comparisons"]) == (2, pytest.approx(-3.75), False, 2)
    assert found.interval(1)["mean"] == pytest.approx(1.5)


def test_a_clear_gain_is_still_sure() -> None:
    one, other = equal_trials(0, 200), equal_trials(1, 200)
    found = result(one | {3: one[0] + 1}, other | {3: other[0] + 1 + rng(9).normal(size=200)})
    gain = found.lead(0)
    assert gain is not None
    assert gain["sure"]
    assert gain["corrected"] > gain["ci95"]


def test_differences_between_trials_are_means_over_kinds() -> None:
    of = np.array([1] * 14 + [0] * 6)
    better = np.where(of == 1, 3.0, -1.0)
    same = kinds(of)
    zero = np.zeros(20)
    found = result({0: zero, 1: better}, {0: zero, 1: better}, kinds={0: (same, same), 1: (same, same)})
    gain = found.lead(0)
    assert gain is not None
    assert gain["mean"] == pytest.approx(1.0)  # not 1.8, the mean over these tasks
    assert paired(better, zero, RETURN, same).mean == pytest.approx(1.0)
