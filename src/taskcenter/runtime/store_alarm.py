"""Tells the operator that the store is out and that it is back: an alert, a log line, a gauge.

A store that is full need not be out: what finds room, or a connection that is open, goes on. So that has its own alert.
"""

from __future__ import annotations

from typing import Final

from taskcenter import log
from taskcenter.metrics import Metrics
from taskcenter.runtime.alerts import Alerts
from taskcenter.store.watch import Kind, StoreWatch, Turn

WORK: Final = {"read": "answers no reads", "write": "takes no writes"}


class StoreAlarm:
    """One per process. Listens to the watch from its making on."""

    def __init__(self, watch: StoreWatch, metrics: Metrics, alerts: Alerts) -> None:
        self._up = metrics.db_up
        self._alerts = alerts
        self._log = log.get("store")
        for work in WORK:
            self._up.labels(work).set(1)
        watch.listen(self)

    def failed(self, work: Kind, fault: str) -> None:
        if fault == "full":
            self._alerts("store_full", f"{work}s fail: the store's disk, a table or its connections are used up")

    def turned(self, turn: Turn) -> None:
        self._up.labels(turn.work).set(0 if turn.out else 1)
        if turn.out:
            self._alerts("store_out", f"the store {WORK[turn.work]}: {turn.fault}")
        else:
            self._log.warning(
                "the store is back", work=turn.work, out_s=round(turn.lasted_s, 3), failures=turn.failures,
                last_fault=turn.fault,
            )  # fmt: skip
