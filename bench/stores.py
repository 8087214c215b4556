"""A fresh database for a load script, by name or by URL."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers import Fleet


@contextmanager
def database(store: str) -> Iterator[str]:
    """`sqlite`, `mariadb`, `mysql`, or a database URL that is used as it is."""
    if "://" in store:
        yield store
    elif store == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{directory}/bench.db"
    else:
        with Fleet() as fleet:
            yield fleet.get(store).create_database()
