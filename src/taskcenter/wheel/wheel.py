"""A relative, hierarchical timing wheel: pure structure, no clock, no loop.

Theory. Level 0 has slots of 4 ms, each level above has slots 64 times as wide (256 ms, 16 s, 17 min), and each level
has 256 slots, so a level reaches four slots of the level above it. A timer goes to the finest level that reaches its
time, *seen from where the wheel stands* (relative). Levels aligned to powers of the time itself pour a whole coarse
slot at once when a boundary is crossed: half a second with a million timers (DESIGN.md §4). Here a slot is poured down
from one of its own widths before it begins, in pieces as small as the caller's budget, while the wheel goes on firing.
A bitmap per level says which slots hold anything, so an hour without timers costs as much as a millisecond. What lies
beyond the top level (3 days) waits in `far`, sifted when its earliest timer has come half that near.

A timer leaves level 0 into a heap ordered by (time, arrival), so it fires exact to the millisecond and in due order;
the slots' widths are a matter of cost only. A timer is not an object of its own: it is one entry in its slot's dict and
one in the index `key → time`, and its place is found again by asking each level for that time. So cancelling is O(1),
frees the entry at once, and a timer adds no object to those the garbage collector keeps lists of.

Invariants (`position` is where the wheel stands, a multiple of 4 ms; it never goes back):
 1. every timer before `position` is in the heap; every timer in a slot or in `far` is at or after `position`;
 2. `position` never passes the beginning of a slot that holds something: the earliest slot is poured first, and of
    slots that begin together the widest, so timers come out in due order whatever the budget;
 3. nothing is given out before its time: the heap's top is compared with `now` itself, not with a slot;
 4. a bit of a bitmap is set if and only if its slot is not empty.

When time misbehaves. If it stands still or goes back nothing fires, and timers before `position` queue in the heap:
slower, still exact. If it jumps ahead (a blocked loop, a sleeping machine) all that is due comes out in due order,
`budget` units a call. Time points are integers of milliseconds; they need not be UTC.

Sources: Varghese & Lauck, "Hashed and hierarchical timing wheels" (SOSP 1987); the measurements of DESIGN.md §4.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Final, Generic, TypeVar

from taskcenter.wheel.level import Level

T = TypeVar("T")

TICK_BITS: Final = 2  # a slot of level 0 is 4 ms wide
RADIX_BITS: Final = 6  # a slot is 64 slots of the level below
SLOT_BITS: Final = 8  # 256 slots a level; at least RADIX_BITS + 2, so that a slot can be poured before it begins
LEVELS: Final = 4  # reach 3.1 days
TOMBSTONES: Final = 64  # cancelled entries the heap may hold beyond as many as live ones before it is rebuilt


@dataclass(frozen=True, slots=True)
class WheelStatistics:
    timers: int  # all that wait
    ready: int  # of them in the heap
    tombstones: int  # cancelled ones that are still in the heap
    levels: tuple[int, ...]  # of them in each level, finest first
    far: int  # of them beyond the top level
    moved: int  # timers poured down so far, once a level
    fired: int  # timers given out so far


class TimingWheel(Generic[T]):
    """Timers by key. A key has one timer: inserting it again replaces the earlier one. Not for several threads."""

    def __init__(
        self,
        now_ms: int,
        *,
        tick_bits: int = TICK_BITS,
        radix_bits: int = RADIX_BITS,
        slot_bits: int = SLOT_BITS,
        levels: int = LEVELS,
    ) -> None:
        """`now_ms`: where time begins; the geometry is for tests and measurements, ValueError if it cannot work."""
        if tick_bits < 0 or radix_bits < 1 or levels < 1 or slot_bits < radix_bits + 2:
            raise ValueError("a level must reach four slots of the level above: slot_bits >= radix_bits + 2")
        shifts = [tick_bits + radix_bits * number for number in range(levels)]
        self._levels: list[Level[T]] = [Level(shift, 1 << slot_bits, early=shift > tick_bits) for shift in shifts]
        self._half_horizon = 1 << (shifts[-1] + slot_bits - 1)
        self._tick = 1 << tick_bits
        self._position = now_ms & -self._tick
        self._index: dict[Hashable, int] = {}  # key → time, of every timer
        self._heap: list[tuple[int, int, Hashable]] = []  # (time, arrival, key); may hold cancelled ones
        self._ready: dict[Hashable, T] = {}  # the items of the heap that still count
        self._arrivals = 0
        self._far: dict[Hashable, T] = {}
        self._far_at = 0  # when `far` is sifted; means nothing while it is empty
        self._sifted: dict[Hashable, T] = {}  # what is left of a `far` that is being sifted
        self._sifted_at = 0
        self._moved = 0
        self._fired = 0

    def insert(self, key: Hashable, at_ms: int, item: T) -> bool:
        """Fire `item` at `at_ms`, or at once if that is past. False if it replaced the key's earlier timer."""
        earlier = self._index.get(key)
        if earlier is not None:
            self._take(key, earlier)
        self._index[key] = at_ms
        self._place(key, at_ms, item)
        return earlier is None

    def cancel(self, key: Hashable) -> T | None:
        """Forget the key's timer and return its item, None if there is none. O(1)."""
        at_ms = self._index.pop(key, None)
        return None if at_ms is None else self._take(key, at_ms)

    def reschedule(self, key: Hashable, at_ms: int) -> bool:
        """Move the key's timer to `at_ms`. False if there is none."""
        earlier = self._index.get(key)
        if earlier is None:
            return False
        item = self._take(key, earlier)
        self._index[key] = at_ms
        self._place(key, at_ms, item)
        return True

    def get(self, key: Hashable) -> T | None:
        """The key's item, None if there is no timer."""
        at_ms = self._index.get(key)
        return None if at_ms is None else self._home(key, at_ms)[key]

    def at(self, key: Hashable) -> int | None:
        """The key's time, None if there is no timer."""
        return self._index.get(key)

    def advance(self, now_ms: int, budget: int) -> list[T]:
        """The items due at `now_ms`, in due order, after at most `budget` units of work.

        A unit is one timer given out or poured down a level: about a microsecond. When the budget was used up there may
        be more: then `next_deadline() <= now_ms`, and the caller lets others run and calls again.
        """
        due: list[T] = []
        while budget > 0:
            budget -= self._fire(now_ms, budget, due)
            if budget <= 0:
                break
            used = self._pour_next(now_ms, budget)
            if not used:
                break
            budget -= used
        return due

    def next_deadline(self) -> int | None:
        """When `advance` has something to do, None if never.

        The exact time of the next timer, or an earlier moment at which a coarse slot must be poured (at most three a
        timer), at which nothing is given out. Never later than the next timer.
        """
        heap, ready, index = self._heap, self._ready, self._index
        while heap and not (heap[0][2] in ready and index[heap[0][2]] == heap[0][0]):
            heappop(heap)
        begins = [(level.first(self._position), level.early_ms) for level in self._levels]
        wakes = [begins_at - early_ms for begins_at, early_ms in begins if begins_at is not None]
        if heap:
            wakes.append(heap[0][0])
        if (sift_at := self._sift_at()) is not None:
            wakes.append(sift_at)
        return min(wakes, default=None)

    def statistics(self) -> WheelStatistics:
        """A count of everything; walks the slots, so for a scrape and not for each timer."""
        levels = tuple(sum(map(len, level.slots)) for level in self._levels)
        far = len(self._far) + len(self._sifted)
        ready = len(self._ready)
        return WheelStatistics(
            timers=len(self._index),
            ready=ready,
            tombstones=len(self._heap) - ready,
            levels=levels,
            far=far,
            moved=self._moved,
            fired=self._fired,
        )

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._index

    def __repr__(self) -> str:
        return f"<TimingWheel at {self._position} ms, {len(self)} timers, {len(self._ready)} ready>"

    def _place(self, key: Hashable, at_ms: int, item: T) -> None:
        position = self._position
        if at_ms < position:
            self._make_ready(key, at_ms, item)
            return
        for level in self._levels:
            number = at_ms >> level.shift
            if number - (position >> level.shift) < level.count:
                index = number & (level.count - 1)
                slot = level.slots[index]
                if not slot:
                    level.occupied |= 1 << index
                slot[key] = item
                return
        sift_at = at_ms - self._half_horizon
        self._far_at = min(self._far_at, sift_at) if self._far else sift_at
        self._far[key] = item

    def _make_ready(self, key: Hashable, at_ms: int, item: T) -> None:
        self._arrivals += 1
        heappush(self._heap, (at_ms, self._arrivals, key))
        self._ready[key] = item

    def _home(self, key: Hashable, at_ms: int) -> dict[Hashable, T]:
        """The dict that a key which has a timer is in."""
        if key in self._ready:
            return self._ready
        for level in self._levels:
            slot = level.slots[level.index(at_ms)]
            if key in slot:
                return slot
        return self._far if key in self._far else self._sifted

    def _take(self, key: Hashable, at_ms: int) -> T:
        """Take a timer's item out of where it is. Its heap entry, if any, stays behind and is passed over later."""
        home = self._home(key, at_ms)
        item = home.pop(key)
        if home is self._ready:
            if len(self._heap) > 2 * len(home) + TOMBSTONES:
                self._heap = [(self._index[k], n, k) for n, k in enumerate(home, self._arrivals + 1)]
                self._arrivals += len(home)
                heapify(self._heap)
        elif not home:
            for level in self._levels:
                if level.slots[level.index(at_ms)] is home:
                    level.remove(level.index(at_ms))
        return item

    def _fire(self, now_ms: int, budget: int, due: list[T]) -> int:
        """Move what is due from the heap to `due`; units used. Invariant 1 makes this the due order."""
        heap, ready, index = self._heap, self._ready, self._index
        last = min(now_ms, self._position - 1)
        used = 0
        while used < budget and heap and heap[0][0] <= last:
            at_ms, _, key = heappop(heap)
            used += 1
            # A cancelled timer's key is not in `ready`, a moved one has another time. Of two entries of one key and one
            # time, left by a cancel and an insert, the first takes the key and the second is passed over.
            if key in ready and index[key] == at_ms:
                del index[key]
                due.append(ready.pop(key))
                self._fired += 1
        return used

    def _pour_next(self, now_ms: int, budget: int) -> int:
        """Bring `position` as far as it may go, then pour the slot whose turn it is; units used, 0 if it is none's."""
        fine, *coarse = [level.first(self._position) for level in self._levels]
        sift_at = self._sift_at()
        others = [at for at in (sift_at, *coarse) if at is not None]
        reach = min(now_ms, *others) if others else now_ms
        self._position = max(self._position, (reach if fine is None else min(reach, fine)) & -self._tick)
        turns: list[tuple[int, int]] = []  # (when it begins, minus its level): the earliest, of those the widest
        if sift_at is not None and sift_at <= now_ms:
            turns.append((sift_at, -len(self._levels)))
        for number, begins_at in enumerate(coarse, 1):
            if begins_at is not None and begins_at - self._levels[number].early_ms <= now_ms:
                turns.append((begins_at, -number))
        # When the heap runs dry the next slot of level 0 is poured ahead of its time, if nothing comes before it: so
        # the next deadline is known to the millisecond.
        dry = not self._heap or self._heap[0][0] >= self._position
        if fine is not None and (fine <= now_ms or (dry and fine < min(others, default=fine + 1))):
            turns.append((fine, 0))
        if not turns:
            return 0
        begins_at, number = min(turns)
        return self._sift(budget) if -number == len(self._levels) else self._pour(-number, begins_at, budget)

    def _pour(self, number: int, begins_at: int, budget: int) -> int:
        """Pour a slot, or as much of it as the budget allows, into finer levels or the heap; units used."""
        level, times = self._levels[number], self._index
        index = level.index(begins_at)
        slot = level.slots[index]
        used = min(budget, len(slot))
        if used < len(slot):
            items = list(islice(slot.items(), used))
            for key, _ in items:
                del slot[key]
        else:
            items = list(level.remove(index).items())
            if number == 0:
                self._position = begins_at + self._tick
        put = self._make_ready if number == 0 else self._place
        for key, item in items:
            put(key, times[key], item)
        self._moved += used
        return used

    def _sift_at(self) -> int | None:
        """When what waits beyond the top level is placed anew, None if nothing does."""
        if self._sifted:
            return self._sifted_at
        return self._far_at if self._far else None

    def _sift(self, budget: int) -> int:
        """Place what waited beyond the top level anew, as far as the budget goes; units used."""
        if not self._sifted:
            self._sifted, self._sifted_at, self._far = self._far, self._far_at, {}
        keys = list(islice(self._sifted, budget))
        for key in keys:
            self._place(key, self._index[key], self._sifted.pop(key))
        self._moved += len(keys)
        return len(keys)
