"""Schedules: their values by hand, and what holds for all of them."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meta.schedules import Constant, Cosine, Linear, Schedule, Staircase, cosine, linear, staircase

spans = st.integers(1, 10_000)
shares = st.floats(0, 1)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    warmup = draw(st.integers(0, 50))
    steps = draw(st.none() | st.integers(warmup + 1, 500))
    at = tuple(sorted(draw(st.sets(st.integers(warmup + 1, 500), min_size=1, max_size=4))))
    kind = draw(st.sampled_from(["constant", "step", "linear", "cosine"]))
    if kind == "constant":
        return Constant(warmup=warmup)
    if kind == "step":
        return Staircase(warmup=warmup, at=at, factor=draw(st.floats(0.01, 1)))
    return {"linear": Linear, "cosine": Cosine}[kind](warmup=warmup, steps=steps, final=draw(shares))


@given(schedules(), st.integers(51, 500))
def test_shares_rise_to_one_in_the_warm_up_and_never_after(schedule: Schedule, total: int) -> None:
    values = [schedule.share(step, total) for step in range(600)]
    warm = values[: schedule.warmup]
    assert warm == pytest.approx([(step + 1) / (schedule.warmup + 1) for step in range(schedule.warmup)])
    assert values[schedule.warmup] == 1.0
    rest = values[schedule.warmup :]
    assert all(0 <= later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rest))


@given(st.integers(0, 400), spans)
def test_a_plain_cosine_has_the_bits_that_runs_were_trained_with(step: int, total: int) -> None:
    expected = 0.5 * (1 + math.cos(math.pi * step / total)) if step < total else 0.0
    assert Cosine().share(step, total) == expected


@given(st.integers(-100, 100), st.integers(-50, 0), st.integers(1, 50), st.floats(-5, 5), st.floats(-5, 5))
def test_linear_and_cosine_stay_between_their_ends(step: int, begin: int, end: int, first: float, final: float) -> None:
    for function in (linear, cosine):
        value = function(step, begin, end, first=first, final=final)
        assert min(first, final) - 1e-12 <= value <= max(first, final) + 1e-12
        assert function(begin, begin, end, first=first, final=final) == first
        assert function(end, begin, end, first=first, final=final) == final


def test_stairs_by_hand() -> None:
    assert [staircase(step, (2, 3), factor=0.5) for step in (0, 1, 2, 3, 9)] == [1.0, 1.0, 0.5, 0.25, 0.25]


def test_a_schedule_of_its_own_length_does_not_depend_on_the_training() -> None:
    own = Cosine(warmup=3, final=0.2, steps=40)
    assert [own.share(step, 40) for step in range(60)] == [own.share(step, 10_000) for step in range(60)]
    spanning = Cosine(warmup=3, final=0.2)
    assert [own.share(step, 40) for step in range(60)] == [spanning.share(step, 40) for step in range(60)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Constant(warmup=-1), "warmup: expected 0 or more"),
        (lambda: Staircase(at=()), "at: expected increasing outer steps"),
        (lambda: Staircase(at=(5, 5)), "at: expected increasing outer steps"),
        (lambda: Staircase(at=(5,), warmup=5), "at: expected increasing outer steps after the warm-up"),
        (lambda: Staircase(at=(5,), factor=0.0), "factor: expected a number above 0"),
        (lambda: Linear(final=1.5), "final: expected a share from 0 to 1"),
        (lambda: Cosine(steps=3, warmup=3), "steps: expected more than those of the warm-up"),
        (lambda: Cosine(warmup=10).require_room(10), "warmup: expected fewer than the 10 outer steps"),
    ],
)
def test_values_out_of_range_are_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
