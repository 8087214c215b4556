"""A bounded mailbox that refuses instead of waiting: the wheel and the API must never stand still for an actor.

A refusal loses nothing: the row is the truth, and an actor that refused knows that it has to re-read (`overflowed`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class Offer(Enum):
    ACCEPTED = "accepted"
    FULL = "full"
    CLOSED = "closed"


class Mailbox(Generic[T]):
    """FIFO of at most `capacity` items. Owner of the queue: the actor; anyone may offer."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False

    def offer(self, item: T) -> Offer:
        if self._closed:
            return Offer.CLOSED
        if len(self._items) >= self.capacity:
            return Offer.FULL
        self._items.append(item)
        return Offer.ACCEPTED

    def drain(self) -> Iterator[T]:
        """Take everything out, oldest first."""
        while self._items:
            yield self._items.popleft()

    def close(self) -> None:
        self._closed = True

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Mailbox {state} {len(self._items)}/{self.capacity}>"
