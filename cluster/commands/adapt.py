"""``metaray adapt``: a trained model adapted to a task in files."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.console import AsJson, Debug, Trust, print_json, print_part, reports_errors
from cluster.interrupts import interrupt_on_signals
from cluster.progress import warn


@reports_errors
def adapt(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="models:/NAME@ALIAS, models:/NAME/VERSION, its folder, or a RUN."),
    ],
    support: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Examples to adapt on: CSV, Parquet, npz, JSON; folder of class folders."),
    ],
    query: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What to predict for, likewise; a folder of pictures. npz and JSON may hold both."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="tracking.uri=…; of a run task.root=….")
    ] = None,
    inputs: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Input columns, of models that were not trained on a table.")
    ] = None,
    targets: Annotated[str | None, typer.Option(metavar="Y,…", help="Target columns, likewise.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Inner steps; by default those that chose θ.")] = None,
    lr: Annotated[float | None, typer.Option(min=0, help="α; by default that of the training.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Predictions as .csv or .json.")] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Adapted weights as .pt, .safetensors or .pt2 (torch.export).")
    ] = None,
    trust: Trust = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Adapt a trained model to the labelled examples in a file, and predict for others.

    Without --out the predictions are printed, as CSV.
    """
    del debug
    from cluster.adapt.run import adapt as adapted
    from cluster.adapt.task import Sources
    from cluster.registry.opening import open_model

    sources = Sources(support=support, query=query, inputs=_listed(inputs), targets=_listed(targets))
    with interrupt_on_signals():
        opened = open_model(model, overrides or (), trust or ())
        result = adapted(opened, sources, inner_steps=steps, inner_lr=lr, out=out, save=save)
    for note in result.notes:
        warn(note)
    for path in filter(None, (out, save)):
        print(f"wrote {path}", file=sys.stderr)
    if as_json:
        print_json(result.as_json() | {"out": out and str(out), "saved": save and str(save)})
    elif out is None:
        print_part(result.as_csv())


def _listed(text: str | None) -> tuple[str, ...]:
    """Names that commas separate."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()
