"""The businesses this process knows, never older than 1.5 s, and the news of their changes.

Once a second `run` asks the store for what has changed. The question looks back further than the last answer: a change
is stamped by the instance that made it, before its commit, so it may come into sight a little after younger ones.
Versions tell what is new. While the store is out the poll fails, the entries age, and the next request reads for itself
or hears 503; nothing is decided by limits that may no longer hold.

Listeners hear of every version when it is first seen here, the first one too: they may know an older one from
elsewhere. They are plain functions and must not fail.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.service.read_through import MAX_PRESENT, ReadThrough
from taskcenter.store.interface import BusinessStore
from taskcenter.store.records import Business

POLL_S: Final = 1.0
LOOK_BACK_MS: Final = 15_000
Listener = Callable[[Business], None]

_log = log.get("business_cache")


class BusinessCache:
    """One per process; `run` beside the server."""

    def __init__(self, store: BusinessStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._by_id: ReadThrough[int, Business] = ReadThrough(store.get_by_id, clock.now_ms)
        self._ids: OrderedDict[str, int] = OrderedDict()  # code → id: neither ever changes
        self._listeners: list[Listener] = []
        self._reachable = True
        self._polled_at = clock.now_ms()

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    async def by_id(self, business_id: int) -> Business | None:
        """Raises `StoreUnavailable`."""
        seen = self._by_id.last_seen(business_id)
        business = await self._by_id.get(business_id)
        if business is not None and (seen is None or seen.version < business.version):
            self._tell(business)  # read here before the poll saw it, which would take it for known
        return business

    async def by_code(self, code: str) -> Business | None:
        """Raises `StoreUnavailable`."""
        if (known := self._ids.get(code)) is not None:
            return await self.by_id(known)
        began = self._clock.now_ms()
        business = await self._store.get(code)
        if business is not None:
            self._keep(business, began)
        return business

    def changed_here(self, business: Business) -> None:
        """Created or changed by this process: in force at once."""
        self._keep(business, self._clock.now_ms())

    def _keep(self, business: Business, read_at: int) -> None:
        seen = self._by_id.last_seen(business.id)
        if seen is not None and seen.version > business.version:
            return  # a slower read brought an older state
        self._by_id.put(business.id, business, read_at)
        self._ids[business.code] = business.id
        self._ids.move_to_end(business.code)
        if len(self._ids) > MAX_PRESENT:
            self._ids.popitem(last=False)
        if seen is None or seen.version < business.version:
            self._tell(business)

    def _tell(self, business: Business) -> None:
        for listener in self._listeners:
            listener(business)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for changes for ever."""
        task_status.started()
        while True:
            await trio.sleep(POLL_S)
            try:
                await self._poll()
            except StoreUnavailable as error:
                if self._reachable:
                    _log.warning("businesses cannot be checked for changes", fault=str(error))
                self._reachable = False
            else:
                self._reachable = True

    async def _poll(self) -> None:
        began = self._clock.now_ms()
        for business in await self._store.changed_since(self._polled_at - LOOK_BACK_MS):
            self._keep(business, began)
        self._polled_at = began
        self._by_id.checked_at = began

    def __repr__(self) -> str:
        return f"<BusinessCache {len(self._by_id)} businesses, reachable={self._reachable}>"
