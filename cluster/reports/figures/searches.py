"""Data of a search for its figures, and what they share: a scale of scores, and settings in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import Locator, LogLocator, MaxNLocator, NullFormatter

from cluster.config import strict_yaml
from cluster.config.credentials import without_credentials
from cluster.reports.figures.style import STYLE, WIDE, Array, floats, legend, percent

SPREAD = 5.0  # ratio of largest to smallest error above which colours and axes are logarithmic
GREEK = {"inner.lr": "α", "outer.lr": "β"}
BEST, BASE, LOST = STYLE["points"], STYLE["ink"], "#8a8a8a"  # colours of the best trial, the base, those without score
SMALL: dict[str, Any] = {"fontsize": STYLE["text"] - 1, "color": STYLE["ink"], "parse_math": False}
LIGHTEST = 0.92  # of viridis
ENOUGH = 3  # trials trained to the end, for the scale to be theirs
LONGEST = 20  # letters of a setting that are shown


Kind = Literal["log", "linear", "integer", "categories"]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A key that was searched, and where.

    Attributes:
        key: of the configuration, dotted.
        kind: how its values are spaced.
        low, high: between which values lie; None for categories.
        choices: the values, for categories.
    """

    key: str
    kind: Kind
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a search.

    Attributes:
        number: by which it is named.
        values: key -> value of the keys that were searched.
        score: best validation score; None if it diverged or failed.
        status: how it ended.
        steps: outer steps done.
        history: outer steps with their validation scores.
    """

    number: int
    values: Mapping[str, Any]
    score: float | None
    status: Literal["finished", "stopped", "diverged", "failed", "running"]
    steps: int
    history: Sequence[tuple[int, float]] = ()


class Confirmed(NamedTuple):
    """A trial on fresh validation tasks, and how far it is behind the first of them, each with a 95 % half-width."""

    trial: Trial
    mean: float
    half: float
    behind: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Searched:
    """A search and what it found.

    Attributes:
        axes: the keys that were searched.
        trials: all of them, each number once.
        metric: validation score, such as ``val/mse_5`` for that after five inner steps.
        higher_is_better: whether the best score is the highest.
        best: number of the best trial, if any has a score.
        base: number of the trial with the base configuration's own values, if there was one.
        confirmed: number of a trial -> ``mean`` and ``ci95`` of its score on fresh validation tasks; where ``best`` was
            chosen by others than these, also how far the trial is ``behind`` the best, and the half-width ``error`` of
            that, wide enough for all such differences to hold at once.
    """

    axes: Sequence[Axis]
    trials: Sequence[Trial]
    metric: str
    higher_is_better: bool
    best: int | None
    base: int | None
    confirmed: Mapping[int, Mapping[str, float | None]]

    def trial(self, number: int | None) -> Trial | None:
        """The trial of a number, or None if there is none."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def score(self, number: int | None) -> float | None:
        """The score of the trial of a number, or None if there is no such trial or it has none."""
        trial = self.trial(number)
        return None if trial is None else known(trial)

    def ranked(self) -> list[Trial]:
        """Trials that have a score, the best first."""
        sign = -1 if self.higher_is_better else 1
        scored = [(sign * score, trial.number, trial) for trial in self.trials if (score := known(trial)) is not None]
        return [trial for *_, trial in sorted(scored, key=lambda one: one[:2])]

    def confirmed_ranked(self) -> list[Confirmed]:
        """Trials with a finite score on fresh validation tasks, the first by which the others are measured.

        That is the best trial where differences from it are given, else the one that leads on these tasks; differences
        then have the half-width of independent means, √(a² + b²). The others follow, the better the sooner.
        """
        sign = -1 if self.higher_is_better else 1
        chosen = any("behind" in score for score in self.confirmed.values())
        rows = []
        for number, score in self.confirmed.items():
            trial, (mean, half) = self.trial(number), floats((score["mean"], score["ci95"])).tolist()
            if trial is not None and math.isfinite(mean) and math.isfinite(half):
                rows.append((chosen and number != self.best, sign * mean, number, mean, half))
        rows.sort()
        ranked = []
        for _, signed, number, mean, half in rows:
            score, trial = self.confirmed[number], self.trial(number)
            assert trial is not None
            behind, error = score.get("behind"), score.get("error")
            if behind is None or error is None:
                behind, error = signed - rows[0][1], math.hypot(half, rows[0][4])
            ranked.append(Confirmed(trial, mean, half, behind, error))
        return ranked

    def named(self, trial: Trial) -> str:
        """Name of a trial in figures: its number, with its role if it is the best or the present setting."""
        roles = {self.best: "best", self.base: "present setting"}
        words = [role for number, role in roles.items() if number == trial.number]
        if self.best == self.base == trial.number:
            words = ["best, the present setting"]
        return f"{words[0]} #{trial.number}" if words else f"#{trial.number}"


class Scale(NamedTuple):
    """Scores as colours and positions, robust to outliers: those beyond its worst end are drawn there."""

    name: str
    low: float
    high: float
    log: bool
    higher_is_better: bool
    beyond: bool  # whether there are such

    @property
    def locator(self) -> Locator:
        """The locator of ticks along the scale."""
        if not self.log:
            return MaxNLocator(6)
        subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if self.high < WIDE * self.low else (1.0, 2.0, 5.0)
        return LogLocator(subs=subs, numticks=12)

    @property
    def norm(self) -> Normalize:
        """From scores to 0 … 1."""
        return (LogNorm if self.log else Normalize)(self.low, self.high, clip=True)

    @property
    def colours(self) -> Colormap:
        """Dark for the best, and at the other end not so light that lines are lost on white."""
        shades = mpl.colormaps["viridis"](np.linspace(0, LIGHTEST, 256))
        return ListedColormap(shades[::-1] if self.higher_is_better else shades)

    def place(self, scores: Iterable[float | None]) -> Array:
        """From 0 for the lowest score to 1 for the highest, NaN for none."""
        return self.height(scores).clip(0, 1)

    def upwards(self, scores: Iterable[float | None]) -> Array:
        """Like place, but 1 for the best score."""
        return self.place(scores) if self.higher_is_better else 1 - self.place(scores)

    def height(self, scores: Iterable[float | None]) -> Array:
        """Like place, but what lies beyond an end does so here, by at most the length of the scale."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        values = floats(scores)
        return np.asarray((((np.log(values) if self.log else values) - low) / (high - low)).clip(-1, 2))

    def colour(self, score: float) -> Any:
        """The colour of one score."""
        return self.colours(self.place([score])[0])

    def words(self, score: float | None) -> str:
        """A score in words, an accuracy in percent."""
        if score is None:
            return "no score"
        return f"{100 * score:.1f} %" if self.name == "accuracy" else f"{score:.3g}".replace("-", "−")


def known(trial: Trial) -> float | None:
    """The score of a trial that has one."""
    lost = trial.status in ("diverged", "failed") or trial.score is None or not math.isfinite(trial.score)
    return None if lost else trial.score


def metric_of(searched: Searched) -> tuple[str, str]:
    """Name of the metric, and in words what it is.

    >>> metric_of(Searched(axes=[], trials=[], metric="val/mse_5", higher_is_better=False, best=None, base=None,
    ...                    confirmed={}))
    ('mse', 'validation mse after 5 inner steps')
    """
    name, _, number = searched.metric.removeprefix("val/").rpartition("_")
    if not name or not number.isdecimal():
        return searched.metric, searched.metric
    return name, f"validation {name} after {number} inner step{'' if number == '1' else 's'}"


def scale_of(searched: Searched) -> Scale | None:
    """The scale of the trials' scores, or None if there are none.

    It is that of the trials trained to the end, if there are some: those stopped early are worse for that alone. It
    takes in the present setting, unless that is so bad that nothing else could be told apart.
    """
    ranked = searched.ranked()
    if not ranked:
        return None
    scores = floats(known(trial) for trial in ranked)
    finished = floats(known(trial) for trial in ranked if trial.status == "finished")
    name, _ = metric_of(searched)
    low, high = robust(finished if len(finished) >= ENOUGH else scores, higher_is_better=searched.higher_is_better)
    for score in (known(ranked[0]), searched.score(searched.base)):
        if score is not None and _beside(score, low, high):
            low, high = min(low, score), max(high, score)
    log = not searched.higher_is_better and 0 < SPREAD * low < high
    beyond = bool(scores.min() < low or scores.max() > high)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    return Scale(name, low, high, log, searched.higher_is_better, beyond)


def _beside(score: float, low: float, high: float) -> bool:
    """Whether a score is near a range: within 20 times its ends if all is positive, else 20 times its length."""
    if min(score, low) > 0:
        return low / WIDE < score < WIDE * high
    return abs(score - (low + high) / 2) <= WIDE * (high - low)


def robust(scores: Array, *, higher_is_better: bool) -> tuple[float, float]:
    """The range of scores without those that are worse than the middle half by 1.5 times its width (Tukey's rule).

    Positive errors are compared by their logarithms.

    Args:
        scores: finite ones, [N].
        higher_is_better: whether larger scores are better.
    """
    log = not higher_is_better and scores.min() > 0
    values = np.log(scores) if log else scores
    lower, upper = np.quantile(values, (0.25, 0.75))
    reach = 1.5 * (upper - lower)
    kept = scores[values >= lower - reach if higher_is_better else values <= upper + reach]
    return float(kept.min()), float(kept.max())


def plain(value: Any) -> str:
    """A setting as YAML on one line, so that an override can take it; without secrets that an address holds.

    >>> plain(1e-5), plain([40, 40]), plain(None)
    ('1.0e-05', '[40, 40]', 'null')
    """
    value = value.item() if isinstance(value, np.generic) else value
    text: str = strict_yaml.write(value, flow=True, width=math.inf)
    return without_credentials(text.removesuffix("...\n").strip())


def setting(value: Any) -> str:
    """A setting in short."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return shortened(plain(value))


def shortened(text: str) -> str:
    """A text of at most 20 letters: the last of a longer one, where names differ."""
    return text if len(text) <= LONGEST else f"…{text[1 - LONGEST :]}"


def key_of(axis: Axis) -> str:
    """A key with its letter, if it has one."""
    return f"{axis.key} ({GREEK[axis.key]})" if axis.key in GREEK else axis.key


def settings(axes: Iterable[Axis], trial: Trial) -> str:
    """Values of a trial, by the axes' keys, in one line."""
    return ", ".join(f"{GREEK.get(axis.key, axis.key)} {setting(trial.values.get(axis.key))}" for axis in axes)


def explain(figure: Figure, axes: Axes) -> None:
    """A legend below the panels, if there is something to explain."""
    if axes.get_legend_handles_labels()[0]:
        legend(figure, axes, "outside lower center", ncols=4)


def trial_look(searched: Searched, trial: Trial, scale: Scale | None) -> dict[str, Any]:
    """The look of a trial's line: its score's colour, grey without one; the best and the present setting stand out.

    These two have their names as labels, the others labels that the legend leaves out.
    """
    if trial.number == searched.best:
        return {"label": searched.named(trial), "color": BEST, "linewidth": 2.8, "zorder": 6}
    if trial.number == searched.base:
        dashes = (0, (4, 1.5))
        return {"label": searched.named(trial), "color": BASE, "linewidth": 2.1, "linestyle": dashes, "zorder": 5}
    label, score = f"_#{trial.number}", known(trial)
    if score is None or scale is None:
        return {"label": label, "color": LOST, "linewidth": 1.0, "linestyle": (0, (2, 2)), "alpha": 0.8, "zorder": 2}
    alpha = 0.4 + 0.5 * float(scale.upwards([score])[0])
    return {"label": label, "color": scale.colour(score), "linewidth": 1.3, "alpha": alpha, "zorder": 3}


def colour_bar(figure: Figure, axes: Axes, scale: Scale, words: str) -> None:
    """The scale beside a panel, better upwards."""
    extend = "neither" if not scale.beyond else "min" if scale.higher_is_better else "max"
    bar = figure.colorbar(ScalarMappable(scale.norm, scale.colours), ax=axes, extend=extend, pad=0.02, aspect=28)
    if not scale.higher_is_better:
        bar.ax.invert_yaxis()
    score_ticks(bar.ax, scale)
    bar.outline.set_visible(False)
    bar.ax.tick_params(which="both", labelsize=STYLE["text"] - 1, color=STYLE["frame"], labelcolor=STYLE["ink"])
    bar.set_label(f"{words} (better upwards)", fontsize=STYLE["text"], color=STYLE["ink"], parse_math=False)


def score_ticks(axes: Axes, scale: Scale) -> None:
    """Plain numbers on an axis of scores in y, percent for an accuracy."""
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(scale.locator)
    if scale.log:
        axes.yaxis.set_major_formatter("{x:g}")
    elif scale.name == "accuracy":
        percent(axes.yaxis)
