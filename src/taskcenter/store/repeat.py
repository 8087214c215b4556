"""When a transaction is run again: only after a lock conflict, which by its nature left no trace.

A deadlock is met within milliseconds, and a repeat is likely to succeed. A lock that was waited for in vain is not
waited for again: whoever asked would hear of it too late.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

import trio

from taskcenter.errors import TaskCenterError
from taskcenter.store.connection import LockConflict, QueryFault, count_error

T = TypeVar("T")
BACKOFF_S: Final = 0.02
GIVE_UP_S: Final = 1.0


class Repeater:
    """Runs blocks and counts their errors by kind. No repeat begins later than `GIVE_UP_S` after the first try."""

    def __init__(self, rng: Random | None) -> None:
        self.rng = rng or Random()  # noqa: S311  # spreads repeats, guards nothing
        self.errors_total: dict[str, int] = {}

    async def once(self, run: Callable[[], Awaitable[T]]) -> T:
        """Run it, without repetition."""
        try:
            return await run()
        except TaskCenterError as error:
            count_error(self.errors_total, error)
            raise

    async def repeat(self, run: Callable[[], Awaitable[T]], attempts: int) -> T:
        """Run it up to `attempts` times, with a growing, jittered pause between. Raises the last LockConflict."""
        give_up_at = trio.current_time() + GIVE_UP_S
        for attempt in range(1, attempts + 1):
            try:
                return await self.once(run)
            except LockConflict:
                if attempt == attempts or trio.current_time() > give_up_at:
                    raise
            await trio.sleep(BACKOFF_S * 2**attempt * self.rng.uniform(0.5, 1.5))
        raise QueryFault("a block needs at least one attempt")
