"""Detection of trainings that do not learn: outer steps that cannot improve θ are counted, and warned of once."""

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

PATIENCE = 10  # useless outer steps in a row, or most of at least so many, after which it is said
SCHEDULED = 1e-3  # share of the step sizes below which the schedule keeps θ where it is
ROUNDING = 1e-9  # norm of a meta-gradient below which it is rounding, if all advantages are zero

# Kinds of outer steps that cannot improve θ, each with what to do. The first that holds is the cause of the others.
CAUSES = {
    "skipped because the meta-gradient was not finite": (
        "lower inner.lr or outer.lr, clip with outer.clip_value, or scale losses or rewards down"
    ),
    "with the same return in all rollouts": (
        "see that rewards depend on what the policy does, and that no task is solved from the start"
    ),
    "with a meta-gradient of zero": (
        "see that the loss depends on the parameters that are trained, and that rewards are of moderate size"
    ),
    "rejected by the line search": (
        "see that rewards differ between trajectories and are of moderate size, or raise outer.trpo.backtracks"
    ),
    "that moved θ by less than a rounding error": (
        "raise outer.lr, or scale losses or rewards to moderate size: numbers overflow or underflow in the optimizer"
    ),
}
SKIPPED, SAME, ZERO, REJECTED, UNMOVED = CAUSES


class Standstill:
    """Counts outer steps that cannot improve θ and warns of them once."""

    def __init__(self, before: Sequence[str] = (), say: Callable[[str], None] | None = None) -> None:
        """Count from here on.

        Args:
            before: warnings of the training before it was interrupted; they hold until there is another.
            say: called with the warning while the training runs; by default it is printed on standard error.
        """
        self._before = list(before)
        self._say = say or (lambda text: print(f"warning: {text}", file=sys.stderr, flush=True))
        self._causes: Counter[str] = Counter()
        self._steps = self._first = self._last = 0
        self._row = self._longest = self._end = 0  # useless steps in a row: now, at most, and where that ended
        self._said = False
        self._return: float | None = None  # of the step before

    def update(self, step: int, metrics: Mapping[str, float], *, moved: bool, lr_share: float = 1.0) -> bool:
        """Count an outer step. Returns whether this step brings the warning.

        Args:
            step: outer steps done, this one included.
            metrics: those of the step, as :func:`cluster.training.outer_step.outer_step` gives them.
            moved: whether θ has changed by more than rounding.
            lr_share: share of the step sizes that the schedule leaves.
        """
        if not self._steps:
            self._first = step
        self._steps, self._last = self._steps + 1, step
        cause = _cause(metrics, self._return, moved=moved, scheduled=lr_share < SCHEDULED)
        self._return = metrics.get("return", self._return)
        if cause is None:
            self._row = 0
            return False
        self._causes[cause] += 1
        self._row += 1
        if self._row > self._longest:
            self._longest, self._end = self._row, step
        return self._stuck and self._speak()

    def finish(self) -> bool:
        """Warn at the end if the training was too short to warn before. Returns whether it did."""
        return self._standing and self._speak()

    @property
    def warnings(self) -> list[str]:
        """The warning that the training stands still, and why; none if it learns."""
        return [self._words()] if self._standing else list(self._before)

    @property
    def _standing(self) -> bool:
        none_of_use = self._first == 1 and self._causes.total() == self._steps
        return self._stuck or (self._steps > 0 and none_of_use)

    @property
    def _stuck(self) -> bool:
        """Whether many steps in a row, or most of many steps, did not improve θ."""
        count = self._causes.total()
        return self._longest >= PATIENCE or (count >= PATIENCE and 2 * count > self._steps)

    def _speak(self) -> bool:
        if self._said:
            return False
        self._said = True
        self._say(self._words())
        return True

    def _words(self) -> str:
        count = self._causes.total()
        every = count == self._steps
        steps = f"none of {count} could" if every else f"{count} of {self._steps} could not"
        row = "" if every else f", {self._longest} in a row up to step {self._end}"
        causes = self._causes.most_common()
        kinds = ", ".join(f"{number} {cause}" for cause, number in causes)
        return (
            f"the training does not learn: expected outer steps that improve θ, {steps}{row} ({kinds}); "
            f"{CAUSES[causes[0][0]]}"
        )


def _cause(metrics: Mapping[str, float], previous: float | None, *, moved: bool, scheduled: bool) -> str | None:
    """Why an outer step could not improve θ; None if it could, or if the schedule leaves it no length.

    Returns are compared with those before adaptation, or of the step before where nothing adapts: other rollouts, of
    which means are equal to the last bit only if rewards do not depend on what is done.
    """
    gradient, mean_return = metrics.get("gradient_norm"), metrics.get("return")
    without_advantage = metrics.get("surrogate") == 0.0 and gradient is not None and gradient < ROUNDING
    causes = {
        SKIPPED: metrics.get("skipped", 0.0) > 0,
        SAME: mean_return is not None and mean_return == metrics.get("return_before", previous),
        ZERO: gradient == 0.0 or without_advantage,
        REJECTED: metrics.get("step_share") == 0.0,
        UNMOVED: not moved and not scheduled,
    }
    return next((cause for cause, holds in causes.items() if holds), None)
