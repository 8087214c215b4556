"""A bounded set of connections to one MySQL-protocol server, and what to do while there is none.

At most `size` connections exist; who finds none waits in line, for `acquire_timeout_s` at most. A connection comes back
only when its user vouches for it *and* it is at rest (no command on its way, no transaction, autocommit on); every
other one is destroyed. Before it is lent again it is looked at: bytes nobody asked for mean the server ended it; one
that has idled for some seconds, or since another one broke or fell silent, must answer a ping first.

While the server is out, nobody queues for a time-out: after a failed connect, or a statement to which a server that has
fallen silent owed the answer, all further connects fail at once, until 0.25 to 1 s later one task tries again on behalf
of all (the others go on failing at once until it succeeds). Who was in line when the word came is refused with the
others, so that nobody waits twice. All pools on one server share that word (`Outage`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import trio

from taskcenter.store.connection import ACQUIRE_TIMEOUT_S, FaultKind, PoolStatistics, StoreFault
from taskcenter.store.gate import Gate
from taskcenter.store.mysql_wire import COM_PING, HOLD_OFF_S, Wire

PING_AFTER_S: Final = 5.0
PING_TIMEOUT_S: Final = 1.0
RETRY_S: Final = (0.25, 1.0)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Times in s."""

    size: int = 8
    acquire_timeout_s: float = ACQUIRE_TIMEOUT_S  # waiting in line, and connecting, together
    idle_limit_s: float = 7.5  # must be less than the server's wait_timeout
    max_lifetime_s: float = 1800.0  # so that every connection finds a changed address or certificate in the end


class Outage:
    """Whether the server is known to be out, and who may look again. Pure: `now` is passed in."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._kind: FaultKind | None = None  # of the latest failure; None while all is well
        self._failed_at = float("-inf")
        self._retry_at = 0.0
        self._probing = False
        self.suspect_at = float("-inf")  # idle connections not used since then must answer a ping

    @property
    def known(self) -> bool:
        return self._kind is not None

    def enter(self, now: float, asked_at: float) -> bool:
        """Ask leave to connect; True when it is on probation. Raises StoreFault when connecting is not worth a try.

        `asked_at`: since when the caller waits.
        """
        if self._kind is None:
            return False
        if self._probing or now < self._retry_at or asked_at < self._failed_at:
            raise StoreFault(self._kind, "the database could not be reached a moment ago")
        self._probing = True
        return True

    def leave(self, probe: bool) -> None:
        """The try is over; also when it was cancelled, which says nothing about the server."""
        if probe:
            self._probing = False

    def failed(self, now: float, kind: FaultKind) -> None:
        self._kind = kind
        self._failed_at = now
        self._retry_at = now + self._rng.uniform(*RETRY_S)

    def succeeded(self) -> None:
        self._kind = None


class Pool:
    """`acquire` a wire, `release` it with a word on its state. `make` builds a new, unopened wire."""

    def __init__(self, make: Callable[[], Wire], settings: PoolSettings, rng: Random, outage: Outage) -> None:
        """`outage`: what is known of the server, shared by all pools on it."""
        self._make = make
        self._settings = settings
        self._rng = rng
        self._gate = Gate(settings.size)
        self._outage = outage
        self._idle: deque[Wire] = deque()  # used latest at the right; all other mutable fields are the pool's alone
        self._lent: set[Wire] = set()
        self._closed = False
        self._opened_total = 0
        self._discarded_total = 0

    async def acquire(self, *, fresh: bool = False) -> Wire:
        """A wire at rest; `fresh` for a new one. Raises StoreFault within `acquire_timeout_s`."""
        asked_at = trio.current_time()
        if not await self._gate.enter(self._settings.acquire_timeout_s):
            raise StoreFault("busy", f"all {self._settings.size} connections to the database are in use")
        try:
            wire = None if fresh else await self._reuse()
            if wire is None:
                wire = await self._connect(asked_at)
        except BaseException:
            self._gate.leave()
            raise
        self._lent.add(wire)
        return wire

    def release(self, wire: Wire, *, clean: bool, suspect: bool = False) -> None:
        """Give a wire back. Not `clean`: destroy it. `suspect`: it broke or fell silent, so may the others have."""
        now = trio.current_time()
        self._lent.discard(wire)
        if suspect:
            self._outage.suspect_at = now
        if wire.found_silent:
            self._outage.failed(now, "timeout")
        if clean and wire.at_rest and not self._closed and now < wire.retire_at:
            self._idle.append(wire)
        else:
            self._discard(wire)
        self._gate.leave()

    def close(self) -> None:
        """End idle connections politely and lent ones abruptly; whoever waits is refused."""
        self._closed = True
        while self._idle:
            self._discard(self._idle.pop())
        for wire in self._lent:
            wire.kill()

    def statistics(self) -> PoolStatistics:
        return PoolStatistics(
            size=self._settings.size,
            in_use=self._gate.in_use,
            waiting=self._gate.waiting,
            opened_total=self._opened_total,
            discarded_total=self._discarded_total,
        )

    def _discard(self, wire: Wire) -> None:
        self._discarded_total += 1
        if wire.at_rest:
            wire.farewell()
        else:
            wire.kill()

    async def _reuse(self) -> Wire | None:
        """The idle wire used latest that is still good. In an outage no suspect one is asked: that costs a wait."""
        now = trio.current_time()
        if self._idle and now - self._idle[0].used_at > self._settings.idle_limit_s:
            self._discard(self._idle.popleft())
        while self._idle:
            wire = self._idle.pop()
            now = trio.current_time()
            idle_s = now - wire.used_at
            if wire.surplus() or now >= wire.retire_at or idle_s > self._settings.idle_limit_s:
                self._discard(wire)
            elif idle_s <= PING_AFTER_S and wire.used_at > self._outage.suspect_at:
                return wire
            elif self._outage.known:
                self._idle.append(wire)
                return None
            elif await self._answers(wire):
                return wire
        return None

    async def _answers(self, wire: Wire) -> bool:
        """Whether the wire answers a ping. Silence counts as an outage, and ends all the others that were idle too."""
        answered = False
        scope = trio.CancelScope(deadline=trio.current_time() + PING_TIMEOUT_S)
        try:
            with scope:
                await wire.command(COM_PING)
                answered = wire.at_rest
        except StoreFault:
            answered = False  # it is broken, which the next connect may or may not be
        finally:
            if not answered:
                wire.kill()
                self._discard(wire)
        if scope.cancelled_caught:
            self._outage.failed(trio.current_time(), "timeout")
            while self._idle:
                self._discard(self._idle.pop())
        return answered

    async def _connect(self, asked_at: float) -> Wire:
        """A new wire, ready, for a caller who waits since `asked_at`. Raises StoreFault within `acquire_timeout_s`.

        For its first half second a login is not cancelled: a storm of cancellations would let none come to its end.
        """
        if self._closed:
            raise StoreFault("closed", "the connections to the database are closed")
        deadline = asked_at + self._settings.acquire_timeout_s
        probe = self._outage.enter(trio.current_time(), asked_at)
        try:
            wire = await self._log_in(min(deadline, trio.current_time() + HOLD_OFF_S), shield=True)
            if wire is None:
                wire = await self._log_in(deadline, shield=False)
            if wire is not None:
                self._outage.succeeded()
                return wire
            failure = StoreFault("timeout", "the database did not answer a new connection in time")
        except StoreFault as error:
            failure = error
        finally:
            self._outage.leave(probe)
        self._outage.failed(trio.current_time(), failure.kind)
        raise failure

    async def _log_in(self, deadline: float, *, shield: bool) -> Wire | None:
        """A new wire, or None when `deadline` passes."""
        wire = self._make()
        with trio.CancelScope(shield=shield, deadline=deadline):
            await wire.open()
            self._opened_total += 1
            wire.retire_at = trio.current_time() + self._settings.max_lifetime_s * self._rng.uniform(0.8, 1.0)
            return wire
        return None
