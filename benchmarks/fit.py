"""The numbers of the rule by which ``engine: auto`` chooses a strategy, measured on this machine.

Timed are the strategies ``trace``, ``loop`` and ``native`` on one thread, as workers run them: a small fully connected
network, Omniglot's convolutions, and these with more and more images a task.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.competitor import LeftOut, Option
from benchmarks.ours import Metaray
from benchmarks.process import empty_caches
from benchmarks.record import FOLDER, machine, slug
from benchmarks.suites import SUITES, Suite, Work
from benchmarks.timing import Runner, alternate, calls_for
from meta.engine.choice import RULE
from meta.engine.files import write_whole
from meta.engine.machine import cache_folder, hardware, versions

STRATEGIES = ("trace", "loop", "native")
QUERIES = (1, 2, 3, 7, 15)  # query images per class, of the sweep over images a task
NEVER = 10**12  # tasks; where compiling gains nothing


class Fitted(NamedTuple):
    """Seconds of one suite.

    Attributes:
        suite: its name.
        images: support and query examples of a task.
        first: of each strategy's first call, recording and compiling included.
        task: of each strategy per task, afterwards.
    """

    suite: str
    images: int
    first: Mapping[str, float]
    task: Mapping[str, float]


def loads(queries: Sequence[int] = QUERIES) -> list[tuple[Suite, tuple[str, ...]]]:
    """Suites to measure, each with the strategies to measure it by."""
    omniglot = SUITES["omniglot"]
    sweep = [replace(omniglot, name=f"omniglot, {query} queries", query=query) for query in queries[1:]]
    return [(SUITES["sinusoid"], STRATEGIES), (omniglot, STRATEGIES), *((suite, STRATEGIES[:2]) for suite in sweep)]


def measured(suite: Suite, strategies: Sequence[str], rounds: int) -> Fitted:
    """Time a suite under some strategies in turns; those that cannot run it are left out.

    Args:
        suite: the measurement.
        strategies: names of strategies.
        rounds: number of turns.
    """
    torch.set_num_threads(1)
    work = Work.of(suite)
    first, runners = {}, {}
    for strategy in strategies:
        prepared = Metaray(strategy).prepare(work, Option(1))
        runner = Runner(before=lambda: None, run=prepared.run)
        try:
            first[strategy] = runner.sample()
        except LeftOut:
            continue
        runners[strategy] = replace(runner, calls=calls_for(runner.sample()), rounds=rounds)
    times = alternate(runners)
    return Fitted(suite.name, suite.support + suite.queries, first, {
        name: sorted(seconds)[len(seconds) // 2] / suite.tasks for name, seconds in times.items()
    })  # fmt: skip


def rule(sinusoid: Fitted, omniglot: Fitted, sweep: Sequence[Fitted]) -> dict[str, int]:
    """The rule's numbers; see :func:`meta.engine.choice.rules`.

    Args:
        sinusoid: a model without convolutions.
        omniglot: one with them.
        sweep: the latter and others with more images a task, ascending.
    """
    vectorised = 0
    for fitted in sweep:
        if fitted.task["trace"] > fitted.task["loop"]:
            break
        vectorised = fitted.images
    return {
        "native_tasks": worthwhile(sinusoid),
        "native_convolution_tasks": worthwhile(omniglot),
        "vectorised_images": vectorised,
    }


def worthwhile(fitted: Fitted) -> int:
    """Tasks after which compiling has paid: its seconds by those it saves a task, rounded up to one digit.

    >>> worthwhile(Fitted("", 20, {"native": 5.0}, {"native": 0.001, "trace": 0.003, "loop": 0.004}))
    3000
    """
    others = [seconds for name, seconds in fitted.task.items() if name != "native"]
    if "native" not in fitted.task or min(others) <= fitted.task["native"]:
        return NEVER
    tasks = fitted.first["native"] / (min(others) - fitted.task["native"])
    digit: int = 10 ** max(0, math.floor(math.log10(tasks)))
    return math.ceil(tasks / digit) * digit


def fit(rounds: int, say: Callable[[str], None]) -> tuple[dict[str, int], list[Fitted]]:
    """Measure all loads and compute the rule. Compiled programs of earlier runs are not used.

    Args:
        rounds: number of turns.
        say: called with lines about progress.
    """
    measurements = []
    with empty_caches():
        for suite, strategies in loads():
            say(f"{suite.name}: {', '.join(strategies)}")
            measurements.append(measured(suite, strategies, rounds))
    sinusoid, omniglot, *more = measurements
    return rule(sinusoid, omniglot, [omniglot, *more]), measurements


def keep(
    numbers: Mapping[str, int], fits: Sequence[Fitted], folder: Path = FOLDER, rules: Path | None = None
) -> tuple[Path, Path]:
    """Write the rule for processors into the cache folder, and the record of its measurements.

    Args:
        numbers: the rule's.
        fits: the measurements.
        folder: of records.
        rules: file of the rule, unless it is the cache folder's.

    Returns:
        Both files.
    """
    rules = cache_folder() / RULE if rules is None else rules
    known = json.loads(rules.read_text(encoding="utf-8")) if rules.exists() else {}
    write_whole(rules, f"{json.dumps({**known, 'cpu': dict(numbers)}, indent=2)}\n".encode())
    now = datetime.now(UTC)
    record: dict[str, Any] = {"date": now.isoformat(timespec="seconds"), "hardware": hardware(), "versions": versions()}
    record |= {"rule": dict(numbers), "measurements": [fitted._asdict() for fitted in fits]}
    path = folder / "fit" / f"{now:%Y-%m-%dT%H%M%SZ}-{slug(machine(record['hardware']))}.json"
    write_whole(path, f"{json.dumps(record, indent=1, allow_nan=False)}\n".encode())
    return rules, path
