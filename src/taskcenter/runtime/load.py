"""How loaded this process is: by how long runnable tasks wait for the event loop, and its work for the store.

Creates are shed before latency collapses: see `queueing`. What the API's own requests can do to the loop is bounded at
the server's door (`http.shedding`); this sees the rest, callbacks and whatever else the machine does.
"""

from __future__ import annotations

from typing import Final

import trio

from taskcenter.queueing import StandingQueue

PROBE_S: Final = 0.05
LOOP_TARGET_MS: Final = 250.0  # a machine that is busy with other work is no overload of ours
STORE_TARGET_MS: Final = 500.0  # for a connection to the store: an embedded one is held by one batch at a time
STORE_WORD_MS: Final = 1_000  # the last wait for a connection counts for so long
OUTCOMES_LIMIT: Final = 5_000


class LoadGauge:
    """`run` measures; `overloaded` is sync."""

    def __init__(self, store: StandingQueue) -> None:
        """`store`: the waits for the store's connections, noted by the store."""
        self._loop = StandingQueue(LOOP_TARGET_MS)
        self._store = store

    @property
    def lag_ms(self) -> float:
        """How late the loop last was."""
        return self._loop.wait_ms

    async def run(self) -> None:
        while True:
            planned = trio.current_time() + PROBE_S
            await trio.sleep_until(planned)
            now = trio.current_time()
            self._loop.waited((now - planned) * 1000, now * 1000)

    def overloaded(self, outcomes_waiting: int) -> str | None:
        """A sentence, or None."""
        now_ms = trio.current_time() * 1000
        if self._loop.stands(now_ms):
            return f"the event loop is {self.lag_ms:.0f} ms late"
        if self._store.stands(now_ms) and now_ms - self._store.seen_at < STORE_WORD_MS:
            return f"the store's connections are waited for {self._store.wait_ms:.0f} ms"
        if outcomes_waiting > OUTCOMES_LIMIT:
            return f"{outcomes_waiting} outcomes wait for the store"
        return None
