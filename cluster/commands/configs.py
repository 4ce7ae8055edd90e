"""``metaray configs``: the configurations that come with metaray."""

from rich.table import Table

from cluster.commands.console import AsJson, Debug, print_json, print_lines, print_table, reports_errors


@reports_errors
def configs(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the configurations that come with metaray; commands take them by name: `metaray train sinusoid_demo`."""
    del debug
    from cluster.config.shipped import FOLDER, command_of, configurations, description

    paths = configurations()
    if as_json:
        rows = [
            {"name": name, "command": command_of(name), "path": str(path), "description": description(path)}
            for name, path in paths.items()
        ]
        print_json({"configurations": rows})
        return
    table = Table("configuration", "")
    for name, path in paths.items():
        table.add_row(f"metaray {command_of(name)} {name}", description(path))
    print_table(table)
    print_lines({"files": FOLDER})
