"""The schema's version: tells it, raises and lowers it. Synchronous; from the loop, call it in a thread.

Alembic does the work. On MySQL a named lock keeps two instances from migrating at once; on SQLite the whole run is one
transaction, under the lock that keeps the file to one process. A server commits each CREATE by itself, so a run that
is cut off there leaves a part, which the next run completes: every step skips what is there.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pymysql
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from taskcenter.errors import SchemaMismatch, StoreUnavailable
from taskcenter.store.connection import StoreFault
from taskcenter.store.mysql_auth import tls_context
from taskcenter.store.mysql_errors import refused
from taskcenter.store.sqlite_file import FileLock
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url

State = Literal["empty", "older", "current", "newer"]
LOCK_WAIT_S: Final = 60  # another instance is migrating
CONNECT_S: Final = 5
_HERE: Final = Path(__file__).parent / "migrations"


def head() -> str:
    """The revision this release works with."""
    return str(_scripts().get_current_head())


def current(url: str) -> str | None:
    """The database's revision; None when it was never migrated. Raises ConfigError or StoreUnavailable."""
    parsed = parse_database_url(url)
    if isinstance(parsed, SqliteUrl) and not Path(parsed.path).exists():
        return None
    with _connected(parsed, writing=False) as connection:
        return _revision(connection)


def check(url: str) -> State:
    """How the database stands to this release. Raises ConfigError or StoreUnavailable."""
    revision = current(url)
    if revision is None:
        return "empty"
    if revision == head():
        return "current"
    return "older" if revision in _known() else "newer"


def require_current(url: str) -> None:
    """Raises SchemaMismatch, in one line that says what to do, unless the schema is this release's."""
    state = check(url)
    if state == "newer":
        raise SchemaMismatch(_newer(current(url)))
    if state != "current":
        found = "has no schema yet" if state == "empty" else f"has schema {current(url)}"
        raise SchemaMismatch(f"the database {found}, this release needs {head()}: run `taskcenter migrate`")


def up(url: str, to: str = "head") -> str | None:
    """Raise the schema; returns the revision it has then. Nothing happens when it is there already.

    Raises SchemaMismatch for a database of a newer release or an unknown revision, StoreUnavailable.
    """
    return _run(url, command.upgrade, to)


def down(url: str, to: str) -> str | None:
    """Lower the schema to a revision (`base`: remove it all). What only the newer schema can hold is lost."""
    return _run(url, command.downgrade, to)


def move(url: str, to: str) -> str | None:
    """Raise or lower the schema to `to`, whichever it takes. Revisions are numbers with leading zeros."""
    found = current(url)
    lower = to == "base" or (to != "head" and found is not None and to < found)
    return down(url, to) if lower else up(url, to)


def _run(url: str, move: Callable[[Config, str], None], to: str) -> str | None:
    if to not in ("head", "base") and to not in _known():
        raise SchemaMismatch(f"there is no schema revision {to!r}; this release knows {', '.join(sorted(_known()))}")
    parsed = parse_database_url(url)
    with _alone(parsed), _connected(parsed, writing=True) as connection:
        with _named_lock(connection, parsed):
            found = _revision(connection)
            if found is not None and found not in _known():
                raise SchemaMismatch(_newer(found))
            config = _config()
            config.attributes["connection"] = connection
            move(config, to)
            revision = _revision(connection)
            if revision is None:
                connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
            connection.commit()
            return revision


def _newer(revision: str | None) -> str:
    return (
        f"the database has schema {revision}, which is newer than this release ({head()}):"
        " run the newer release, or lower the schema with its `taskcenter migrate --to`"
    )


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _known() -> set[str]:
    return {script.revision for script in _scripts().walk_revisions()}


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return MigrationContext.configure(connection).get_current_revision()


# --- connections ---------------------------------------------------------------------------------------------------


@contextmanager
def _alone(url: SqliteUrl | MysqlUrl) -> Iterator[None]:
    """On SQLite: no other process serves the file. Raises ConfigError."""
    if isinstance(url, MysqlUrl):
        yield
        return
    lock = FileLock(url.path)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _connected(url: SqliteUrl | MysqlUrl, *, writing: bool) -> Iterator[Connection]:
    engine = _sqlite_engine(url, writing=writing) if isinstance(url, SqliteUrl) else _mysql_engine(url)
    fault: StoreUnavailable | None = None
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        fault = _fault(error.orig)
    finally:
        engine.dispose()
    if fault is not None:  # raised out here, so that the server's words are not chained to it
        raise fault


def _fault(cause: BaseException | None) -> StoreUnavailable:
    """The driver's error in our words; a server's own may quote addresses and accounts."""
    if isinstance(cause, sqlite3.Error):
        return StoreFault("server", f"the database file cannot be used ({cause.sqlite_errorname})")
    errno = cause.args[0] if cause is not None and cause.args and isinstance(cause.args[0], int) else 0
    return refused(errno)


def _sqlite_engine(url: SqliteUrl, *, writing: bool) -> Engine:
    """Transactions as SQLite has them: one BEGIN IMMEDIATE around all, CREATE and DROP included."""
    words = "BEGIN IMMEDIATE" if writing else "BEGIN"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(url.path, isolation_level=None, timeout=CONNECT_S)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(words)

    return engine


def _mysql_engine(url: MysqlUrl) -> Engine:
    context = tls_context(url)

    tls: dict[str, Any] = {"ssl": context} if context is not None else {"ssl_disabled": True}
    if url.ssl_mode == "preferred":
        tls = {}  # PyMySQL's own way: encrypted when the server offers it

    def connect() -> pymysql.connections.Connection[Any]:
        return pymysql.connect(
            host=url.host, port=url.port, user=url.user, password=url.password, database=url.database,
            charset="utf8mb4", connect_timeout=CONNECT_S, **tls,
        )  # fmt: skip

    return create_engine("mysql+pymysql://", creator=connect, poolclass=NullPool)


@contextmanager
def _named_lock(connection: Connection, url: SqliteUrl | MysqlUrl) -> Iterator[None]:
    """On MySQL: one migration of this database at a time. Raises StoreUnavailable when another takes too long."""
    if isinstance(url, SqliteUrl):
        yield
        return
    name = "taskcenter.migrate." + hashlib.sha256(url.database.encode()).hexdigest()[:32]
    if connection.exec_driver_sql("SELECT GET_LOCK(%s, %s)", (name, LOCK_WAIT_S)).scalar() != 1:
        raise StoreFault("lock", f"another instance has been migrating this database for {LOCK_WAIT_S} s")
    try:
        yield
    finally:
        connection.exec_driver_sql("SELECT RELEASE_LOCK(%s)", (name,))
