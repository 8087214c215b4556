"""How many connections to receivers all businesses may have open together: what the process has descriptors for.

Each business's pool keeps connections for reuse, which nobody misses when they are closed: at the bound the one that
has rested longest, whosesoever it is, makes room for a new one. Those at work are bounded before that, by the gate of
callbacks in flight, so that one at rest is always found. Plain functions: no lock, no await.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class ConnectionRoom(Generic[C]):
    """`most` slots, shared by the pools of a process."""

    def __init__(self, most: float = math.inf) -> None:
        self._most = most
        self._taken = 0
        self._resting: dict[C, Callable[[C], None]] = {}  # longest rest first; how its pool closes it

    @property
    def taken(self) -> int:
        return self._taken

    @property
    def over(self) -> bool:
        """More are at work than there is room for: none is to be kept."""
        return self._taken > self._most

    def take(self) -> None:
        """A slot more is taken; at the bound a connection at rest is closed for it."""
        self._taken += 1
        if self.over and self._resting:
            oldest = next(iter(self._resting))
            self._resting[oldest](oldest)

    def free(self, slots: int = 1) -> None:
        self._taken -= slots

    def rests(self, connection: C, close: Callable[[C], None]) -> None:
        """From now on `close(connection)` may be called: it is to forget it and free its slot."""
        self._resting[connection] = close

    def wakes(self, connection: C) -> None:
        """It is used again, or closed."""
        del self._resting[connection]

    def __repr__(self) -> str:
        return f"<ConnectionRoom {self._taken}/{self._most} resting={len(self._resting)}>"
