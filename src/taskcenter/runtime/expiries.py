"""When credentials end: as metrics all the time, as alerts from a month before.

Looked at once a minute, by the instance that owns the business's shard, so each alert comes once. An API key is worth
an alert while somebody would miss it: when it is the business's last one, or when it was used within a day. A key that
was replaced and is left alone ends in silence. A client certificate for callbacks is always worth one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import trio
from prometheus_client import Gauge

from taskcenter import log
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.store.callback_credentials import ClientCertificate
from taskcenter.store.interface import BusinessStore
from taskcenter.store.records import Business, Credential
from taskcenter.times import DAY_MS

EVERY_S: Final = 60.0
NOTICE_MS: Final = 30 * DAY_MS
AGAIN_MS: Final = DAY_MS
IN_USE_MS: Final = DAY_MS
PAGE: Final = 200

Notice = tuple[str, str]  # rule, text


def missed_keys(keys: Sequence[Credential], now: int) -> Iterator[Credential]:
    """Those of a business's keys in force whose end, within a month, somebody would notice. Pure."""
    last = max(keys, key=lambda key: key.expires_at, default=None)
    for key in keys:
        used = key.last_used_at is not None and now - key.last_used_at < IN_USE_MS
        if key.expires_at - now < NOTICE_MS and (key is last or used):
            yield key


class Expiries:
    """One per process; `run` for ever."""

    def __init__(
        self,
        store: BusinessStore,
        clock: Clock,
        metrics: Metrics,
        alert: Callable[[str, str], None],
        owns: Callable[[int], bool],
    ) -> None:
        self._store = store
        self._clock = clock
        self._key_ends = metrics.api_key_expiry
        self._certificate_ends = metrics.callback_certificate_expiry
        self._alert = alert
        self._owns = owns
        self._told: dict[str, int] = {}  # what → ms
        self._log = log.get("expiries")

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                self._log.info("the ends of credentials were not looked at", error=str(error))
            await trio.sleep(EVERY_S)

    async def look(self) -> None:
        """Once over all businesses of ours. Raises `StoreUnavailable`."""
        now = self._clock.now_ms()
        keys_end: dict[str, int] = {}
        certificates_end: dict[str, int] = {}
        after: str | None = None
        while page := await self._store.page(after, PAGE):
            ours = [business for business in page if self._owns(business.shard)]
            keys_of: dict[int, list[Credential]] = defaultdict(list)
            for key in await self._store.keys_in_force([business.id for business in ours], now):
                keys_of[key.business_id].append(key)
            for business in ours:
                if keys := keys_of.get(business.id):
                    keys_end[business.code] = max(key.expires_at for key in keys)
                    self._tell_keys(business, keys, now)
                if isinstance(business.callback_tls, ClientCertificate):
                    certificates_end[business.code] = business.callback_tls.expires_at
                    self._tell_certificate(business, business.callback_tls, now)
            after = page[-1].code
        _show(self._key_ends, keys_end)
        _show(self._certificate_ends, certificates_end)
        self._told = {what: at for what, at in self._told.items() if now - at < AGAIN_MS}

    def _tell_keys(self, business: Business, keys: Sequence[Credential], now: int) -> None:
        for key in missed_keys(keys, now):
            text = f"business {business.code}: API key {key.key_id} ends in {_days(key.expires_at - now)}; rotate it"
            self._tell_daily(key.key_id, "api_key_expiring", text, now)

    def _tell_certificate(self, business: Business, tls: ClientCertificate, now: int) -> None:
        left_ms = tls.expires_at - now
        if left_ms < NOTICE_MS:
            when = f"ends in {_days(left_ms)}" if left_ms > 0 else "has ended"
            text = f"business {business.code}: the client certificate for callbacks ({tls.subject}) {when}; replace it"
            self._tell_daily(tls.fingerprint, "callback_certificate_expiring", text, now)

    def _tell_daily(self, what: str, rule: str, text: str, now: int) -> None:
        if now - self._told.get(what, -AGAIN_MS) >= AGAIN_MS:
            self._told[what] = now
            self._alert(rule, text)


def _days(left_ms: int) -> str:
    return f"{left_ms // DAY_MS} days" if left_ms >= 2 * DAY_MS else f"{max(left_ms, 0) // 3_600_000} hours"


def _show(gauge: Gauge, ends: dict[str, int]) -> None:
    gauge.clear()  # no await until all is set again: nobody reads it half-way
    for code, at in ends.items():
        gauge.labels(code).set(at / 1000)
