"""The audit trail of what has no write of its own to ride with: failed authentications, uses of credentials.

Group commit: what was added while the last append was under way is appended in one transaction. An entry that is added
hands out a receipt, and the answer to the request waits for it (`settle`), beside the work it does anyway; so no entry
is lost when the process is killed after an answer. (What changes something carries its entry in its own transaction:
`audit_entry`.)

Invariants. At most `MOST_WAITING` entries wait. The same failure (key, reason, address) is written at once and then,
if it goes on, once a minute with a count; no more than `MOST_KINDS` different ones a minute are told apart, the rest is
counted together. So a flood adds a few hundred rows a minute, whatever its rate. The use of a credential is written
once a minute for each business, key and address.

On failure. An answer waits `SETTLE_S` at most, then it goes out, and its entry still waits for the store; only what
must not happen unseen (`Businesses.issue_token`) is refused. Past the bound the newest entries are dropped, counted and
logged. An append whose commit is unknown is repeated: twice in the trail is better than never. What was counted and not
yet written is lost with the process: at most a minute's repetitions of a failure that is in the trail.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.store.interface import AuditStore
from taskcenter.store.records import NewAuditEntry

SYSTEM_CHAIN: Final = 0
SETTLE_S: Final = 1.0
BATCH: Final = 200
MOST_WAITING: Final = 5_000
MOST_KINDS: Final = 200
MOST_USES: Final = 20_000
PERIOD_MS: Final = 60_000
RETRY_S: Final = 1.0
FINAL_WRITE_S: Final = 2.0

Receipt = trio.Event  # set once the entry is durable

_log = log.get("audit")


@dataclass(slots=True)
class _Repeats:
    entry: NewAuditEntry  # the first of the period
    count: int = 0  # those after the first


class AuditTrail:
    """One per process; `run` beside the server."""

    def __init__(self, store: AuditStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[tuple[NewAuditEntry, Receipt]] = []
        self._work = trio.Event()
        self._failures: dict[tuple[int, str | None, str, str | None], _Repeats] = {}
        self._others = 0  # failures of the period that were of too many kinds
        self._period_began = clock.now_ms()
        self._uses: OrderedDict[tuple[int, str, str | None], int] = OrderedDict()
        self.dropped = 0

    def add(self, entry: NewAuditEntry) -> Receipt | None:
        """Append it soon. None: it was dropped."""
        if len(self._waiting) >= MOST_WAITING:
            if not self.dropped:
                _log.error("the audit trail is full: the store takes no entries, the newest are dropped")
            self.dropped += 1
            return None
        receipt = trio.Event()
        self._waiting.append((entry, receipt))
        self._work.set()
        return receipt

    async def settle(self, receipt: Receipt | None) -> bool:
        """Wait until the entry is durable; False when it is not within `SETTLE_S`, or was dropped."""
        if receipt is None:
            return False
        with trio.move_on_after(SETTLE_S):
            await receipt.wait()
        return receipt.is_set()

    def failure(
        self,
        reason: str,
        *,
        business_id: int,
        key_id: str | None,
        ip: str | None,
        request_id: str | None,
        actor_kind: str = "anonymous",
    ) -> Receipt | None:
        """A refused credential, or one that lacks a right; None when it was only counted, or dropped.

        `reason` is a word of ours, `key_id` is one of ours: nothing here is what was sent.
        """
        entry = NewAuditEntry(
            business_id=business_id, at=self._clock.now_ms(), actor_kind=actor_kind, actor_key_id=key_id,
            action="auth.failure", target=reason, result="refused", ip=ip, request_id=request_id,
        )  # fmt: skip
        self._roll(entry.at)
        kind = (business_id, key_id, reason, ip)
        if (repeats := self._failures.get(kind)) is not None:
            repeats.count += 1
        elif len(self._failures) < MOST_KINDS:
            self._failures[kind] = _Repeats(entry)
            return self.add(entry)
        else:
            self._others += 1
        return None

    def use(self, entry: NewAuditEntry) -> Receipt | None:
        """A credential was used: written once a minute for each business, key and address. None: not now."""
        kind = (entry.business_id, entry.actor_key_id or entry.actor_kind, entry.ip)
        before = self._uses.get(kind)
        if before is not None and entry.at - before < PERIOD_MS:
            return None
        self._uses[kind] = entry.at
        self._uses.move_to_end(kind)
        if len(self._uses) > MOST_USES:
            self._uses.popitem(last=False)
        return self.add(entry)

    def _roll(self, now: int) -> None:
        """At the end of a period, write what was counted in it."""
        if now - self._period_began < PERIOD_MS:
            return
        for repeats in self._failures.values():
            if repeats.count:
                result = f"refused, {repeats.count} more within 60 s"
                self.add(replace(repeats.entry, at=now, result=result, request_id=None))
        if self._others:
            self.add(NewAuditEntry(
                business_id=SYSTEM_CHAIN, at=now, actor_kind="anonymous", actor_key_id=None, action="auth.failure",
                target="of many kinds", result=f"refused, {self._others} within 60 s", ip=None, request_id=None,
            ))  # fmt: skip
        self._failures.clear()
        self._others = 0
        self._period_began = now

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Append what was added, for ever; what is left when cancelled too."""
        task_status.started()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._roll_for_ever)
                while True:
                    await self._work.wait()
                    await self._append_until_done()
        finally:
            self._roll(self._period_began + PERIOD_MS)
            with trio.move_on_after(FINAL_WRITE_S, shield=True):
                await self._append_what_is_left()

    async def _roll_for_ever(self) -> None:
        while True:
            await trio.sleep(PERIOD_MS / 1000)
            self._roll(self._clock.now_ms())

    async def _append_until_done(self) -> None:
        while self._waiting:
            try:
                await self.flush()
            except StoreUnavailable as error:
                _log.warning("audit entries wait for the store", waiting=len(self._waiting), fault=str(error))
                await trio.sleep(RETRY_S)
        self._work = trio.Event()
        if self.dropped:
            _log.error("audit entries were dropped while the store was out", count=self.dropped)
            self.dropped = 0

    async def _append_what_is_left(self) -> None:
        try:
            await self.flush()
        except StoreUnavailable as error:
            _log.error("audit entries are lost: the store is out", count=len(self._waiting), fault=str(error))

    async def flush(self) -> None:
        """Append what waits. Raises `StoreUnavailable`; what was not appended still waits."""
        while batch := self._waiting[:BATCH]:
            await self._store.append([entry for entry, _ in batch])
            del self._waiting[: len(batch)]
            for _, receipt in batch:
                receipt.set()

    def __repr__(self) -> str:
        return (
            f"<AuditTrail {len(self._waiting)} waiting, {len(self._failures)} kinds of failure, {self.dropped} dropped>"
        )
