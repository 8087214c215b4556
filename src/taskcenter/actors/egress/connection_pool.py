"""The connections of one business: kept for reuse, never more than a bound, every one accounted for.

A *slot* is the right to have one connection open; it is held from before the dial until the close, at rest included.
All operations but `acquire` are synchronous, so no cancellation can fall between a change and its account. Whoever
gets a connection or a slot must end with exactly one of `give_back`, `drop` (connections) or `free_slot` (slots).

When all slots are taken, the connection that has rested longest makes room; when none rests, callers queue and are
served in order, each handed a slot (or a connection of its own origin) directly, so a newcomer cannot overtake.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import trio

from taskcenter.actors.egress.connection_room import ConnectionRoom
from taskcenter.actors.egress.http1 import Http1Connection, Origin


@dataclass(slots=True, eq=False)
class _Waiter:
    origin: Origin
    served: trio.Event
    granted: bool = False  # set with `served`, unless the pool closed
    connection: Http1Connection | None = None  # what was granted; None: a slot


class ConnectionPool:
    """Owned by one transport."""

    def __init__(
        self,
        max_connections: int,
        max_idle_s: float,
        max_age_s: float,
        room: ConnectionRoom[Http1Connection] | None = None,
    ) -> None:
        """`max_idle_s`: rest after which a connection is not used again. `max_age_s`: age after which it is not kept,
        so that a name's new addresses are followed under constant traffic too. `room`: of all pools together."""
        self._max_connections = max_connections
        self._max_idle_s = max_idle_s
        self._max_age_s = max_age_s
        self._room: ConnectionRoom[Http1Connection] = ConnectionRoom() if room is None else room
        self._slots_taken = 0
        self._resting: dict[Http1Connection, None] = {}  # all origins, longest rest first
        self._by_origin: dict[Origin, list[Http1Connection]] = {}  # the same ones, latest last
        self._working: set[Http1Connection] = set()
        self._waiters: deque[_Waiter] = deque()
        self.closed = False

    @property
    def max_connections(self) -> int:
        return self._max_connections

    @property
    def open(self) -> int:
        return len(self._resting) + len(self._working)

    @property
    def idle(self) -> int:
        return len(self._resting)

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    @property
    def slots_taken(self) -> int:
        return self._slots_taken

    def take(self, origin: Origin, now: float) -> Http1Connection | None:
        """A live connection to `origin` that rests, the one used last; it belongs to the caller now."""
        resting = self._by_origin.get(origin)
        while resting:
            connection = resting[-1]
            self._forget(connection)
            if now - connection.idle_since <= self._max_idle_s and connection.is_fresh():
                self._working.add(connection)
                return connection
            self._close(connection)
        return None

    async def acquire(self, origin: Origin) -> Http1Connection | None:
        """A slot to dial with (None), waiting for one if need be; or, after a wait, a connection to `origin`.

        Only worth calling after `take` found nothing. Raises trio.ClosedResourceError once the pool is closed.
        """
        self.check_open()
        if self._slots_taken < self._max_connections and not self._waiters:
            self._take_slot()
            return None
        if self._resting and not self._waiters:
            oldest = next(iter(self._resting))
            self._forget(oldest)
            oldest.close()  # its slot becomes the caller's
            return None
        waiter = _Waiter(origin, trio.Event())
        self._waiters.append(waiter)
        try:
            await waiter.served.wait()
            self.check_open()
        except BaseException:
            # Served in the very step in which the cancellation was on its way, or before the pool closed: pass it on.
            if waiter.connection is not None:
                self.give_back(waiter.connection, waiter.connection.idle_since)
            elif waiter.granted:
                self.free_slot()
            elif not self.closed:
                self._waiters.remove(waiter)
            raise
        return waiter.connection

    def check_open(self) -> None:
        if self.closed:
            raise trio.ClosedResourceError("this transport is closed")

    def add(self, connection: Http1Connection) -> None:
        """The caller has dialled: its slot is this connection's now."""
        self._working.add(connection)

    def give_back(self, connection: Http1Connection, now: float) -> None:
        """After a complete exchange: keep it if it may be used again, else close it."""
        surplus = self._slots_taken > self._max_connections or self._room.over
        if surplus or not connection.reusable or self.closed or now - connection.born_at > self._max_age_s:
            self.drop(connection)
            return
        connection.idle_since = now
        if self._waiters:
            if self._waiters[0].origin == connection.origin:
                self._serve(connection)  # stays among the working
            else:
                self.drop(connection)
            return
        self._working.discard(connection)
        self._resting[connection] = None
        self._room.rests(connection, self._part_with)
        self._by_origin.setdefault(connection.origin, []).append(connection)

    def drop(self, connection: Http1Connection) -> None:
        """Close a connection that was worked with."""
        self._working.discard(connection)
        self._close(connection)

    def resize(self, max_connections: int) -> None:
        """Another bound from now on. A greater one serves who waits; a smaller one is reached as connections end."""
        self._max_connections = max_connections
        while self._waiters and self._slots_taken < max_connections:
            self._take_slot()
            self._serve(None)
        while self._resting and self._slots_taken > max_connections:
            self._part_with(next(iter(self._resting)))

    def free_slot(self) -> None:
        """Give a slot back: to who waits longest, if anyone does and the bound allows it."""
        if self._waiters and self._slots_taken <= self._max_connections:
            self._serve(None)
        else:
            self._slots_taken -= 1
            self._room.free()

    def close_idle(self, now: float) -> int:
        """Close what has rested too long to be used again; how many. For a timer: nobody else looks while all rests."""
        closed = 0
        for connection in list(self._resting):
            if now - connection.idle_since <= self._max_idle_s:
                break
            self._part_with(connection)
            closed += 1
        return closed

    def close(self) -> None:
        """Close all, those at work too: their exchanges end as faults. Who waits gets trio.ClosedResourceError."""
        self.closed = True
        for connection in [*self._resting, *self._working]:
            connection.close()
        for connection in self._resting:
            self._room.wakes(connection)
        self._slots_taken -= len(self._resting)
        self._room.free(len(self._resting))
        self._resting.clear()
        self._by_origin.clear()
        for waiter in self._waiters:
            waiter.served.set()
        self._waiters.clear()

    def _serve(self, connection: Http1Connection | None) -> None:
        waiter = self._waiters.popleft()
        waiter.granted, waiter.connection = True, connection
        waiter.served.set()

    def _take_slot(self) -> None:
        self._slots_taken += 1
        self._room.take()

    def _part_with(self, connection: Http1Connection) -> None:
        """Close one that rests."""
        self._forget(connection)
        self._close(connection)

    def _forget(self, connection: Http1Connection) -> None:
        del self._resting[connection]
        self._room.wakes(connection)
        siblings = self._by_origin[connection.origin]
        if siblings[-1] is connection:
            siblings.pop()
        else:
            siblings.remove(connection)
        if not siblings:
            del self._by_origin[connection.origin]

    def _close(self, connection: Http1Connection) -> None:
        connection.close()
        self.free_slot()

    def __repr__(self) -> str:
        return (
            f"<ConnectionPool {self.open} open ({self.idle} idle), {self._slots_taken} of {self._max_connections} "
            f"slots taken, {self.waiting} waiting{', closed' if self.closed else ''}>"
        )
