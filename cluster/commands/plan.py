"""``metaray plan``: how fast a configuration would train on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cluster.commands.console import AsJson, Debug, Overrides, print_json, print_lines, print_table, reports_errors

if TYPE_CHECKING:
    from cluster.bench.plan import Plan


@reports_errors
def plan(
    config: Annotated[Path, typer.Argument(help="A configuration.")],
    overrides: Overrides = None,
    nodes: Annotated[int, typer.Option(min=1, max=10_000, help="Nodes, the driver's among them.")] = 1,
    workers_per_node: Annotated[int, typer.Option(min=1, max=10_000, help="Workers on each node.")] = 8,
    gigabits: Annotated[float, typer.Option(min=1e-3, help="Network of the driver's node, in Gbit/s.")] = 10.0,
    slow: Annotated[int, typer.Option(min=0, help="Workers at a tenth of the speed.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Simulate a training on a cluster, with times measured on this machine."""
    del debug
    from cluster.bench.plan import Network
    from cluster.bench.plan import plan as planned
    from cluster.bench.simulation import Cluster
    from cluster.config.schema import load
    from cluster.errors import ConfigError

    if nodes * workers_per_node > 10_000:
        raise ConfigError(f"expected at most 10,000 workers, received {nodes} nodes of {workers_per_node}")
    if slow >= nodes * workers_per_node and slow:
        raise ConfigError(f"--slow: expected fewer than the {nodes * workers_per_node} workers, received {slow}")
    cluster = Cluster(nodes=nodes, workers_per_node=workers_per_node, slow=slow)
    result = planned(load(config, overrides or []), cluster, Network(gigabits=gigabits))
    if as_json:
        print_json(result.as_json())
    else:
        _print(result)


def _print(result: "Plan") -> None:
    from cluster.bench.plan import parts

    table = Table(title=f"an outer step of {result.config.meta_batch} tasks, simulated", caption="shares overlap")
    for column in ("workers", "ms", "tasks/s", "efficiency", "driver", "network", "a worker"):
        table.add_column(column, justify="right")
    for workers, row in result.rows.items():
        table.add_row(
            str(workers),
            f"{1e3 * row.step:.3g}",
            f"{result.config.meta_batch / row.step:.0f}",
            f"{result.efficiency(workers):.0%}",
            *(f"{share:.0%}" for share in parts(row).values()),
        )
    print_table(table)
    config, (size, seconds) = result.config, result.best_shard
    print_lines(
        {
            "shards": f"{config.shards} of {config.shard_size} tasks; more workers than shards have nothing to do",
            "enough": f"{result.enough} workers; more shorten the step by less than 5 %",
            "best shard": f"{size} tasks, {1e3 * seconds:.3g} ms a step with {result.asked} workers",
        }
    )
