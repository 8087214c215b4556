"""What private servers and a server of the user's own have in common: databases made and dropped on request."""

import secrets
from abc import ABC, abstractmethod
from contextlib import closing
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

import pymysql

Kind = Literal["mariadb", "mysql"]
DATABASE_PREFIX = "taskcenter_test_"
_PATIENCE_S = 10


def mysql_url(user: str, password: str, host: str, port: int, database: str = "") -> str:
    """`mysql://user:password@host:port/database`, each part quoted as a URL wants it."""
    shown_host = f"[{host}]" if ":" in host else host
    return f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@{shown_host}:{port}/{database}"


class DatabaseServer(ABC):
    """A MySQL-protocol server that tests may fill with databases of random names."""

    kind: Kind
    host: str
    port: int
    user: str
    password: str

    @abstractmethod
    def connect(self, database: str | None = None) -> "pymysql.connections.Connection[Any]":
        """Return a new administrator's connection (PyMySQL, autocommit). Close it yourself."""

    @property
    def admin_url(self) -> str:
        """URL of an account that may do everything the tests need, without a database."""
        return mysql_url(self.user, self.password, self.host, self.port)

    def ensure_running(self) -> None:
        """Undo what an earlier test did to the server. A server we do not own is taken as it is."""
        return

    def execute(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one statement as administrator on a fresh connection; return its rows."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            return list(cursor.fetchall())

    def create_database(self) -> str:
        """Create an empty database; return the URL with which the service may use it."""
        self.ensure_running()
        name = DATABASE_PREFIX + secrets.token_hex(8)
        self.execute(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
        return mysql_url(self.user, self.password, self.host, self.port, name)

    def drop_database(self, url: str) -> None:
        """Drop the database of a URL that `create_database` gave. Ends the sessions that still use it."""
        self.ensure_running()
        name = unquote(urlsplit(url).path.removeprefix("/"))
        if not name.startswith(DATABASE_PREFIX):
            raise ValueError(f"not a database of the tests: {name!r}")
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SET SESSION lock_wait_timeout = {_PATIENCE_S}")
            cursor.execute("SHOW PROCESSLIST")
            for row in cursor.fetchall():
                if row[3] == name:
                    _kill(cursor, row[0])
            cursor.execute(f"DROP DATABASE IF EXISTS {name}")


def _kill(cursor: "pymysql.cursors.Cursor", connection_id: int) -> None:
    try:
        cursor.execute(f"KILL {connection_id}")
    except pymysql.err.OperationalError as error:
        if error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:  # it has gone by itself
            raise
