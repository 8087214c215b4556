"""The rotation of the encryption key through the API, and the audit trail's hashes, as the CLI sees them."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.http.business_kit import KEYS, Instance, instance, memory_store
from trio.testing import MockClock

from taskcenter.cli import audit as cli_audit
from taskcenter.errors import StoreUnavailable
from taskcenter.store.records import NewAuditEntry
from taskcenter.store.resealing import Resealed, SqlResealStore
from taskcenter.store.sql_store import SqlStore
from taskcenter.store.vault import Vault

NEWER = (("k2", bytes(range(3, 35))), *KEYS)


async def rotated(there: Instance) -> dict[str, Any]:
    """How the rotation stands once it has ended."""
    while True:
        progress: dict[str, Any] = (await there.call("GET", "/keys/rotate")).json
        if progress["state"] not in {"running", "never"}:
            return progress
        await trio.sleep(0.1)


async def filled(store: SqlStore, tasks: int) -> None:
    """Made with the old key only."""
    async with instance(store) as there:
        made = await there.register()
        for number in range(tasks):
            body = {
                "business_id": f"n{number}",
                "callback_url": "https://example.com/",
                "payload": number,
                "delay": 3600,
            }
            assert (await there.call("POST", "/tasks", made["api_key"], body)).status == 201


def on_newer_keys(store: SqlStore) -> SqlStore:
    """The same database as a process with the new key sees it."""
    return SqlStore(store._database, Vault(NEWER))


async def test_a_rotation_reseals_tells_progress_and_is_in_the_audit_trail(autojump_clock: MockClock) -> None:
    store = await memory_store()
    await filled(store, 60)
    async with instance(on_newer_keys(store), keys=NEWER) as there:
        assert (await there.call("GET", "/keys/rotate")).json["state"] == "never"
        begun = await there.call("POST", "/keys/rotate")
        assert (begun.status, begun.json["state"], begun.json["key_id"]) == (202, "running", "k2")
        done = await rotated(there)
        assert (done["state"], done["walk"], done["resealed"], done["unreadable"]) == ("done", 2, 61, 0)
        entries = await there.audit(None)
        assert [(entry["action"], entry["target"]) for entry in entries if entry["action"] == "keys.rotate"] == [
            ("keys.rotate", "k2")
        ]
    only_new = SqlStore(store._database, Vault(NEWER[:1]))
    async with instance(only_new, keys=NEWER[:1]) as there:
        headers = [("X-TaskCenter-Business", "orders")]
        page = (await there.call("GET", "/tasks?limit=200", headers=headers)).json["items"]
        assert sorted(item["payload"] for item in page) == list(range(60))
    await store.aclose()


class Wavering(SqlResealStore):
    """Out of order for three calls, from the second page on."""

    calls = 0

    async def page(self, cursor: str | None, limit: int) -> Resealed:
        self.calls += 1
        if 2 <= self.calls <= 4:
            raise StoreUnavailable("out")
        return await super().page(cursor, limit)


async def test_a_rotation_waits_for_its_store(autojump_clock: MockClock) -> None:
    store = await memory_store()
    await filled(store, 60)
    newer = on_newer_keys(store)
    newer.resealing = Wavering(store._database, Vault(NEWER))
    async with instance(newer, keys=NEWER) as there:
        await there.call("POST", "/keys/rotate")
        done = await rotated(there)
        assert (done["state"], done["resealed"]) == ("done", 61)
    await store.aclose()


async def test_asking_twice_is_one_rotation_and_a_broken_one_is_continued(autojump_clock: MockClock) -> None:
    store = await memory_store()
    await filled(store, 60)
    async with instance(on_newer_keys(store), keys=NEWER) as there:
        for _ in range(3):
            assert (await there.call("POST", "/keys/rotate")).json["state"] == "running"
    # that process is gone before it has walked far
    async with instance(on_newer_keys(store), keys=NEWER) as there:
        joined = (await there.call("POST", "/keys/rotate")).json
        assert joined["state"] == "running", "for a while it might be at work elsewhere"
        await trio.sleep(20)
        assert (await there.call("GET", "/keys/rotate")).json["state"] == "running"
        continued = (await there.call("POST", "/keys/rotate")).json
        assert continued["started_at"] == joined["started_at"]
        assert (await rotated(there))["state"] == "done"
    await store.aclose()


async def test_what_cannot_be_opened_is_told(autojump_clock: MockClock) -> None:
    store = await memory_store()
    await filled(store, 3)
    forgetful = SqlStore(store._database, Vault(NEWER[:1]))
    async with instance(forgetful, keys=NEWER[:1]) as there:
        await there.call("POST", "/keys/rotate")
        done = await rotated(there)
        assert (done["state"], done["resealed"], done["unreadable"]) == ("done", 0, 4)
    await store.aclose()


# --- audit ---------------------------------------------------------------------------------------------------------


class Pages:
    """Stands where the CLI's client does; the pages were read through the API before."""

    def __init__(self, items: list[Any], size: int) -> None:
        self._pages = [items[at : at + size] for at in range(0, len(items), size)] or [[]]

    def call(self, method: str, path: str, *, query: Any) -> Any:
        number = int(query["cursor"] or 0)
        more = number + 1 < len(self._pages)
        return {"items": self._pages[number], "next_cursor": str(number + 1) if more else None}


async def trail(entries: int) -> list[dict[str, Any]]:
    async with instance() as there:
        business = await there.register()
        assert business["business_code"] == "orders"
        business_id = int((await there.audit())[0]["chain"])
        more = [
            NewAuditEntry(
                business_id, 1_800_000_000_123, "api_key", "k", "task.create", f"täsk {number}", "ok", None, "r"
            )
            for number in range(entries)
        ]
        await there.store.audit.append(more)
        return await there.audit()


@pytest.mark.parametrize("size", [1, 7, 200])
async def test_the_chain_is_verified_from_outside(size: int, autojump_clock: MockClock) -> None:
    items = await trail(30)
    client: Any = Pages(items, size)
    assert cli_audit.walk(client, "orders") == (len(items), None)
    purged: Any = Pages(items[:-5], size)
    assert cli_audit.walk(purged, "orders") == (len(items) - 5, None), "a purge of the oldest is none of a break"


@pytest.mark.parametrize("size", [1, 7, 200])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target", "other"),
        ("at", "2027-01-15T08:00:00.124Z"),
        ("result", "refused"),
        ("ip", "192.0.2.9"),
        ("seq", None),
    ],
)
async def test_a_changed_or_missing_entry_is_found(
    field: str, value: str | None, size: int, autojump_clock: MockClock
) -> None:
    items = await trail(30)
    victim = 12
    seq = items[victim]["seq"]
    if value is None:
        del items[victim]
        seq += 1  # the one that follows the gap
    else:
        items[victim] = {**items[victim], field: value}
    client: Any = Pages(items, size)
    _, broken = cli_audit.walk(client, "orders")
    assert broken is not None
    assert broken.seq == seq
