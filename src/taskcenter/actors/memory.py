"""What one business's callbacks on their way may hold in memory. Pure.

A task's size is known only when it has been claimed, so an admitted attempt reserves the most it could need and gives
the rest back at its claim (`settle`). The sum never exceeds the capacity; one callback always may pass.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
OVERHEAD: Final = 32 * KIB  # a connection, its buffers, the task that waits, the answer's kept part
MOST: Final = 2 * 256 * KIB + OVERHEAD  # the largest payload, as it was read and as it is sent


class MemoryBudget:
    """Owner: the business's admission."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in bytes."""
        self.capacity = capacity
        self.used = 0

    @property
    def full(self) -> bool:
        return self.used > 0 and self.used + MOST > self.capacity

    def reserve(self) -> MemoryShare:
        return MemoryShare(self)

    def __repr__(self) -> str:
        return f"<MemoryBudget {self.used}/{self.capacity}>"


class MemoryShare:
    """One attempt's part. Owner: the attempt's permit."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held = 0
        self._hold(MOST)

    def settle(self, payload_bytes: int) -> None:
        """The payload is here."""
        self._hold(min(MOST, 2 * payload_bytes + OVERHEAD))

    def release(self) -> None:
        self._hold(0)

    def _hold(self, size: int) -> None:
        self._budget.used += size - self._held
        self._held = size
