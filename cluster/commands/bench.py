"""``metaray bench``: speed against peers, against the machine's limit, and through Ray."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, print_json, print_lines, print_table, reports_errors
from cluster.errors import ConfigError
from cluster.interrupts import interrupt_on_signals
from cluster.own_packages import HOME


@reports_errors
def bench(
    suite: Annotated[str | None, typer.Argument(metavar="[SUITE]", help="One suite; without it all in turn.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Measure through Ray, with so many workers.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use; without it all.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Rounds in which everyone takes a turn.")] = 7,
    strategies: Annotated[str, typer.Option(metavar="A,B", help="Strategies of ours to measure too.")] = "",
    peers: Annotated[str | None, typer.Option(metavar="A,B", help="Of the peers only these.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    record: Annotated[bool, typer.Option("--record", help="Keep the results as a dated file.")] = False,
    rollouts: Annotated[
        Path | None, typer.Option(metavar="CONFIG", help="Environment steps per second of its workers.")
    ] = None,
    serving: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Requests per second of a registered model, models:/NAME@ALIAS.")
    ] = None,
    servers: Annotated[
        str, typer.Option(metavar="A,B", help="With --serving: metaray, mlflow, ray.")
    ] = "metaray,mlflow",
    forms: Annotated[str, typer.Option(metavar="A,B", help="With --serving: requests in json, npz, png.")] = "json",
    soak: Annotated[float, typer.Option(min=0, metavar="MINUTES", help="With --serving: memory over so long.")] = 0,
    fit: Annotated[bool, typer.Option("--fit", help="Measure anew the rule by which a strategy is chosen.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Speed of meta-gradients against other libraries on the same data, and against the machine's peak."""
    del debug
    with interrupt_on_signals():
        if fit:
            if suite is not None or workers:
                raise ConfigError("--fit: expected no SUITE and no --workers, it measures suites of its own")
            _require_checkout()
            _fit(pairs, as_json)
            return
        if rollouts is not None:
            _rollouts(rollouts, workers, pairs, as_json)
            return
        if serving is not None:
            _serving(serving, (servers, forms), soak, as_json)
            return
        with _wrong_usage():
            if workers:
                _through_ray(suite, workers, pairs, record, as_json)
            else:
                _against_peers(suite, threads, pairs, (strategies, peers), device, record, as_json)


def _require_checkout() -> None:
    """Check that the speed suites are there: they are in the repository, not in an installed package.

    Raises:
        ConfigError: if they are not.
    """
    if not (Path(HOME) / "benchmarks").is_dir():
        raise ConfigError(
            "bench: expected a checkout of metaray's repository, whose folder benchmarks/ holds the speed suites, "
            f"received the package installed in {HOME}; --rollouts and --serving need none"
        )


@contextmanager
def _wrong_usage() -> Iterator[None]:
    """Turn the benchmarks' error for wrong usage into the commands'."""
    _require_checkout()
    from benchmarks.names import Mistake

    try:
        yield
    except Mistake as error:
        raise ConfigError(str(error)) from error


def _against_peers(
    suite: str | None,
    threads: int | None,
    pairs: int,
    others: tuple[str, str | None],
    device: str,
    record: bool,
    as_json: bool,
) -> None:
    """Measure suites against the peers that are installed."""
    from benchmarks import record as records
    from benchmarks.contest import competitors
    from benchmarks.names import chosen_suites, require_settings, words
    from benchmarks.peak import peaks
    from benchmarks.process import cores
    from benchmarks.run import Settings, run_suite
    from meta.engine.machine import available_cores
    from meta.engine.memory import keep_freed_memory

    suites = chosen_suites(() if suite is None else (suite,))
    strategies, peers = words(others[0]), None if others[1] is None else words(others[1])
    count = available_cores() if threads is None else threads
    require_settings(threads=count, pairs=pairs, strategies=strategies, peers=peers)
    _require_device(device)
    settings = Settings(threads=count, device=device, pairs=pairs, keep_memory=keep_freed_memory())
    results = []
    with cores(count):
        peak = peaks(count, device)
        for one in suites:
            results.append(run_suite(one, competitors(strategies, peers), settings, peak, _say))
            if not as_json:
                _print_suite(results[-1])
    path = records.write(results) if record else None
    _finish(results, path, as_json)


def _require_device(device: str) -> None:
    import torch

    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device: expected cpu or cuda, received '{device}'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: expected cpu, received 'cuda', of which torch finds none here")


def _through_ray(suite: str | None, workers: int, pairs: int, record: bool, as_json: bool) -> None:
    """Measure suites through pool and learner; all in turn leaves out those that no family draws."""
    from benchmarks.names import chosen_suites
    from cluster.bench.training import config_of, has_family, through_ray

    suites = chosen_suites(() if suite is None else (suite,))
    if suite is None:
        suites = [one for one in suites if has_family(one)]
    for one in suites:
        config_of(one, workers)
    results = [through_ray(one, workers, pairs, _say) for one in suites]
    if not as_json:
        _print_ray(results)
    path = _keep_ray(results) if record else None
    _finish(results, path, as_json)


def _rollouts(path: Path, workers: int, pairs: int, as_json: bool) -> None:
    """Measure how fast a configuration's workers sample."""
    from cluster.bench.rollouts import rollouts
    from cluster.config.schema import load

    result = rollouts(load(path, [f"cluster.workers={workers or 2}"]), pairs, _say)
    if as_json:
        print_json(result)
        return
    print_lines(
        {
            "environment steps a second": f"{result['steps_per_second']:.0f} with {result['workers']} workers",
            "stepped bare": f"{result['bare_steps_per_second']:.0f} in as many processes",
            "ratio": f"{result['ratio']:.2f}, median of {pairs} turns",
        }
    )


def _serving(model: str, selection: tuple[str, str], soak: float, as_json: bool) -> None:
    """Measure how fast servers answer for a registered model, or how much memory ours takes in the long run."""
    from cluster.bench import serving as bench_serving

    if soak:
        memory = bench_serving.soak(model, soak, _say)
        if as_json:
            print_json(memory)
        else:
            first, last = memory["memory_mb"][0], memory["memory_mb"][-1]
            print_lines({"answers": memory["answers"], "memory": f"{first:.0f} MB at first, {last:.0f} MB at last"})
        return
    servers, forms = ([name for name in names.split(",") if name] for names in selection)
    result = bench_serving.serving(model, servers, _say, forms=forms)
    if as_json:
        print_json(result)
        return
    table = Table(title=f"{model}, one task a request")
    for column in bench_serving.COLUMNS:
        table.add_column(column, justify="left" if column in ("server", "form") else "right")
    table.add_row(*bench_serving.engine_cells(result["engine"]))
    for row in result["results"]:
        table.add_row(*bench_serving.cells(row))
    print_table(table)


def _keep_ray(results: Sequence[Mapping[str, Any]]) -> Path:
    from benchmarks.record import FOLDER, machine, slug
    from meta.engine.files import write_whole

    at = str(results[-1]["date"])
    name = f"{at[:19].replace(':', '')}Z-{slug(machine(results[0]['hardware']))}.json"
    path = FOLDER / "ray" / name
    text = json.dumps({"date": at, "suites": list(results)}, indent=1, allow_nan=False) + "\n"
    write_whole(path, text.encode())
    return path


def _fit(rounds: int, as_json: bool) -> None:
    """Measure and write the rule."""
    from benchmarks.fit import fit, keep

    numbers, measurements = fit(rounds, _say)
    rules, path = keep(numbers, measurements)
    if as_json:
        rows = [fitted._asdict() for fitted in measurements]
        print_json({"rule": numbers, "measurements": rows, "rules": str(rules), "record": str(path)})
        return
    strategies = list(measurements[0].task)
    table = Table(title="one thread; first call in seconds, then milliseconds a task")
    table.add_column("")
    table.add_column("examples a task", justify="right")
    for strategy in strategies:
        table.add_column(strategy, justify="right")
    for fitted in measurements:
        cells = [
            f"{fitted.first[name]:.1f} s, {1e3 * fitted.task[name]:.3g} ms" if name in fitted.task else "–"
            for name in strategies
        ]
        table.add_row(fitted.suite, str(fitted.images), *cells)
    print_table(table)
    print_lines({**{key: str(value) for key, value in numbers.items()}, "rule": rules, "record": path})


def _print_suite(result: Mapping[str, Any]) -> None:
    from benchmarks.page import COLUMNS, cells, heading, remarks

    table = Table(title=heading(result), caption="\n".join(remarks(result)) or None)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="right" if number else "left")
    for row in result["results"]:
        table.add_row(*cells(row))
    print_table(table)


def _print_ray(results: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"{results[0]['workers']} workers of one thread, against the engine alone in as many processes")
    for column in ("", "tasks/s", "alone", "ratio", "ms a step", "alone", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for result in results:
        ray, alone = result["ray"], result["alone"]
        table.add_row(
            result["suite"],
            f"{ray['tasks_per_second']:.0f}",
            f"{alone['tasks_per_second']:.0f}",
            f"{result['ratio']:.3f}",
            f"{ray['milliseconds']:.3g}",
            f"{alone['milliseconds']:.3g}",
            f"{ray['milliseconds'] - alone['milliseconds']:.3g}",
        )
    print_table(table)


def _finish(results: Sequence[Mapping[str, Any]], path: Path | None, as_json: bool) -> None:
    """The results as one JSON object if asked for, and where they are kept."""
    kept = {} if path is None else {"record": str(path)}
    if as_json:
        print_json({**(results[0] if len(results) == 1 else {"suites": list(results)}), **kept})
    elif kept:
        print_lines(kept)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
