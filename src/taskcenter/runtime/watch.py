"""Which of the other instances have stopped living, and how far the store's clock is believed. Pure.

The store's clock judges leases, and it may be set. Set back, it would keep a dead instance alive for as long as it was
set back; so one whose row has stood still for longer than the TTL by our own monotonic clock is dead as well. Set
forward, it would end every lease at once, of instances that live and send; so for the length of a lease it is believed
to have gone on no further than our own clock did, and by then all who live have renewed theirs. Who has only just
begun to watch cannot tell whether it was set a moment before, and lets no lease run out until he has watched for one.

A store that was out ran every lease out, too, of instances that live and could not renew it. So whoever was kept from
the store himself forgives the others for half a lease, in which each of them tries several times.

`now` is the process's monotonic time, in s.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Final

from taskcenter.store.engine_records import Instance

STALL_MARGIN_S: Final = 2.0


class Watch:
    """What one instance has seen of the others and of the store's clock."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._patience_s = ttl_s + STALL_MARGIN_S
        self._forgiveness_s = ttl_s / 2
        self._began_at: float | None = None  # when the store was first heard of
        self._heard_at: float | None = None  # when it last was
        self._back_at = -math.inf  # when it was, after a silence
        self._last_moved: dict[str, tuple[int, float]] = {}  # instance → (seq, when it was first seen with it)
        self._readings: deque[tuple[float, float]] = deque()  # (when, ms that the store's clock was ahead of ours)

    def heard(self, store_ms: int, now: float) -> None:
        """Take note of what the store's clock showed, at `now` or shortly before."""
        if self._heard_at is not None and now - self._heard_at > self._forgiveness_s:
            self._back_at = now
        self._began_at = now if self._began_at is None else self._began_at
        self._heard_at = now
        self._readings.append((now, store_ms - now * 1000))
        while self._readings[0][0] < now - self._patience_s:
            self._readings.popleft()

    def believed_ms(self, now: float) -> int:
        """The latest time that it can be by the store's clock unless it was set. Needs to have heard of it."""
        return int(min(ahead for _, ahead in self._readings) + now * 1000)

    def forgiving(self, now: float) -> bool:
        """Whether the store has only just come back, and the others may not have reached it yet; or we have, and
        cannot judge its clock yet.
        """
        return now - self._back_at < self._forgiveness_s or self._began_at is None or now - self._began_at < self._ttl_s

    def stalled(self, instances: Iterable[Instance], now: float) -> list[tuple[str, int]]:
        """(id, seq) of those that count as alive and have stood still for longer than a lease lasts."""
        moved = {
            one.id: (one.seq, now) if (seen := self._last_moved.get(one.id)) is None or seen[0] != one.seq else seen
            for one in instances
            if not one.dead
        }
        self._last_moved = moved
        return [(name, seq) for name, (seq, since) in sorted(moved.items()) if now - since > self._patience_s]
