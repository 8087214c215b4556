"""Names to addresses, without letting one business's dead names hold up another's.

`getaddrinfo` blocks a thread for as long as the name servers keep silent, and a cancelled look-up keeps its thread:
in trio's shared pool of 40, sixty such look-ups stop everybody. So the threads here are counted apart, at most
`per_business` for a business and `total` for the process, and a count is given back when the *thread* ends, not when
the caller loses patience. A name is looked up by one thread of a business at a time; others who want it wait for that
one, and its answer is kept even if nobody waits any more. So a dead name costs a business one thread, not all.

Answers are kept `TTL_S`, failures `FAILURE_TTL_S`. `getaddrinfo` does not tell a record's own time to live; 30 s is
what the JVM settled on. The addresses are not judged here: `transport` asks the policy about each before a dial.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import trio

from taskcenter.actors.egress.wire import Address

TTL_S: Final = 30.0
FAILURE_TTL_S: Final = 3.0
MAX_NAMES: Final = 4096
MAX_ADDRESSES: Final = 8  # of one name

GetAddrInfo = Callable[..., Sequence[tuple[Any, ...]]]


class NameLookupError(Exception):
    """The name has no address, or none was to be had. The message is for the task's owner."""


class Resolver(Protocol):
    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """The numeric addresses of `host`, best first, at least one. Raises `NameLookupError`."""


@dataclass(frozen=True, slots=True)
class _Known:
    addresses: tuple[Address, ...]  # of port 0
    fault: str | None
    expires_at: float  # trio's time, s


class NameService:
    """The process's look-ups: one cache, one bound on threads."""

    def __init__(self, *, total: int = 20, getaddrinfo: GetAddrInfo = socket.getaddrinfo) -> None:
        self.threads = trio.CapacityLimiter(total)
        self.getaddrinfo = getaddrinfo
        self._known: dict[str, _Known] = {}  # in order of the look-up

    def for_business(self, per_business: int = 2) -> BusinessResolver:
        """A resolver with its own share of the threads."""
        return BusinessResolver(self, per_business)

    def get(self, host: str) -> _Known | None:
        known = self._known.get(host)
        return known if known is not None and trio.current_time() < known.expires_at else None

    def put(self, host: str, addresses: tuple[Address, ...], fault: str | None) -> None:
        self._known.pop(host, None)
        if len(self._known) >= MAX_NAMES:
            del self._known[next(iter(self._known))]
        life_s = TTL_S if fault is None else FAILURE_TTL_S
        self._known[host] = _Known(addresses, fault, trio.current_time() + life_s)

    def __repr__(self) -> str:
        return f"<NameService {len(self._known)} names, {self.threads.borrowed_tokens} look-ups running>"


class BusinessResolver:
    """The look-ups of one business."""

    def __init__(self, service: NameService, per_business: int) -> None:
        self.service = service
        self.threads = trio.CapacityLimiter(per_business)
        self._running: dict[str, _Lookup] = {}

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        """As the protocol says; from the cache without waiting, else by a thread."""
        while (known := self.service.get(host)) is None:
            lookup = self._running.get(host)
            if lookup is not None:
                await lookup.ended.wait()
            else:
                await self._look_up(host)
        if known.fault is not None:
            raise NameLookupError(known.fault)
        return [(family, (where[0], port, *where[2:])) for family, where in known.addresses]

    async def _look_up(self, host: str) -> None:
        lookup = self._running[host] = _Lookup(self, host)
        try:
            await trio.to_thread.run_sync(
                lookup.work,
                abandon_on_cancel=True,
                limiter=cast("trio.CapacityLimiter", lookup),  # trio asks for its two methods only
                thread_name="name look-up",
            )
        finally:
            if not lookup.started:
                self.ended(lookup)

    def ended(self, lookup: _Lookup) -> None:
        del self._running[lookup.host]
        lookup.ended.set()

    def __repr__(self) -> str:
        return f"<BusinessResolver {len(self._running)} look-ups running>"


class _Lookup:
    """One look-up, and the limiter of its thread: trio calls `release_on_behalf_of` when the thread is really over."""

    def __init__(self, owner: BusinessResolver, host: str) -> None:
        self.host = host
        self.ended = trio.Event()
        self.started = False
        self._owner = owner
        self._addresses: tuple[Address, ...] = ()  # written by the thread, read after it
        self._fault: str | None = None

    def work(self) -> None:
        """In the thread."""
        try:
            found = self._owner.service.getaddrinfo(self.host.encode("ascii"), 0, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._fault = _describe(self.host, error)
            return
        unique = dict.fromkeys((family, tuple(where)) for family, _, _, _, where in found)
        self._addresses = tuple(unique)[:MAX_ADDRESSES]
        if not self._addresses:
            self._fault = f"{self.host} has no address"

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        await self._owner.threads.acquire_on_behalf_of(borrower)
        try:
            await self._owner.service.threads.acquire_on_behalf_of(borrower)
        except BaseException:
            self._owner.threads.release_on_behalf_of(borrower)
            raise
        self.started = True

    def release_on_behalf_of(self, borrower: object) -> None:
        self._owner.service.threads.release_on_behalf_of(borrower)
        self._owner.threads.release_on_behalf_of(borrower)
        self._owner.service.put(self.host, self._addresses, self._fault)
        self._owner.ended(self)


def _describe(host: str, error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)):
            return f"the name {host} does not exist"
        if error.errno == socket.EAI_AGAIN:
            return f"the name servers gave no answer for {host}"
        return f"the name {host} could not be looked up: {error.strerror}"
    return f"the name {host} could not be looked up"
