"""The process-wide cap on callbacks in flight, shared fairly. Plain functions: no lock, no await.

A business that finds the gate full queues up once, and a slot that comes free goes to the head of that queue:
round-robin over the businesses with work, whatever the number of tasks each has. While anybody queues nobody passes
it by.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GateStatistics:
    capacity: int
    taken: int
    waiting: int  # businesses


class FairGate:
    """`capacity` slots. A slot granted to a waiter is reserved until it takes or declines it."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._taken = 0
        self._waiting: OrderedDict[int, Callable[[], None]] = OrderedDict()
        self._granted: set[int] = set()

    def take(self, business_id: int, wake: Callable[[], None]) -> bool:
        """Take a slot, or queue up and be woken when one is reserved for this business."""
        if business_id in self._granted:
            self._granted.discard(business_id)
            self._taken += 1
            return True
        if business_id not in self._waiting and not self._waiting and self._free > 0:
            self._taken += 1
            return True
        self._waiting.setdefault(business_id, wake)
        self._grant()
        return False

    def decline(self, business_id: int) -> None:
        """This business has no more work: give a reservation back and leave the queue."""
        self._waiting.pop(business_id, None)
        if business_id in self._granted:
            self._granted.discard(business_id)
            self._grant()

    def release(self) -> None:
        self._taken -= 1
        self._grant()

    @property
    def _free(self) -> int:
        return self.capacity - self._taken - len(self._granted)

    def _grant(self) -> None:
        while self._free > 0 and self._waiting:
            business_id, wake = self._waiting.popitem(last=False)
            self._granted.add(business_id)
            wake()

    def statistics(self) -> GateStatistics:
        return GateStatistics(self.capacity, self._taken, len(self._waiting))

    def __repr__(self) -> str:
        return f"<FairGate {self._taken}/{self.capacity} waiting={len(self._waiting)}>"
