"""Is the service well: the store's answer to a ping, and what the engine says of its parts.

Asked by anyone and often, so the ping is bounded and its answer kept for a second: probes must not load a store that is
unwell already. A store that answers the ping and takes no writes (read only, full) is not well either: nothing can be
created, claimed or sent. A check's value is `ok`, `degraded: <why>` or `unavailable: <why>`; the worst is the status.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter.errors import StoreUnavailable
from taskcenter.service.engine_port import Engine
from taskcenter.store.interface import MaintenanceStore

PING_TIMEOUT_S: Final = 1.0
PING_KEPT_S: Final = 1.0
_ORDER: Final = ("ok", "degraded", "unavailable")


@dataclass(frozen=True, slots=True)
class Health:
    status: str  # ok | degraded | unavailable
    checks: dict[str, str]


class HealthService:
    """One per process."""

    def __init__(
        self,
        engine: Engine,
        store: MaintenanceStore,
        shedding: Callable[[], str | None],
        trouble: Callable[[], str | None],
    ) -> None:
        """`shedding`: why creates are shed now. `trouble`: what fails of the store, by its latest uses."""
        self._engine = engine
        self._shedding = shedding
        self._store = store
        self._trouble = trouble
        self._pinging = trio.Lock()
        self._pinged_at = -PING_KEPT_S
        self._ping = "ok"
        self._draining = False
        self._others: dict[str, Callable[[], str]] = {}

    def watch(self, name: str, check: Callable[[], str]) -> None:
        """A further check, of what is known outside of engine and store."""
        self._others[name] = check

    def drain(self) -> None:
        """From now on not ready: the process is about to end."""
        self._draining = True

    async def check(self) -> Health:
        """Everything; `unavailable` means: send no traffic here."""
        checks = {"store": await self._store_check(), **self._engine.health()}
        checks |= {name: check() for name, check in self._others.items()}
        if (reason := self._shedding()) is not None:
            checks["load"] = f"degraded: creates are shed: {reason}"
        if self._draining:
            checks["serving"] = "unavailable: draining"
        return Health(_ORDER[max(_rank(value) for value in checks.values())], checks)

    async def _store_check(self) -> str:
        async with self._pinging:
            if trio.current_time() - self._pinged_at >= PING_KEPT_S:
                self._ping = await self._ask()
                self._pinged_at = trio.current_time()
        trouble = self._trouble()
        return self._ping if self._ping != "ok" or trouble is None else f"unavailable: {trouble}"

    async def _ask(self) -> str:
        try:
            with trio.fail_after(PING_TIMEOUT_S):
                await self._store.ping()
        except trio.TooSlowError:
            return "unavailable: no answer in time"
        except StoreUnavailable:
            return "unavailable: not reached"
        return "ok"


def _rank(value: str) -> int:
    word = value.partition(":")[0]
    return _ORDER.index(word) if word in _ORDER else 1
