"""The audit trail's own writes: gathered, bounded, and not lost to an outage."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from tests.http.business_kit import START_MS, memory_store
from tests.store.store_kit import audit_entry
from trio.testing import MockClock

from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.service.audit_trail import MOST_KINDS, MOST_WAITING, AuditTrail
from taskcenter.store.audit import SqlAuditStore
from taskcenter.store.records import AuditEntry, NewAuditEntry
from taskcenter.store.sql_store import SqlStore


class Wavering:
    """The store's audit, which can be switched off, and counts its transactions."""

    def __init__(self, inner: SqlAuditStore) -> None:
        self._inner = inner
        self.out = False
        self.commits = 0

    async def append(self, entries: Sequence[NewAuditEntry]) -> None:
        if self.out:
            raise StoreUnavailable("out")
        self.commits += 1
        await self._inner.append(entries)

    async def page(self, business_id: int, before_seq: int | None, limit: int) -> list[AuditEntry]:
        return await self._inner.page(business_id, before_seq, limit)


@asynccontextmanager
async def running() -> AsyncGenerator[tuple[AuditTrail, Wavering, SqlStore], None]:
    store = await memory_store()
    audit = Wavering(store.audit)
    trail = AuditTrail(audit, Clock(START_MS))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: trail.run(task_status=task_status))
        yield trail, audit, store
        nursery.cancel_scope.cancel()
    await store.aclose()


def entry(target: str = "t") -> NewAuditEntry:
    return audit_entry("credential.use", 0, target=target)


async def written(store: SqlStore) -> list[AuditEntry]:
    return (await store.audit.page(0, None, 1000))[::-1]


def fail(trail: AuditTrail, reason: str = "key_unknown", ip: str = "192.0.2.1") -> None:
    trail.failure(reason, business_id=0, key_id=None, ip=ip, request_id="r")


async def test_what_comes_together_is_one_commit_within_50_ms(autojump_clock: MockClock) -> None:
    async with running() as (trail, audit, store):
        for number in range(150):
            trail.add(entry(str(number)))
        await trio.sleep(0.051)
        assert [one.target for one in await written(store)] == [str(number) for number in range(150)]
        assert audit.commits == 1


async def test_an_outage_delays_and_loses_nothing(autojump_clock: MockClock) -> None:
    async with running() as (trail, audit, store):
        audit.out = True
        for number in range(500):
            trail.add(entry(str(number)))
            await trio.sleep(0.01)
        assert await written(store) == []
        audit.out = False
        await trio.sleep(2)
        assert [one.target for one in await written(store)] == [str(number) for number in range(500)]


async def test_memory_is_bounded_in_an_outage(autojump_clock: MockClock) -> None:
    async with running() as (trail, audit, store):
        audit.out = True
        for number in range(MOST_WAITING + 70):
            trail.add(entry(str(number)))
        assert trail.dropped == 70
        audit.out = False
        await trio.sleep(2)
        (last,) = await store.audit.page(0, None, 1)
        assert last.target == str(MOST_WAITING - 1) and last.seq == MOST_WAITING and trail.dropped == 0


async def test_a_failure_that_repeats_is_written_once_and_then_counted(autojump_clock: MockClock) -> None:
    async with running() as (trail, _, store):
        for _ in range(1000):
            fail(trail)
        await trio.sleep(1)
        assert [one.result for one in await written(store)] == ["refused"]
        await trio.sleep(60)
        first, again = await written(store)
        assert again.result == "refused, 999 more within 60 s" and (again.ip, again.target) == (first.ip, first.target)
        fail(trail)
        await trio.sleep(1)
        assert (await written(store))[-1].result == "refused", "a new minute begins anew"


async def test_failures_of_a_thousand_kinds_write_a_few_hundred_rows(autojump_clock: MockClock) -> None:
    async with running() as (trail, _, store):
        for number in range(5000):
            fail(trail, ip=f"198.51.{number // 250}.{number % 250}")
        await trio.sleep(61)
        rows = await written(store)
        assert len(rows) == MOST_KINDS + 1
        assert rows[-1].result == f"refused, {5000 - MOST_KINDS} within 60 s" and rows[-1].ip is None


async def test_the_end_writes_what_waits_and_what_was_counted(autojump_clock: MockClock) -> None:
    store = await memory_store()
    trail = AuditTrail(store.audit, Clock(START_MS))
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: trail.run(task_status=task_status))
        trail.add(entry())
        for _ in range(3):
            fail(trail)
        nursery.cancel_scope.cancel()
    assert [one.result for one in await written(store)] == ["ok", "refused", "refused, 2 more within 60 s"]
    await store.aclose()


async def test_an_end_without_a_store_says_what_is_lost(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running() as (trail, audit, _):
        audit.out = True
        trail.add(entry("canary"))
    assert "audit entries are lost" in capsys.readouterr().out
