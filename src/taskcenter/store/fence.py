"""The fence: whoever writes as a shard's owner share-locks the shard's row first and compares terms.

A lease that changes hands needs that row exclusively, so it waits until the write is over, and every later write of the
old owner finds a term that is not its own. The lock is what matters: a look alone (`WHERE EXISTS …`) holds nothing at
READ COMMITTED.
"""

from __future__ import annotations

from collections.abc import Collection

from taskcenter.store.connection import Connection
from taskcenter.store.statements import engine as sql
from taskcenter.store.statements.text import fetch_in


async def held(connection: Connection, shards: Collection[int]) -> dict[int, int]:
    """The shards' terms, which cannot change before this transaction is over.

    One without a row is left out, and one without an owner: who has released a shard still knows its term.
    """
    rows = await fetch_in(connection, sql.FENCE.on(connection.dialect), sorted(shards))
    return dict(rows)
