"""One ring of slots of the timing wheel. The theory is told in `wheel.py`."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Level(Generic[T]):
    """Slots of `1 << shift` ms. A bit of `occupied` is set if and only if its slot is not empty (invariant 4)."""

    __slots__ = ("count", "early_ms", "occupied", "shift", "slots")

    def __init__(self, shift: int, count: int, *, early: bool) -> None:
        self.shift = shift
        self.count = count  # of slots, a power of two
        self.early_ms = 1 << shift if early else 0  # how long before its beginning a slot is poured
        self.slots: list[dict[Hashable, T]] = [{} for _ in range(count)]
        self.occupied = 0

    def index(self, at_ms: int) -> int:
        """Which slot holds the time `at_ms`, whatever turn of the ring it is in."""
        return (at_ms >> self.shift) & (self.count - 1)

    def first(self, position: int) -> int | None:
        """When the first slot that holds something begins, from the slot `position` is in on; None if all are empty."""
        occupied = self.occupied
        if not occupied:
            return None
        here = position >> self.shift
        turn = here & (self.count - 1)
        ahead = occupied >> turn
        if ahead:
            distance = (ahead & -ahead).bit_length() - 1
        else:
            distance = (occupied & -occupied).bit_length() - 1 + self.count - turn
        return (here + distance) << self.shift

    def remove(self, index: int) -> dict[Hashable, T]:
        """Take the whole slot out and leave a new one: a dict that was emptied keeps its largest size."""
        slot = self.slots[index]
        self.slots[index] = {}
        self.occupied &= ~(1 << index)
        return slot
