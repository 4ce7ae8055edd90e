"""``python -m benchmarks SUITE``: measure where only torch and numpy are installed. Progress on standard error."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.contest import PEERS, competitors
from benchmarks.names import Mistake, chosen_suites, require_settings, words
from benchmarks.page import plain_table, ray_tables, renew, tables
from benchmarks.peak import peaks
from benchmarks.process import cores
from benchmarks.run import PAIRS, Settings, run_suite, to_stderr
from benchmarks.suites import SUITES, Suite
from meta.engine.machine import available_cores
from meta.engine.memory import keep_freed_memory


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed of meta-gradients.")
    made.add_argument("suite", nargs="*", metavar="SUITE", help="; ".join(SUITES))
    made.add_argument("--json", action="store_true", help="print one JSON object")
    made.add_argument("--strategies", default="", metavar="A,B", help="measure these strategies of ours too")
    made.add_argument("--peers", default=None, metavar="A,B", help=f"measure these only: {', '.join(PEERS)}")
    made.add_argument("--threads", type=int, default=None, metavar="N", help="cores to use (all)")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--pairs", type=int, default=PAIRS, metavar="N", help=f"rounds ({PAIRS})")
    made.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    made.add_argument("--system-malloc", action="store_true", help="leave freed memory to the C library")
    made.add_argument("--record", action="store_true", help="keep the results as a dated file")
    made.add_argument("--records", type=Path, default=record.FOLDER, metavar="FOLDER", help="where records lie")
    made.add_argument(
        "--page",
        nargs="?",
        type=Path,
        const=Path("docs/benchmarks.md"),
        metavar="FILE",
        help="renew the tables of this page from the records, and measure nothing",
    )
    return made


def main(arguments: Sequence[str] | None = None, suites: Mapping[str, Suite] = SUITES) -> int:
    """Run the command; returns its exit status.

    Args:
        arguments: words of the command line; by default the process's own.
        suites: that may be named, by name.
    """
    options = parser().parse_args(arguments)
    if options.page is not None:
        engine, ray = record.read_all(options.records), record.read_all(options.records / "ray")
        renew(options.page, "\n".join(filter(None, [tables(record.newest(engine)), ray_tables(ray)])))
        return 0
    try:
        results = _measured(options, suites)
    except Mistake as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(together(results), allow_nan=False))
    if options.record:
        to_stderr(f"record: {record.write(results, options.records)}")
    return 0


def _measured(options: argparse.Namespace, suites: Mapping[str, Suite]) -> list[dict[str, Any]]:
    """The results of the suites asked for, each printed as it comes unless JSON is wanted.

    Raises:
        Mistake: if an argument is wrong.
    """
    chosen = chosen_suites(options.suite, suites)
    threads = available_cores() if options.threads is None else options.threads
    strategies, peers = words(options.strategies), None if options.peers is None else words(options.peers)
    require_settings(threads=threads, pairs=options.pairs, strategies=strategies, peers=peers)
    settings = Settings(
        threads=threads,
        device=options.device,
        pairs=options.pairs,
        memory=not options.no_memory,
        keep_memory=not options.system_malloc and keep_freed_memory(),
    )
    results = []
    with cores(threads):
        peak = peaks(threads, settings.device)
        for suite in chosen:
            results.append(run_suite(suite, competitors(strategies, peers), settings, peak))
            if not options.json:
                print(plain_table(results[-1]), flush=True)
    return results


def together(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One object: a suite's own, or several under ``suites``."""
    return results[0] if len(results) == 1 else {"suites": list(results)}


if __name__ == "__main__":
    sys.exit(main())
