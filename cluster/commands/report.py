"""``metaray report``: draw a run's figures and write its page."""

from cluster.commands.console import AsJson, Debug, Overrides, Run, print_json, print_lines, reports_errors


@reports_errors
def report(run: Run, overrides: Overrides = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Draw a run's figures and write its page, report.html."""
    del debug
    from cluster.reports.draw import draw
    from cluster.runs.folder import find

    folder = find(run)
    figures = draw(folder, overrides or [])
    page = folder.path / "report.html"
    if as_json:
        print_json({"page": str(page), "figures": [str(path) for path in figures]})
    else:
        print_lines({"page": page} | {f"figure {path.stem}": path for path in figures})
