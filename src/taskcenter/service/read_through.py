"""A bounded cache in front of one read of the store, for values that must be in force everywhere within 2 s.

Invariants. A value is handed out only if the read that brought it *began* less than `FRESH_MS` ago, or if the owner has
checked all values since (`checked_at`). Callers that miss the same key share one read, its failure too: in an outage
each hears of it once, after one time-out, not one after the other. A caller that is cancelled while it reads leaves
the read to the next who waits. Absent keys are kept apart from present ones, so a flood of made-up keys pushes nothing
out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

import trio

from taskcenter.errors import StoreUnavailable

FRESH_MS: Final = 1_500
MAX_PRESENT: Final = 50_000
MAX_ABSENT: Final = 2_000

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class ReadThrough(Generic[Key, Value]):
    """`get` is the read, seldom done. Owner of the entries: whoever made it."""

    def __init__(
        self,
        read: Callable[[Key], Awaitable[Value | None]],
        now_ms: Callable[[], int],
        *,
        most: int = MAX_PRESENT,
        most_absent: int = MAX_ABSENT,
    ) -> None:
        self._read = read
        self._now_ms = now_ms
        self._most = most
        self._most_absent = most_absent
        self._present: OrderedDict[Key, tuple[Value, int]] = OrderedDict()  # value, ms its read began
        self._absent: OrderedDict[Key, int] = OrderedDict()
        self._readings: dict[Key, _Reading] = {}
        self.checked_at = 0  # ms; set by an owner that looks for changes of all values at once

    async def get(self, key: Key) -> Value | None:
        """Raises `StoreUnavailable`."""
        while True:
            oldest = self._now_ms() - FRESH_MS
            if (entry := self._present.get(key)) is not None and max(entry[1], self.checked_at) > oldest:
                self._present.move_to_end(key)
                return entry[0]
            if self._absent.get(key, oldest) > oldest:
                return None
            if (reading := self._readings.get(key)) is None:
                return await self._fetch(key)
            await reading.done.wait()
            if reading.failure is not None:
                raise StoreUnavailable(str(reading.failure))

    async def _fetch(self, key: Key) -> Value | None:
        reading = self._readings[key] = _Reading()
        began = self._now_ms()
        try:
            value = await self._read(key)
            self.put(key, value, began)
        except StoreUnavailable as error:
            reading.failure = error
            raise
        finally:
            del self._readings[key]
            reading.done.set()
        return value

    def put(self, key: Key, value: Value | None, read_at: int) -> None:
        """Keep a value whose read began at `read_at`, unless a younger one is here."""
        if (seen := self._present.get(key)) is not None and seen[1] > read_at:
            return
        if value is None:
            self._present.pop(key, None)
            self._absent[key] = read_at
            if len(self._absent) > self._most_absent:
                self._absent.popitem(last=False)
            return
        self._absent.pop(key, None)
        self._present[key] = (value, read_at)
        self._present.move_to_end(key)
        if len(self._present) > self._most:
            self._present.popitem(last=False)

    def drop(self, key: Key) -> None:
        """The next `get` reads."""
        self._present.pop(key, None)
        self._absent.pop(key, None)

    def last_seen(self, key: Key) -> Value | None:
        """The value last read, however long ago."""
        entry = self._present.get(key)
        return None if entry is None else entry[0]

    def __len__(self) -> int:
        return len(self._present) + len(self._absent)


class _Reading:
    """A read under way."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: StoreUnavailable | None = None
