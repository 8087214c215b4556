"""`serve`, `migrate` and `up`: the commands that touch the database themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import trio
import typer

from taskcenter import log
from taskcenter.cli.misspelt import misspelt
from taskcenter.cli.quickstart import quickstart_settings, show_quickstart
from taskcenter.config import Settings, load_settings
from taskcenter.errors import ConfigError, SchemaMismatch, StoreUnavailable
from taskcenter.http.listeners import bound_address
from taskcenter.runtime.node import Started, check_bind, prepare_database, reserve_bind, run_node
from taskcenter.runtime.processes import serve_processes
from taskcenter.runtime.worker import follow_parent, is_worker, log_to_parent
from taskcenter.store.url import SqliteUrl, parse_database_url

T = TypeVar("T")
Config = Annotated[Path | None, typer.Option("--config", help="A TOML file with settings.", metavar="FILE")]
REFUSED, USAGE, SCHEMA = 1, 2, 3
STDOUT = 1
DATABASE_URL = "TASKCENTER_DATABASE_URL"
REACH = "see that it runs and that address, account and TLS are right, e.g. mysql://user:password@host:3306/name"
ROOM = "see that its disk has room and that it may be read and written, e.g. sqlite:////var/lib/taskcenter/tasks.db"


def serve(
    processes: Annotated[int, typer.Option(help="Processes that share the port and the database.", min=1, max=64)] = 1,
    migrate: Annotated[bool, typer.Option("--migrate", help="Bring the schema of a MySQL database up first.")] = False,
    config: Config = None,
) -> None:
    """API and scheduler, until SIGTERM."""
    settings = prepare(config, migrate=migrate)
    if is_worker():  # its parent has tried the addresses; to listen for a moment would take a client from its siblings
        follow_parent(settings.shutdown_grace)
    else:
        if processes > 1:
            guarded(partial(_require_server, settings))
        guarded(partial(trio.run, partial(check_bind, settings)))
    if processes > 1:
        _serve_by_several(processes, config, settings)
    guarded(partial(trio.run, partial(run_node, settings, ready=_announce)), settings)


def _serve_by_several(processes: int, config: Path | None, settings: Settings) -> NoReturn:
    arguments = ["--config", str(config)] if config is not None else []
    with ExitStack() as held:
        addresses = []
        for reserved in guarded(partial(trio.run, partial(reserve_bind, settings))):
            held.enter_context(reserved)
            addresses.append(bound_address(reserved))
        raise typer.Exit(serve_processes(arguments, processes, settings, tuple(addresses)))


def _is_embedded(settings: Settings) -> bool:
    return isinstance(parse_database_url(settings.database_url.get_secret_value()), SqliteUrl)


def _require_server(settings: Settings) -> None:
    if _is_embedded(settings):
        raise ConfigError("TASKCENTER_DATABASE_URL: a SQLite file serves one process; use MySQL for --processes 2")


async def _announce(started: Started) -> None:
    if started.new_admin_token is not None:
        typer.echo(f"admin token, shown this once: {started.new_admin_token}", err=True)


def migrate(
    to: Annotated[str, typer.Option(help="A revision, up or down; `base` is an empty database.")] = "head",
    config: Config = None,
) -> None:
    """Bring the database's schema up (or down) to a revision."""
    from taskcenter.store.migrate import move  # noqa: PLC0415  # SQLAlchemy and Alembic: slow to load, seldom needed

    settings = guarded(partial(load_settings, config))
    revision = guarded(partial(move, settings.database_url.get_secret_value(), to), settings)
    typer.echo(f"the schema is at {revision or 'base'}")


def up(config: Config = None) -> None:
    """What `make run` starts: the service on its embedded store, a demo business, the demo; then it goes on."""
    settings = guarded(lambda: quickstart_settings(load_settings(config)))
    level = settings.log_level if "log_level" in settings.model_fields_set else "warning"
    log.configure(level, settings.log_format, sink=log.Lines(STDOUT))
    guarded(partial(trio.run, partial(check_bind, settings)))
    guarded(partial(prepare_database, settings, migrate=True), settings)
    guarded(partial(trio.run, partial(run_node, settings, ready=show_quickstart)), settings)


def prepare(config: Path | None, *, migrate: bool) -> Settings:
    """Settings read, logs set up, schema right."""
    settings = guarded(partial(load_settings, config))
    if is_worker():
        log_to_parent(settings.log_level, settings.log_format)
    else:
        log.configure(settings.log_level, settings.log_format, sink=log.Lines(STDOUT))
    for name, meant in () if is_worker() else misspelt(os.environ):
        log.get("settings").warning("unknown setting, ignored", name=name, meant=meant)
    guarded(partial(prepare_database, settings, migrate=migrate), settings)
    return settings


def guarded(work: Callable[[], T], settings: Settings | None = None) -> T:
    """Run `work`; what is the operator's or the database's fault is one line and an exit status, not a traceback.

    `settings`: once there are some. They tell what database it is.
    """
    try:
        return work()
    except (ConfigError, SchemaMismatch, StoreUnavailable) as error:
        _end(error, settings)
    except BaseExceptionGroup as group:
        known = _first_known(group)
        if known is None:
            raise
        _end(known, settings)


def _first_known(error: BaseException) -> Exception | None:
    if isinstance(error, ConfigError | SchemaMismatch | StoreUnavailable):
        return error
    if isinstance(error, BaseExceptionGroup):
        found = [_first_known(each) for each in error.exceptions]
        return found[0] if found and all(found) else None
    return None


def _end(error: Exception, settings: Settings | None) -> NoReturn:
    line = str(error)
    if settings is not None and isinstance(error, StoreUnavailable):
        line = f"{DATABASE_URL}: {error}; {ROOM if _is_embedded(settings) else REACH}"
    print(f"taskcenter: {line}", file=sys.stderr)
    if isinstance(error, ConfigError):
        raise typer.Exit(USAGE)
    raise typer.Exit(SCHEMA if isinstance(error, SchemaMismatch) else REFUSED)
