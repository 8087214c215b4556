"""A counted gate with two FIFO queues: how a bounded number of connections is handed out.

A free place goes straight to the longest waiting task (urgent ones first), so no newcomer overtakes and a task that is
cancelled while it waits takes nothing with it: `ParkingLot` either wakes it with the place or cancels it without.
"""

from __future__ import annotations

import trio


class Gate:
    """`capacity` places. `enter` waits for one, `leave` gives it back."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity  # changed by enter and leave only
        self._urgent = trio.lowlevel.ParkingLot()
        self._queue = trio.lowlevel.ParkingLot()

    @property
    def in_use(self) -> int:
        return self.capacity - self._free

    @property
    def waiting(self) -> int:
        return len(self._urgent) + len(self._queue)

    async def enter(self, timeout_s: float, *, urgent: bool = False) -> bool:
        """Take a place, without yielding when one is free; False when none came free in time."""
        if self._free:
            self._free -= 1
            return True
        with trio.move_on_after(timeout_s):
            await (self._urgent if urgent else self._queue).park()
            return True
        return False

    def leave(self) -> None:
        """Give the place back: to a waiting task, else to whoever comes next."""
        if self._urgent:
            self._urgent.unpark()
        elif self._queue:
            self._queue.unpark()
        else:
            self._free += 1

    def __repr__(self) -> str:
        return f"<Gate {self.in_use}/{self.capacity} in use, {self.waiting} waiting>"
