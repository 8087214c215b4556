"""How loaded this process is: how late the event loop wakes us, smoothed. Creates are shed before latency collapses."""

from __future__ import annotations

from typing import Final

import trio

PROBE_S: Final = 0.05
WEIGHT: Final = 0.1
LAG_LIMIT_MS: Final = 250.0
OUTCOMES_LIMIT: Final = 5_000


class LoadGauge:
    """`run` measures; `overloaded` is sync."""

    def __init__(self) -> None:
        self.lag_ms = 0.0

    async def run(self) -> None:
        while True:
            planned = trio.current_time() + PROBE_S
            await trio.sleep_until(planned)
            lag_ms = (trio.current_time() - planned) * 1000
            self.lag_ms += WEIGHT * (lag_ms - self.lag_ms)

    def overloaded(self, outcomes_waiting: int) -> str | None:
        """A sentence, or None."""
        if self.lag_ms > LAG_LIMIT_MS:
            return f"the event loop is {self.lag_ms:.0f} ms late"
        if outcomes_waiting > OUTCOMES_LIMIT:
            return f"{outcomes_waiting} outcomes wait for the store"
        return None
