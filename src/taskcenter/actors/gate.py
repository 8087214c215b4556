"""The process-wide cap on callbacks in flight, shared fairly. Plain functions: no lock, no await.

A business that finds the gate full queues up, and stays in the queue until it says that it has no more work. A slot
that comes free is kept for the head of the queue, which goes to its end: round-robin over the businesses with work,
whatever the number of tasks each has and however many slots come free at once. While anybody queues nobody passes it
by.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GateStatistics:
    capacity: int
    taken: int
    kept: int  # for businesses that were woken and have not taken them yet
    waiting: int  # businesses


class FairGate:
    """`capacity` slots. A slot is kept for whoever was woken until it takes it or declines."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._taken = 0
        self._queue: OrderedDict[int, Callable[[], None]] = OrderedDict()  # who has work; the head is next
        self._kept: Counter[int] = Counter()

    def take(self, business_id: int, wake: Callable[[], None]) -> bool:
        """Take a slot, or queue up and be woken when one is kept for this business."""
        if self._kept[business_id]:
            self._kept[business_id] -= 1
        elif self._queue or not self._free:
            self._queue.setdefault(business_id, wake)
            return False
        self._taken += 1
        return True

    def decline(self, business_id: int) -> None:
        """This business has no more work: leave the queue and give back what is kept for it."""
        self._queue.pop(business_id, None)
        if self._kept.pop(business_id, 0):
            self._share()

    def release(self) -> None:
        self._taken -= 1
        self._share()

    @property
    def most_of_one(self) -> int:
        """Slots that a business takes at most: if all its receivers hang, others' callbacks still find the rest."""
        return self.capacity - self.capacity // 8

    @property
    def _free(self) -> int:
        return self.capacity - self._taken - self._kept.total()

    def _share(self) -> None:
        """Each slot to the head of the queue, who then waits for its next turn."""
        for _ in range(self._free if self._queue else 0):
            business_id, wake = next(iter(self._queue.items()))
            self._queue.move_to_end(business_id)
            self._kept[business_id] += 1
            wake()

    def statistics(self) -> GateStatistics:
        return GateStatistics(self.capacity, self._taken, self._kept.total(), len(self._queue))

    def __repr__(self) -> str:
        return f"<FairGate {self._taken}/{self.capacity} waiting={len(self._queue)}>"
