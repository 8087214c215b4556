"""Sealing anew, with the newest key, whatever is sealed with an older one (`interface.ResealStore`).

A walk goes over signing secrets, tasks, attempts and businesses by primary key, in pages. A page reads only the
beginning of each value, which names its key; what is sealed with the newest one is passed by. The rest of the page is
opened, sealed and written in one short transaction.

Invariants. A value is replaced by one that opens to the same bytes in the same place. Attempts and secrets never change
otherwise; a task's or business's write is guarded by its version and does not raise it, so neither an attempt under way
nor a change through the API notices the walk, and the walk never undoes one. So pages may be repeated, and walks may
run side by side.

On failure. A value that does not open (its key is gone, or somebody tampered with it) stays and is counted. A row that
was changed between being read and written stays too: the next walk finds it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

from taskcenter.store.connection import Connection, Database, Param, Row
from taskcenter.store.statements import maintenance as meta_sql
from taskcenter.store.statements import resealing as sql
from taskcenter.store.vault import Unsealable, Vault

SCAN: Final = 500
_PROGRESS: Final = "key_rotation"


@dataclass(frozen=True, slots=True)
class Resealed:
    """What became of a page."""

    cursor: str | None  # for the next page; None at the end of the walk
    seen: int
    resealed: int = 0
    missed: int = 0  # changed by somebody else meanwhile
    unreadable: int = 0


class SqlResealStore:
    """See `interface.ResealStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    @property
    def key_id(self) -> str:
        return self._vault.current_key_id

    async def page(self, cursor: str | None, limit: int) -> Resealed:
        position, key = (0, sql.PLACES[0].first) if cursor is None else _parsed(cursor)
        place = sql.PLACES[position]

        async def scan(connection: Connection) -> list[Row]:
            return await connection.fetch(place.scan.on(connection.dialect), (*place.after(key), SCAN))

        rows = await self._database.read(scan)
        width = len(place.first)
        old = [number for number, row in enumerate(rows) if any(map(self._is_old, row[width:]))]
        if len(old) > limit:
            old = old[:limit]
            rows = rows[: old[-1] + 1]
            following: str | None = json.dumps([position, *rows[-1][:width]])
        elif len(rows) == SCAN:
            following = json.dumps([position, *rows[-1][:width]])
        else:
            position += 1
            following = json.dumps([position, *sql.PLACES[position].first]) if position < len(sql.PLACES) else None
        result = Resealed(following, len(rows))
        if not old:
            return result
        keys = [tuple(rows[number][:width]) for number in old]

        async def work(connection: Connection) -> Resealed:
            done = result
            for one in keys:
                done = await self._reseal(connection, place, one, done)
            return done

        return await self._database.write(work)

    def _is_old(self, beginning: bytes | None) -> bool:
        if beginning is None:
            return False
        try:
            return self._vault.key_id_of(beginning) != self._vault.current_key_id
        except Unsealable:
            return True

    async def _reseal(
        self, connection: Connection, place: sql.Place, key: tuple[Param, ...], done: Resealed
    ) -> Resealed:
        row = await connection.fetch_one(place.read, key)
        if row is None:
            return done  # it was purged meanwhile
        values, guard = row[: len(place.columns)], row[len(place.columns) :]
        try:
            sealed = [
                None if value is None else self._anew(value, place.context(column, key))
                for column, value in zip(place.columns, values, strict=True)
            ]
        except Unsealable:
            return replace(done, unreadable=done.unreadable + 1)
        if await connection.execute(place.write, (*sealed, *key, *guard)):
            return replace(done, resealed=done.resealed + 1)
        return replace(done, missed=done.missed + 1)

    def _anew(self, value: bytes, context: str) -> bytes:
        return self._vault.seal(self._vault.open(value, context), context)

    async def note(self, progress: bytes) -> None:
        async def work(connection: Connection) -> None:
            await connection.execute(meta_sql.SET_META.on(connection.dialect), (_PROGRESS, progress))
            await connection.execute(sql.SET_META, (progress, _PROGRESS))

        await self._database.write(work)

    async def noted(self) -> bytes | None:
        async def work(connection: Connection) -> bytes | None:
            row = await connection.fetch_one(meta_sql.META, (_PROGRESS,))
            return None if row is None else bytes(row[0])

        return await self._database.read(work)


def _parsed(cursor: str) -> tuple[int, tuple[Param, ...]]:
    position, *key = json.loads(cursor)
    return position, tuple(key)
