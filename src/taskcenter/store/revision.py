"""Which schema a database has and which one this release needs: all that a start asks, over the plain drivers.

What changes a schema is `migrate`, which loads SQLAlchemy and Alembic; a start on a current database loads neither.
Synchronous; from the loop, call it in a thread.
"""

from __future__ import annotations

import sqlite3
import ssl
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Literal

import pymysql
from pymysql.constants import ER

from taskcenter.errors import ConfigError, SchemaMismatch, StoreUnavailable, TaskCenterError
from taskcenter.store.connection import StoreFault
from taskcenter.store.mysql_auth import tls_context
from taskcenter.store.mysql_errors import refused, tls_fault
from taskcenter.store.sqlite_file import unusable
from taskcenter.store.url import MysqlUrl, SqliteUrl, parse_database_url

State = Literal["empty", "older", "current", "newer"]
CONNECT_S: Final = 5
VERSIONS: Final = Path(__file__).parent / "migrations" / "versions"
_READ: Final = "SELECT version_num FROM alembic_version"


def known() -> frozenset[str]:
    """The revisions this release knows: the numbers that begin the names of its steps."""
    return frozenset(path.name.partition("_")[0] for path in VERSIONS.glob("[0-9]*_*.py"))


def head() -> str:
    """The revision this release works with."""
    return max(known())


def current(url: str) -> str | None:
    """The database's revision; None when it was never migrated. Raises ConfigError or StoreUnavailable."""
    parsed = parse_database_url(url)
    if isinstance(parsed, MysqlUrl):
        return _of_server(parsed)
    return _of_file(parsed) if Path(parsed.path).exists() else None


def check(url: str) -> State:
    """How the database stands to this release. Raises ConfigError or StoreUnavailable."""
    return _state(current(url))


def require_current(url: str) -> None:
    """Raises SchemaMismatch, in one line that says what to do, unless the schema is this release's."""
    revision = current(url)
    state = _state(revision)
    if state == "newer":
        raise SchemaMismatch(newer(revision))
    if state != "current":
        found = "has no schema yet" if state == "empty" else f"has schema {revision}"
        raise SchemaMismatch(f"the database {found}, this release needs {head()}: run `taskcenter migrate`")


def newer(revision: str | None) -> str:
    """The line for a database that a newer release has migrated."""
    return (
        f"the database has schema {revision}, which is newer than this release ({head()}):"
        " run the newer release, or lower the schema with its `taskcenter migrate --to`"
    )


def _state(revision: str | None) -> State:
    if revision is None:
        return "empty"
    if revision == head():
        return "current"
    return "older" if revision in known() else "newer"


# --- connections ---------------------------------------------------------------------------------------------------


def connect_file(url: SqliteUrl) -> sqlite3.Connection:
    return sqlite3.connect(url.path, isolation_level=None, timeout=CONNECT_S)


def connect_server(url: MysqlUrl) -> pymysql.connections.Connection[Any]:
    """Raises ConfigError for TLS files that cannot be used, and pymysql's errors."""
    context = tls_context(url)
    tls: dict[str, Any] = {"ssl": context} if context is not None else {"ssl_disabled": True}
    if url.ssl_mode == "preferred":
        tls = {}  # PyMySQL's own way: encrypted when the server offers it
    return pymysql.connect(
        host=url.host, port=url.port, user=url.user, password=url.password, database=url.database,
        charset="utf8mb4", connect_timeout=CONNECT_S, **tls,
    )  # fmt: skip


def driver_fault(cause: BaseException | None, url: SqliteUrl | MysqlUrl) -> TaskCenterError:
    """A driver's error in our words; a server's own may quote addresses and accounts."""
    if isinstance(cause, sqlite3.Error) and isinstance(url, SqliteUrl):
        found = unusable(cause, url.path, writable=True)
        known_fault = isinstance(found, ConfigError | StoreUnavailable)
        return (
            found
            if known_fault
            else StoreFault("server", f"the database file cannot be used ({cause.sqlite_errorname})")
        )
    handshake = getattr(cause, "original_exception", None)  # where PyMySQL keeps what it calls "cannot connect"
    if isinstance(handshake, ssl.SSLError | ssl.CertificateError):
        return tls_fault(handshake)
    errno = cause.args[0] if cause is not None and cause.args and isinstance(cause.args[0], int) else 0
    return refused(errno)


def _of_file(url: SqliteUrl) -> str | None:
    fault: TaskCenterError
    try:
        with closing(connect_file(url)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
                return None
            row = connection.execute(_READ).fetchone()
            return None if row is None else str(row[0])
    except sqlite3.Error as error:
        fault = driver_fault(error, url)
    raise fault  # out here, so that the driver's words are not chained to it


def _of_server(url: MysqlUrl) -> str | None:
    fault: TaskCenterError
    try:
        with connect_server(url) as connection, connection.cursor() as cursor:
            cursor.execute(_READ)
            row = cursor.fetchone()
            return None if row is None else str(row[0])
    except pymysql.MySQLError as error:
        if error.args and error.args[0] == ER.NO_SUCH_TABLE:
            return None
        fault = driver_fault(error, url)
    raise fault
