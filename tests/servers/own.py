"""A server of the user's own, named by TASKCENTER_TEST_MYSQL_URL: used as it is, never stopped."""

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pymysql
from tests.servers.databases import DatabaseServer
from tests.servers.rundir import ServerError

if TYPE_CHECKING:
    from pymysql.connections import Connection


class OwnServer(DatabaseServer):
    """Its account must be allowed to create and drop databases whose names begin with `taskcenter_test_`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "mysql" or not parts.hostname or not parts.username:
            raise ServerError("TASKCENTER_TEST_MYSQL_URL must look like mysql://user:password@127.0.0.1:3306/")
        self.host = parts.hostname
        self.port = parts.port or 3306
        self.user = unquote(parts.username)
        self.password = unquote(parts.password or "")
        try:
            version = str(self.execute("SELECT VERSION()")[0][0])
        except pymysql.err.MySQLError as error:
            raise ServerError(
                f"the server named by TASKCENTER_TEST_MYSQL_URL does not answer at {self.host}:{self.port}: {error}"
            ) from error
        self.kind = "mariadb" if "mariadb" in version.lower() else "mysql"

    def __repr__(self) -> str:
        return f"<OwnServer {self.kind} {self.host}:{self.port}>"

    def connect(self, database: str | None = None) -> "Connection[Any]":
        return pymysql.connect(
            host=self.host,
            port=self.port,
            user=self.user,
            password=self.password,
            database=database,
            autocommit=True,
            connect_timeout=5,
            read_timeout=30,
        )
