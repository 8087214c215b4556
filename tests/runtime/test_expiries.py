"""The ends of API keys and client certificates: shown all the time, told from a month before, once a day."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from tests.store.store_kit import NOW, audit_entry, business, credential, signing_secret, vault
from trio.testing import MockClock

from taskcenter.clock import Clock
from taskcenter.metrics import Metrics
from taskcenter.runtime.expiries import Expiries, missed_keys
from taskcenter.store.callback_credentials import ClientCertificate
from taskcenter.store.records import Business, Credential
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.url import SqliteUrl
from taskcenter.times import DAY_MS

HOUR_MS = DAY_MS // 24
MINE = 30


@dataclass
class Watched:
    store: SqlStore
    clock: Clock
    metrics: Metrics
    expiries: Expiries
    alerts: list[tuple[str, str]] = field(default_factory=list)

    async def add(self, made: Business, *keys: Credential) -> None:
        first, *more = keys
        await self.store.businesses.create(made, first, signing_secret(f"s-{made.id}", made.id), audit_entry())
        for key in more:
            await self.store.businesses.rotate(
                key, previous_valid_until=10**15, revoke_previous=False, now=NOW, signing=None, audit=audit_entry()
            )

    def shown(self, name: str, code: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"taskcenter_{name}_expiry_timestamp_seconds", {"business": code})


@asynccontextmanager
async def watching() -> AsyncIterator[Watched]:
    store = open_store(SqliteUrl(":memory:"), vault(), in_loop=True)
    await store.open()
    await store.create_schema()
    clock, metrics = Clock(NOW), Metrics()
    alerts: list[tuple[str, str]] = []
    expiries = Expiries(
        store.businesses, clock, metrics, lambda rule, text: alerts.append((rule, text)), lambda shard: shard == MINE
    )
    async with trio.open_nursery() as nursery:
        yield Watched(store, clock, metrics, expiries, alerts)
        nursery.cancel_scope.cancel()
    await store.aclose()


def key(name: str, days: float, of: int = 7, used_hours_ago: float | None = None) -> Credential:
    used = None if used_hours_ago is None else NOW - int(used_hours_ago * HOUR_MS)
    return credential(name, of, expires_at=NOW + int(days * DAY_MS), last_used_at=used)


@pytest.mark.parametrize(
    ("keys", "missed"),
    [
        ([], []),
        ([key("a", 365)], []),
        ([key("a", 31)], []),
        ([key("a", 29)], ["a"]),
        ([key("a", 0.5), key("b", 365)], []),
        ([key("a", 0.5, used_hours_ago=2), key("b", 365)], ["a"]),
        ([key("a", 0.5, used_hours_ago=25), key("b", 365)], []),
        ([key("a", 5, used_hours_ago=1), key("b", 20)], ["a", "b"]),
    ],
)
def test_an_end_that_somebody_would_miss(keys: list[Credential], missed: list[str]) -> None:
    assert [each.key_id for each in missed_keys(keys, NOW)] == missed


async def test_ends_are_shown_and_told_once_a_day_by_the_owner(autojump_clock: MockClock) -> None:
    async with watching() as the:
        tls = ClientCertificate("", "", ("a.example",), "CN=us", "CN=ca", NOW + 20 * DAY_MS, "f" * 64)
        await the.add(business(7, "soon", shard=MINE, callback_tls=tls), key("k-soon", 29), key("k-old", 1))
        await the.add(business(8, "late", shard=MINE), key("k-late", 365, 8))
        await the.add(business(9, "another-owners", shard=MINE + 1), key("k-other", 1, 9))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(the.expiries.run)
            await trio.sleep(1)
            assert the.shown("api_key", "soon") == (NOW + 29 * DAY_MS) / 1000
            assert the.shown("api_key", "late") == (NOW + 365 * DAY_MS) / 1000
            assert the.shown("callback_certificate", "soon") == (NOW + 20 * DAY_MS) / 1000
            assert the.shown("callback_certificate", "late") is None
            assert the.shown("api_key", "another-owners") is None
            first = list(the.alerts)
            assert first == [
                ("api_key_expiring", "business soon: API key k-soon ends in 29 days; rotate it"),
                ("callback_certificate_expiring",
                 "business soon: the client certificate for callbacks (CN=us) ends in 20 days; replace it"),
            ]  # fmt: skip
            await trio.sleep(23 * 3600)
            assert the.alerts == first
            await trio.sleep(2 * 3600)
            assert len(the.alerts) == 4
            await the.store.businesses.rotate(
                key("k-new", 365), previous_valid_until=NOW, revoke_previous=True, now=the.clock.now_ms(),
                signing=None, audit=audit_entry(),
            )  # fmt: skip
            await trio.sleep(25 * 3600)
            assert [rule for rule, _ in the.alerts[4:]] == ["callback_certificate_expiring"], (
                "a rotated key is no alert"
            )
            nursery.cancel_scope.cancel()


async def test_a_certificate_that_has_ended_is_told(autojump_clock: MockClock) -> None:
    async with watching() as the:
        tls = ClientCertificate("", "", ("a.example",), "CN=us", "CN=ca", NOW - 1, "f" * 64)
        await the.add(business(7, "past", shard=MINE, callback_tls=tls), key("k", 365))
        await the.expiries.look()
        assert the.alerts[0][1].endswith("(CN=us) has ended; replace it")
