"""A fresh database for a load script, by name or by URL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.servers import Fleet
from tests.servers.databases import Kind

BINLOG: Final = ("--log-bin=binlog", "--server-id=1", "--sync-binlog=1")  # the tests' servers write none


@contextmanager
def database(store: str) -> Iterator[str]:
    """`sqlite`, `mariadb`, `mysql`, or a database URL that is used as it is. `mariadb+binlog` and `mysql+binlog` keep a
    durable binary log, as a server with replicas does: two flushes a commit.
    """
    if "://" in store:
        yield store
    elif store == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{directory}/bench.db"
    else:
        kind: Kind = "mariadb" if store.startswith("mariadb") else "mysql"
        with Fleet() as fleet:
            server = fleet.new(kind, extra_arguments=BINLOG if store.endswith("+binlog") else ())
            server.start()
            yield server.create_database()
