"""The command line: `taskcenter --help`. Exit status: 0 done, 1 refused, 2 usage or settings, 3 schema."""

from __future__ import annotations

from typing import Annotated

import typer

from taskcenter import __version__
from taskcenter.cli import audit, businesses, keys, service, tasks
from taskcenter.cli.demo import demo
from taskcenter.cli.doctor import doctor

app = typer.Typer(
    name="taskcenter",
    help="Scheduled HTTP callbacks as a service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(service.serve)
app.command(hidden=True)(service.up)
app.command()(service.migrate)
app.command()(demo)
app.command()(doctor)
app.add_typer(businesses.app, name="business")
app.add_typer(tasks.app, name="task")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"taskcenter {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Scheduled HTTP callbacks as a service."""
