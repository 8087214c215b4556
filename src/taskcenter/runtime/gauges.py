"""`taskcenter_tasks{business,status}`: the active tasks, counted in the store from time to time.

Each instance tells of the businesses whose shard it owns, so a sum over instances counts no task twice. The next count
follows after a pause that grows with what the last one cost: whatever the number of tasks, counting takes at most a
twentieth of the time of one connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from taskcenter import log
from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.store.interface import Store
from taskcenter.task import ACTIVE

LEAST_PAUSE_S: Final = 2.0
PAUSE_FACTOR: Final = 20
PAGE: Final = 200


class TaskGauges:
    """One per process; `run` for ever."""

    def __init__(self, store: Store, metrics: Metrics, owns: Callable[[int], bool]) -> None:
        self._store = store
        self._gauge = metrics.tasks
        self._owns = owns
        self._shown: set[str] = set()  # codes of businesses
        self._log = log.get("gauges")

    async def run(self) -> None:
        while True:
            began = trio.current_time()
            try:
                await self._count()
            except StoreUnavailable as error:
                self._log.info("active tasks not counted", error=str(error))
            await trio.sleep(max(LEAST_PAUSE_S, (trio.current_time() - began) * PAUSE_FACTOR))

    async def _count(self) -> None:
        seen: set[str] = set()
        after: str | None = None
        while page := await self._store.businesses.page(after, PAGE):
            for business in page:
                if self._owns(business.shard):
                    seen.add(business.code)
                    counts = await self._store.tasks.status_counts(business.id)
                    for status in ACTIVE:
                        self._gauge.labels(business.code, status.value).set(counts[status])
            after = page[-1].code
        for code in self._shown - seen:
            for status in ACTIVE:
                self._gauge.remove(code, status.value)
        self._shown = seen
