"""Raises and lowers the schema. Synchronous; from the loop, call it in a thread.

Alembic does the work. On MySQL a named lock keeps two instances from migrating at once; on SQLite the whole run is one
transaction, under the lock that keeps the file to one process. A server commits each CREATE by itself, so a run that
is cut off there leaves a part, which the next run completes: every step skips what is there. Which schema a database
has is told by `revision`, without SQLAlchemy and Alembic, which are slow to load.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from taskcenter.errors import SchemaMismatch, TaskCenterError
from taskcenter.store.connection import StoreFault
from taskcenter.store.revision import VERSIONS, connect_file, connect_server, current, driver_fault, known, newer
from taskcenter.store.sqlite_file import FileLock
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url

LOCK_WAIT_S: Final = 60  # another instance is migrating


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
    if to not in ("head", "base") and to not in known():
        raise SchemaMismatch(f"there is no schema revision {to!r}; this release knows {', '.join(sorted(known()))}")
    parsed = parse_database_url(url)
    with _alone(parsed), _connected(parsed) as connection:
        with _named_lock(connection, parsed):
            found = _revision(connection)
            if found is not None and found not in known():
                raise SchemaMismatch(newer(found))
            config = _config()
            config.attributes["connection"] = connection
            move(config, to)
            revision = _revision(connection)
            if revision is None:
                connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
            connection.commit()
            return revision


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent).replace("%", "%%"))
    return config


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
def _connected(url: SqliteUrl | MysqlUrl) -> Iterator[Connection]:
    engine = _sqlite_engine(url) if isinstance(url, SqliteUrl) else _mysql_engine(url)
    fault: TaskCenterError | None = None
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        fault = driver_fault(error.orig, url)
    finally:
        engine.dispose()
    if fault is not None:  # raised out here, so that the server's words are not chained to it
        raise fault


def _sqlite_engine(url: SqliteUrl) -> Engine:
    """Transactions as SQLite has them: one BEGIN IMMEDIATE around all, CREATE and DROP included."""
    engine = create_engine("sqlite://", creator=partial(connect_file, url), poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _mysql_engine(url: MysqlUrl) -> Engine:
    return create_engine("mysql+pymysql://", creator=partial(connect_server, url), poolclass=NullPool)


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
