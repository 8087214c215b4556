"""How often an actor may crash: growing pauses, then `degraded` and one try a minute, until it has stood a while. Pure;
times are the caller's, in s.
"""

from __future__ import annotations

from collections import deque
from typing import Final

CRASHES: Final = 5
WINDOW_S: Final = 60.0
DEGRADED_RETRY_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.1


class RestartBudget:
    """One actor's. `degraded` from the last of `CRASHES` within `WINDOW_S` until it has run for `WINDOW_S` since."""

    def __init__(self) -> None:
        self.degraded = False
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._up_since: float | None = None  # None while it does not run

    def started(self, now_s: float) -> None:
        self._up_since = now_s

    def crashed(self, now_s: float, chance: float) -> float:
        """Note a crash; for how long to pause. `chance`: uniform in [0, 1), so that actors do not come back in step."""
        self.degraded = self.still_degraded(now_s)
        self._up_since = None
        self._crashes.append(now_s)
        recent = sum(now_s - at < WINDOW_S for at in self._crashes)
        if self.degraded or recent >= CRASHES:
            self.degraded = True
            return DEGRADED_RETRY_S
        return FIRST_PAUSE_S * 2.0**recent * (0.5 + chance)

    def still_degraded(self, now_s: float) -> bool:
        """False once it has run for `WINDOW_S`."""
        stood = self._up_since is not None and now_s - self._up_since >= WINDOW_S
        return self.degraded and not stood

    def __repr__(self) -> str:
        return f"<RestartBudget {len(self._crashes)} crashes{' degraded' if self.degraded else ''}>"
