"""Sealing anew, on every store: everything gets the newest key, nothing else changes, and nothing is undone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from tests.store.connection_kit import by_hand
from tests.store.store_kit import (
    BUSINESS,
    KEY,
    LIMIT,
    NOW,
    add_business,
    audit_entry,
    database_of,
    execution,
    new_task,
)

from taskcenter.store.connection import Connection, Param, Row
from taskcenter.store.records import Replayed, Task
from taskcenter.store.resealing import Resealed, SqlResealStore
from taskcenter.store.rows import born, execution_row
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.statements import tasks as task_sql
from taskcenter.store.statements.text import insert
from taskcenter.store.vault import Unsealable, Vault

OLD = KEY
NEW = ("k2", bytes(range(1, 33)))


@asynccontextmanager
async def opened(url: str, *keys: tuple[str, bytes]) -> AsyncIterator[SqlStore]:
    """With these encryption keys, the newest first."""
    store = open_store(url, Vault(keys))
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


class Meddling:
    """A store's database in which every task that a transaction reads is changed right behind it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def write(self, work: Any) -> Any:
        return await self._inner.write(lambda connection: work(Meddling(connection)))

    async def fetch_one(self, sql: str, params: Sequence[Param] = ()) -> Row | None:
        row: Row | None = await self._inner.fetch_one(sql, params)
        if "FROM tasks" in sql:
            await self._inner.execute("UPDATE tasks SET version = version + 1 WHERE id = ?", params)
        return row


async def fill(store: SqlStore, count: int) -> list[Task]:
    """A business with tasks, each with an attempt; every third task without headers."""
    await add_business(store)
    tasks = [new_task(payload=b'{"n":%d}' % number, headers={} if number % 3 == 0 else {"X": str(number)})
             for number in range(count)]  # fmt: skip
    await store.tasks.create(tasks, {BUSINESS: LIMIT}, [audit_entry()] * count, NOW)

    async def attempts(connection: Connection) -> None:
        rows = [
            execution_row(
                replace(execution(born(task), number=1), request_headers={"A": "b"}, response_body=b"said"), NOW,
                Vault([OLD]),
            )
            for task in tasks
        ]  # fmt: skip
        await connection.insert_many(insert("task_executions", task_sql.EXECUTION_COLUMNS), rows)

    await database_of(store).write(attempts)
    return [born(task) for task in tasks]


async def walk(store: SqlStore, limit: int = 7) -> list[Resealed]:
    pages, cursor = [], None
    while True:
        pages.append(await store.resealing.page(cursor, limit))
        cursor = pages[-1].cursor
        if cursor is None:
            return pages


def total(pages: list[Resealed]) -> tuple[int, int, int]:
    """Resealed, missed, unreadable."""
    return sum(p.resealed for p in pages), sum(p.missed for p in pages), sum(p.unreadable for p in pages)


async def seen_by(store: SqlStore, tasks: list[Task]) -> list[object]:
    """All that is sealed, opened; and the rows around it."""
    found: list[object] = [await store.businesses.signing_secrets(BUSINESS, NOW)]
    for task in tasks:
        found += [await store.tasks.get(BUSINESS, task.id), await store.tasks.executions(BUSINESS, task.id, None, 5)]
    return found


async def test_everything_gets_the_newest_key_and_nothing_else_changes(migrated_url: str) -> None:
    async with opened(migrated_url, OLD) as old:
        tasks = await fill(old, 40)
        before = await seen_by(old, tasks)
    async with opened(migrated_url, NEW, OLD) as both:
        pages = await walk(both)
        assert total(pages) == (1 + 40 + 40, 0, 0)
        assert max(page.resealed for page in pages) == 7
        assert total(await walk(both)) == (0, 0, 0), "a second walk finds nothing"
    async with opened(migrated_url, NEW) as new:
        assert await seen_by(new, tasks) == before
        again = new_task(tasks[0].business_unique_id, payload=b"another", request_hash=bytes(32))
        (replayed,) = await new.tasks.create([again], {BUSINESS: LIMIT}, [audit_entry()], NOW)
        assert replayed == Replayed(tasks[0]), "the hash it is known by went along"
        hashes = [row[0] for row in by_hand(migrated_url, "SELECT request_hash FROM tasks")]
        assert len(set(hashes)) == 40 and not any(bytes(32) in bytes(each) for each in hashes), "equal ones look unlike"
    async with opened(migrated_url, OLD) as old:
        with pytest.raises(Unsealable, match="k2"):
            await old.tasks.get(BUSINESS, tasks[0].id)


async def test_a_walk_that_broke_off_goes_on_and_one_that_begins_anew_skips_what_is_done(migrated_url: str) -> None:
    async with opened(migrated_url, OLD) as old:
        await fill(old, 20)
    async with opened(migrated_url, NEW, OLD) as both:
        first = await both.resealing.page(None, 7)
        second = await both.resealing.page(first.cursor, 7)
        done = first.resealed + second.resealed
        assert total(await walk(both))[0] == 41 - done
    async with opened(migrated_url, OLD, NEW) as back:
        assert total(await walk(back, 1000)) == (41, 0, 0), "in either direction, pages of any size"


async def test_a_row_that_changes_meanwhile_is_left_to_the_next_walk(migrated_url: str) -> None:
    async with opened(migrated_url, OLD) as old:
        await fill(old, 3)
    sealed = by_hand(migrated_url, "SELECT id, headers, payload FROM tasks ORDER BY id")
    vault = Vault([NEW, OLD])
    async with opened(migrated_url, NEW, OLD) as both:
        meddling = SqlResealStore(cast("Any", Meddling(database_of(both))), vault)
        cursor, missed = None, 0
        while (page := await meddling.page(cursor, 7)).cursor is not None:
            cursor, missed = page.cursor, missed + page.missed
        assert missed == 3
        assert by_hand(migrated_url, "SELECT id, headers, payload FROM tasks ORDER BY id") == sealed
        assert total(await walk(both)) == (3, 0, 0)
    assert list(by_hand(migrated_url, "SELECT version FROM tasks")) == [(2,)] * 3, "the walk raises no version"


async def test_what_no_key_opens_is_counted_and_left_alone(migrated_url: str) -> None:
    async with opened(migrated_url, OLD) as old:
        one, other = await fill(old, 2)
    by_hand(migrated_url, f"DELETE FROM task_executions WHERE task_id = '{other.id}'")
    async with opened(migrated_url, NEW) as forgetful:
        assert total(await walk(forgetful)) == (0, 0, 1 + 2 + 1)
    async with opened(migrated_url, OLD) as old:
        assert await old.tasks.get(BUSINESS, one.id) == one


async def test_progress_is_noted(store: SqlStore) -> None:
    assert await store.resealing.noted() is None
    for text in (b"one", b"one", b"two"):
        await store.resealing.note(text)
        assert await store.resealing.noted() == text
