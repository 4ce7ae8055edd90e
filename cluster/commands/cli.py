"""The command line: ``metaray``, also ``python -m cluster``. Results on standard output, all else on standard error."""

import sys
from typing import Annotated

import typer

from cluster.commands.adapt import adapt
from cluster.commands.bench import bench
from cluster.commands.check import check
from cluster.commands.compare import compare
from cluster.commands.config import config
from cluster.commands.configs import configs
from cluster.commands.data import data
from cluster.commands.doctor import doctor
from cluster.commands.evaluate import evaluate
from cluster.commands.init import init
from cluster.commands.plan import plan
from cluster.commands.register import register
from cluster.commands.report import report
from cluster.commands.reproduce import reproduce
from cluster.commands.runs import runs
from cluster.commands.serve import serve
from cluster.commands.submit import submit
from cluster.commands.tracking import tracking
from cluster.commands.train import train
from cluster.commands.tune import tune
from cluster.commands.watch import watch
from cluster.own_packages import put_first

app = typer.Typer(
    name="metaray",
    help="Distributed model-agnostic meta-learning on PyTorch and Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data")
app.add_typer(config, name="config")
app.add_typer(runs, name="runs")
app.add_typer(tracking, name="tracking")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"metaray {version('metaray')}")
        raise typer.Exit


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    # A callback keeps typer from turning a lone command into the program itself.
    pass


app.command()(train)
app.command()(evaluate)
app.command()(adapt)
app.command()(report)
app.command()(watch)
app.command()(tune)
app.command()(compare)
app.command()(reproduce)
app.command()(register)
app.command()(serve)
app.command()(bench)
app.command()(configs)
app.command()(plan)
app.command()(check)
app.command()(init)
app.command()(submit)
app.command()(doctor)


def main() -> None:
    """Entry point of the ``metaray`` command.

    Classes of the user's own are found from the working directory; a folder there that is called ``tasks`` or ``meta``
    does not stand in for the product's own package.
    """
    put_first()
    if "" not in sys.path:
        sys.path.insert(0, "")
    app()
