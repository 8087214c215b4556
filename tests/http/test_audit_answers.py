"""An answer comes after its entry in the audit trail, whatever becomes of the process then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import trio
from tests.http.business_kit import instance
from trio.testing import MockClock

from taskcenter.errors import StoreUnavailable
from taskcenter.service.api_keys import ApiKey
from taskcenter.service.audit_trail import SETTLE_S
from taskcenter.store.records import AuditEntry, NewAuditEntry


class SlowAudit:
    """An audit store whose appends a test holds up."""

    def __init__(self, written: Callable[[Sequence[NewAuditEntry]], Awaitable[None]]) -> None:
        self._written = written

    async def append(self, entries: Sequence[NewAuditEntry]) -> None:
        await self._written(entries)

    async def page(self, business_id: int, before_seq: int | None, limit: int) -> list[AuditEntry]:
        raise AssertionError("the trail reads nothing")


async def test_an_answer_waits_until_its_entry_is_in_the_audit(autojump_clock: MockClock) -> None:
    """Of a use, a failure, a token: whoever kills the process after the answer, the entry is there."""
    async with instance() as here:
        key = (await here.register())["api_key"]
        await here.may(key)
        await trio.sleep(61)
        append = here.store.audit.append
        done: list[str] = []

        async def slowly(entries: Sequence[NewAuditEntry]) -> None:
            await trio.sleep(0.3)
            await append(entries)
            done.extend(entry.action for entry in entries)

        here.services.access.trail._store = SlowAudit(slowly)
        wrong = ApiKey(key[8:24], "0" * 43).text
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "credential.use": lambda: here.may(key),
            "auth.failure": lambda: here.may(wrong),
            "token.issue": lambda: here.call("POST", "/businesses/orders/tokens", key, {}),
        }
        for action, ask in asks.items():
            before = trio.current_time()
            await ask()
            assert done.pop() == action and trio.current_time() - before > 0.299
            await ask()
        assert done == ["token.issue"], "uses and failures of the same minute are not written again, nor waited for"


async def test_without_an_audit_no_token_is_issued_and_reads_wait_a_moment_only(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]

        async def never(_: Sequence[NewAuditEntry]) -> None:
            await trio.sleep(100)
            raise StoreUnavailable("out")

        here.services.access.trail._store = SlowAudit(never)
        before = trio.current_time()
        assert await here.may(key) == 200
        assert trio.current_time() - before <= SETTLE_S
        refused = await here.call("POST", "/businesses/orders/tokens", key, {})
        assert (refused.status, refused.code) == (503, "store_unavailable")


async def test_what_a_good_credential_may_not_do_is_in_the_audit(autojump_clock: MockClock) -> None:
    async with instance() as here:
        key = (await here.register())["api_key"]
        token = await here.token(key, scopes=["tasks:read"])
        for _ in range(3):
            assert (await here.call("GET", "/audit", key)).status == 403
        assert (await here.call("PUT", "/businesses/orders", key, {"rate_limit": 1})).status == 403
        assert (await here.call("DELETE", "/tasks?status=pending", token)).status == 403
        refused = [entry for entry in await here.audit() if entry["action"] == "auth.failure"]
        assert [(entry["actor"]["kind"], entry["target"]) for entry in reversed(refused)] == [
            ("api_key", "forbidden: GET /api/v1/audit"),
            ("api_key", "forbidden: PUT /api/v1/businesses/<business_code>"),
            ("jwt", "forbidden: DELETE /api/v1/tasks"),
        ]
        assert {entry["actor"]["key_id"] for entry in refused} == {key[8:24]}
        assert here.auth_count("orders", "refused", "forbidden") == 5
