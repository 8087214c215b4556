"""What runs by the clock and not by tasks: retention, and an eye on the disk under an embedded database."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Final

import trio

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.runtime.alerts import Alerts
from taskcenter.store.interface import Store
from taskcenter.store.url import SqliteUrl, parse_database_url

DAY_MS: Final = 86_400_000
PURGE_EVERY_S: Final = 60.0
PURGE_PAGE: Final = 500
PURGE_PAUSE_S: Final = 0.05  # between pages, so that nobody waits for it
DISK_EVERY_S: Final = 10.0
DISK_LOW_BYTES: Final = 200 * 1024 * 1024


class Housekeeping:
    """One per process; every instance purges, small pages make that harmless."""

    def __init__(self, store: Store, settings: Settings, clock: Clock, metrics: Metrics, alerts: Alerts) -> None:
        self._store = store
        self._retention_ms = int(settings.retention_days * DAY_MS)
        self._clock = clock
        self._metrics = metrics
        self._alerts = alerts
        url = parse_database_url(settings.database_url.get_secret_value())
        self._directory = Path(url.path).absolute().parent if isinstance(url, SqliteUrl) else None
        self._log = log.get("housekeeping")

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._purge)
            if self._directory is not None:
                nursery.start_soon(self._watch_disk, self._directory)
            else:
                self._metrics.disk_free_bytes.set(math.nan)  # no file of ours: no number, so that no rule fires on 0

    async def _purge(self) -> None:
        while True:
            gone = 0
            try:
                while count := await self._store.maintenance.purge(
                    self._clock.now_ms() - self._retention_ms, PURGE_PAGE
                ):
                    gone += count
                    await trio.sleep(PURGE_PAUSE_S)
            except StoreUnavailable as error:
                self._log.warning("purge postponed", error=str(error))
            if gone:
                self._log.info("purged", rows=gone)
            await trio.sleep(PURGE_EVERY_S)

    async def _watch_disk(self, directory: Path) -> None:
        while True:
            free = shutil.disk_usage(directory).free
            self._metrics.disk_free_bytes.set(free)
            if free < DISK_LOW_BYTES:
                self._alerts("disk_low", "less than 200 MiB free where the embedded database lies")
            await trio.sleep(DISK_EVERY_S)
