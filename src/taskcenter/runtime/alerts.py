"""Alerts: a rule that fired is a log line of level error, a metric, and whatever else is plugged in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from taskcenter import log
from taskcenter.metrics import Metrics

RULES: Final = (
    "actor_degraded", "actor_work_failed", "api_key_expiring", "attempt_fault", "attempt_lost", "breaker_open",
    "callback_certificate_expiring", "clock_set", "crash_suspect", "disk_low", "missing_shard_row", "store_full",
    "store_out",
)  # fmt: skip
QUIET_S: Final = 60.0  # the same rule and text fires at most once in this time
Sink = Callable[[str, str], None]


class Alerts:
    """Call it with (rule, text). Sinks are sync and must not block."""

    def __init__(self, metrics: Metrics, sinks: Sequence[Sink] = ()) -> None:
        self._metrics = metrics
        self._sinks = sinks
        self._fired: dict[tuple[str, str], float] = {}
        self._log = log.get("alerts")
        for rule in RULES:  # from 0 on, so that a first firing is an increase to whoever watches
            metrics.alerts.labels(rule)

    def __call__(self, rule: str, text: str) -> None:
        now = trio.current_time()
        if now - self._fired.get((rule, text), -QUIET_S) < QUIET_S:
            return
        self._fired = {key: at for key, at in self._fired.items() if now - at < QUIET_S}
        self._fired[rule, text] = now
        self._metrics.alerts.labels(rule).inc()
        self._log.error("alert", rule=rule, text=text)
        for sink in self._sinks:
            sink(rule, text)
