"""Sealing everything anew with the newest encryption key, while the service runs.

One walk after the other goes over the store (`store.resealing`) until one has found nothing to do: what others sealed
with an older key behind the first walk's back (an instance that was not restarted yet) is found by the next. Progress
is noted in the store twice a second, so every instance can tell it, and a walk that died with its process is continued
by asking again, where it stopped.

On failure. While the store is out the walk waits; what else the store answers ends it, as `failed`, in the log. Two
instances that walk at once do each other no harm.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.errors import CommitUnknown, StoreUnavailable, TaskCenterError
from taskcenter.service.audit_entry import audit_entry
from taskcenter.service.audit_trail import SYSTEM_CHAIN, AuditTrail
from taskcenter.service.principal import Principal
from taskcenter.store.interface import ResealStore
from taskcenter.times import format_time

PAGE: Final = 25
PAUSE_S: Final = 0.01  # between pages that wrote, so that nobody waits for them
RETRY_S: Final = 1.0
NOTE_EVERY_MS: Final = 500
STALE_MS: Final = 15_000  # whoever noted nothing for so long does not walk any more
MOST_WALKS: Final = 20

_log = log.get("keys")


@dataclass(frozen=True, slots=True)
class Progress:
    """How a rotation stands. Times in ms since 1970."""

    state: Literal["running", "done", "failed"]
    key_id: str  # the key that everything gets
    cursor: str | None
    walk: int
    seen: int
    resealed: int
    unreadable: int  # of this walk
    touched: int  # resealed or missed in this walk; 0 at its end: all is done
    started_at: int
    updated_at: int

    def fields(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "state": self.state, "key_id": self.key_id, "walk": self.walk, "seen": self.seen,
            "resealed": self.resealed, "unreadable": self.unreadable, "started_at": format_time(self.started_at),
            "updated_at": format_time(self.updated_at),
        }  # fmt: skip


class KeyRotation:
    """One per process; `run` beside the server."""

    def __init__(self, store: ResealStore, trail: AuditTrail, clock: Clock) -> None:
        self._store = store
        self._trail = trail
        self._clock = clock
        self._progress: Progress | None = None  # of the walk in this process
        self._asked = trio.Event()

    async def start(self, principal: Principal) -> dict[str, Any]:
        """Begin a rotation, continue a broken one, or join the one under way. Raises `Forbidden`."""
        principal.require_admin()
        now = self._clock.now_ms()
        noted = await self._noted()
        if noted is not None and noted.state == "running" and noted.key_id == self._store.key_id:
            if self._progress is not None or now - noted.updated_at < STALE_MS:
                return noted.fields()
            begun = replace(noted, updated_at=now)
        else:
            begun = Progress("running", self._store.key_id, None, 1, 0, 0, 0, 0, now, now)
        await self._store.note(_written(begun))
        await self._trail.settle(
            self._trail.add(audit_entry(principal, SYSTEM_CHAIN, now, "keys.rotate", begun.key_id))
        )
        if self._progress is None:
            self._progress = begun
            self._asked.set()
        return begun.fields()

    async def read(self, principal: Principal) -> dict[str, Any]:
        """How the latest rotation stands, whichever instance works on it. Raises `Forbidden`."""
        principal.require_admin()
        noted = await self._noted()
        if noted is None:
            now = format_time(self._clock.now_ms())
            return {
                "state": "never", "key_id": self._store.key_id, "walk": 0, "seen": 0, "resealed": 0, "unreadable": 0,
                "started_at": now, "updated_at": now,
            }  # fmt: skip
        return noted.fields()

    async def _noted(self) -> Progress | None:
        noted = await self._store.noted()
        return None if noted is None else Progress(**json.loads(noted))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """For ever: walk when asked."""
        task_status.started()
        while True:
            await self._asked.wait()
            assert self._progress is not None, "set before the event"
            _log.info("key rotation begins", key_id=self._progress.key_id, walk=self._progress.walk)
            while self._progress.state == "running":
                try:
                    self._progress = await self._step(self._progress)
                except (StoreUnavailable, CommitUnknown) as error:
                    _log.warning("key rotation waits for the store", fault=str(error))
                    await trio.sleep(RETRY_S)
                except TaskCenterError as error:
                    _log.error("key rotation failed", exc_info=error)
                    self._progress = replace(self._progress, state="failed", updated_at=self._clock.now_ms())
                    await self._note_end(self._progress)
            _log.info("key rotation ends", **self._progress.fields())
            self._progress = None
            self._asked = trio.Event()

    async def _note_end(self, progress: Progress) -> None:
        try:
            await self._store.note(_written(progress))
        except TaskCenterError as error:
            _log.error("how the key rotation ended could not be noted", fault=str(error))

    async def _step(self, before: Progress) -> Progress:
        """One page, and the note of it if one is due. Raises `StoreUnavailable`, `CommitUnknown`: repeat it."""
        page = await self._store.page(before.cursor, PAGE)
        after = replace(
            before,
            cursor=page.cursor,
            seen=before.seen + page.seen,
            resealed=before.resealed + page.resealed,
            unreadable=before.unreadable + page.unreadable,
            touched=before.touched + page.resealed + page.missed,
        )
        if page.cursor is None:
            if after.touched == 0 or after.walk >= MOST_WALKS:
                after = replace(after, state="done")
            else:
                after = replace(after, walk=after.walk + 1, seen=0, unreadable=0, touched=0)
        now = self._clock.now_ms()
        if after.state == "done" or now - before.updated_at >= NOTE_EVERY_MS:
            after = replace(after, updated_at=now)
            await self._store.note(_written(after))
        await trio.sleep(PAUSE_S if page.resealed else 0)
        return after


def _written(progress: Progress) -> bytes:
    return json.dumps(asdict(progress)).encode()
