"""An embedded database in a directory of its own, in threads and in the loop."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.store.connection_kit import TABLES, change

from taskcenter.store.sqlite import SqliteDatabase

SLOW = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000000000) SELECT COUNT(*) FROM n"


@asynccontextmanager
async def opened_file(path: str, **limits: Any) -> AsyncIterator[SqliteDatabase]:
    """An open database with the table `item`."""
    database = SqliteDatabase(path, **limits)
    await database.open()
    await change(database, TABLES["sqlite"])
    try:
        yield database
    finally:
        await database.aclose()


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite-")]
