"""One suite from agreement to the table's rows."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.agreement import compared, errors, reference
from benchmarks.competitor import Competitor, LeftOut, Option
from benchmarks.contest import LOOP
from benchmarks.flops import operations
from benchmarks.memory import fresh
from benchmarks.peak import peaks
from benchmarks.process import ALLOCATION, QUIET, SYSTEM_ALLOCATION, OtherLoad
from benchmarks.suites import Suite, Work
from benchmarks.timing import Runner, alternate, calls_for, median_ratio, rounds_for
from meta.engine.machine import hardware, versions

Say = Callable[[str], None]
PAIRS = 7
LONG = 1.0  # seconds
FAR = 3.0  # times the fastest option; a slower one takes no turns


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Attributes:
        threads: cores that a competitor may use.
        device: ``cpu`` or ``cuda``.
        pairs: rounds.
        memory: whether peak memory and first calls are measured too.
        keep_memory: whether glibc keeps freed memory; see :mod:`benchmarks.process`.
    """

    threads: int
    device: str = "cpu"
    pairs: int = PAIRS
    memory: bool = True
    keep_memory: bool = True


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A competitor that agrees, under one of its options.

    Attributes:
        seconds: of a call while warming up.
    """

    competitor: Competitor
    option: Option
    seconds: float
    strategy: str
    runner: Runner
    errors: dict[str, float]


def to_stderr(line: str) -> None:
    """Progress, beside the results."""
    print(line, file=sys.stderr, flush=True)


def run_suite(
    suite: Suite,
    competitors: Sequence[Competitor],
    settings: Settings,
    peak: dict[str, float] | None = None,
    say: Say = to_stderr,
) -> dict[str, Any]:
    """Measure a suite; the keys are those of ``metaray bench --json``.

    Args:
        suite: the measurement.
        competitors: that take part.
        settings: of the measurement.
        peak: peaks measured before, by name; for each the higher of these and a new measurement counts.
        say: called with lines about progress.
    """
    entries, left_out = _prepare(suite, competitors, settings, say)
    say(f"{suite.name}: {settings.pairs} rounds of {', '.join(entries)}")
    with OtherLoad() as others:
        times = alternate({name: entry.runner for name, entry in entries.items()})
    # Again, and the higher counts: a peak measured while others were busy would make everybody look better.
    now = peaks(settings.threads, settings.device)
    highest = {name: max(value, (peak or {}).get(name, 0.0)) for name, value in now.items()}
    if others.cores > QUIET:
        say(f"{suite.name}: warning: other processes used {others.cores:.1f} cores meanwhile, do not trust the numbers")
    best = _fastest(entries, times)
    loop = next((times[name] for name, entry in best.items() if entry.competitor.name == LOOP.name), None)
    return {
        "suite": suite.name,
        "says": suite.says,
        "tasks": suite.tasks,
        "hardware": hardware(),
        "versions": versions(),
        "device": settings.device,
        "threads": settings.threads,
        "allocation": ALLOCATION if settings.keep_memory else SYSTEM_ALLOCATION,
        "operations": operations(suite),
        "peak_gflops": highest[_limit(settings)],
        "peaks": highest,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "other_cores": round(others.cores, 2),
        "results": [_row(suite, entry, times[name], loop, highest, settings, say) for name, entry in best.items()],
        "left_out": left_out,
    }


def _prepare(
    suite: Suite, competitors: Sequence[Competitor], settings: Settings, say: Say
) -> tuple[dict[str, _Entry], list[dict[str, str]]]:
    """Compare and warm up everybody under each option; those that cannot take part, with the reason."""
    say(f"{suite.name}: the reference gradient")
    works = compared(suite, settings.device)
    expected = reference(works[torch.float64])
    work = Work.of(suite, device=settings.device)
    entries: dict[str, _Entry] = {}
    left_out = []
    for competitor in competitors:
        try:
            for entry in _enter(competitor, works, expected, work, settings):
                threads, form = entry.option
                entries[f"{competitor.name}/{threads}{'/' if form else ''}{form}"] = entry
        except LeftOut as reason:
            left_out.append({"name": competitor.name, "reason": str(reason)})
            say(f"{suite.name}: {competitor.name} is left out: {reason}")
    return entries, left_out


def _enter(
    competitor: Competitor, works: dict[torch.dtype, Work], expected: dict[str, Any], work: Work, settings: Settings
) -> list[_Entry]:
    """A competitor under its options, but for those that disagree or take far longer than another.

    Raises:
        LeftOut: if there is none.
    """
    entries: list[_Entry] = []
    reason = LeftOut("there is no way to run it")
    agreed: dict[str, dict[str, float]] = {}
    for option in competitor.options(work, settings.threads):
        try:
            if option.form not in agreed:
                _set_threads(settings.threads)
                agreed[option.form] = errors(competitor, works, option, expected)
            prepared = competitor.prepare(work, option)
            run = _complete(prepared.run, settings.device)
            seconds = _warm_up(run, option)
        except LeftOut as error:
            reason = error
            continue
        runner = Runner(
            before=lambda threads=option.threads: _set_threads(threads),  # type: ignore[misc]
            run=run,
            calls=calls_for(seconds),
            rounds=rounds_for(seconds, settings.pairs),
        )
        entry = _Entry(
            competitor=competitor,
            option=option,
            seconds=seconds,
            strategy=prepared.strategy,
            runner=runner,
            errors=agreed[option.form],
        )
        entries.append(entry)
    if not entries:
        raise reason
    limit = FAR * min(entry.seconds for entry in entries)
    return [entry for entry in entries if entry.seconds <= limit]


def _fastest(entries: Mapping[str, _Entry], times: Mapping[str, Sequence[float]]) -> dict[str, _Entry]:
    """Of every competitor the option with the least median; a warm-up alone may fall into a bad moment."""
    best: dict[str, str] = {}
    for name, entry in entries.items():
        other = best.get(entry.competitor.name)
        if other is None or statistics.median(times[name]) < statistics.median(times[other]):
            best[entry.competitor.name] = name
    return {name: entries[name] for name in best.values()}


def _complete(run: Callable[[], object], device: str) -> Callable[[], object]:
    """The call, complete when it returns: a GPU's queue is empty then."""
    if device != "cuda":
        return run

    def complete() -> object:
        result = run()
        torch.cuda.synchronize()
        return result

    return complete


def _warm_up(run: Callable[[], object], option: Option) -> float:
    """Seconds of a call after the first ones, which record and compile."""
    _set_threads(option.threads)
    run()
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    if seconds > LONG:  # as warm as it gets
        return seconds
    runner = Runner(before=lambda: None, run=run, calls=calls_for(seconds))
    return min(seconds, runner.sample(), runner.sample())


def _set_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _limit(settings: Settings) -> str:
    """Name of the peak that a competitor's rate is compared with."""
    return "cuda" if settings.device == "cuda" else str(settings.threads)


def _row(
    suite: Suite,
    entry: _Entry,
    own: Sequence[float],
    loop: Sequence[float] | None,
    peak: dict[str, float],
    settings: Settings,
    say: Say,
) -> dict[str, Any]:
    name = entry.competitor.name
    seconds = statistics.median(own)
    limit = peak[_limit(settings)]
    memory: float | None = None
    first: float | None = None
    if settings.memory:
        say(f"{suite.name}: peak memory and first call of {name}")
        memory, first = fresh(entry.competitor, suite, entry.option, settings.device, settings.keep_memory)
    return {
        "name": name,
        "strategy": entry.strategy,
        "threads": entry.option.threads,
        "tasks_per_second": suite.tasks / seconds,
        "milliseconds": 1e3 * seconds,
        "milliseconds_min": 1e3 * min(own),
        "milliseconds_max": 1e3 * max(own),
        "pairs": len(own),
        "peak_memory_mb": memory,
        "first_call_seconds": first,
        "ratio_to_loop": None if loop is None else median_ratio(own, loop),
        "peak_fraction": operations(suite) / seconds / 1e9 / limit,
        **entry.errors,
    }
