"""The transport of callbacks: one a business. From a request to an answer or a fault, inside one deadline.

Why not httpx's own pool: on trio it polls every idle connection at every request (1.6 ms of CPU at 16 connections), it
leaks slots when a deadline cancels a waiting request, its timeouts are per read, and it keeps cookies, follows proxies
of the environment and takes bytes after an answer for the next one.

The way of an exchange: a resting connection to the origin, else a slot and a dial. A dial looks the name up, asks the
egress policy about each address it has *now*, and connects to one of those that passed, never to the name; TLS is then
verified for the host in the URL. Each address but the last gets a slice of the time, so a dead one cannot eat it all.

A client certificate is shown to the receivers it is for, and to no other: what connections are shared by is the origin
*and* the certificate, so a change of it, or its end, never meets a connection of before.

Invariants. Every exchange ends as exactly one of `Answered`, `Faulted` or a cancellation from outside. The caller's
deadline covers everything: the wait for a slot, the look-up, the dial, the handshake, sending, each byte of the answer.
`Faulted.sent` is false only if no byte of the request can have reached the receiver. On every way out the connection
is back in the pool, complete and quiet, or closed, and its slot is free.

One repetition: a *reused* connection may be closed by the receiver at rest, while the request is on its way. If it ends
with none of the request acknowledged by the receiver's machine, nobody can have seen it, and it is sent once more on a
new connection, within the same attempt. A receiver that took the request and then closed or reset the connection has
failed the attempt, on a reused connection as on a new one: the retry list decides what follows.

`exchange` is the way the engine uses. The `httpx.AsyncBaseTransport` is a thin shell around it, for tools and tests.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import httpx
import trio

from taskcenter.actors.egress.connection_pool import ConnectionPool
from taskcenter.actors.egress.connection_room import ConnectionRoom
from taskcenter.actors.egress.exchange import CallbackRequest, Exchange, Faulted, Withheld
from taskcenter.actors.egress.faults import describe_handshake_error, describe_os_error, our_lack, show_address
from taskcenter.actors.egress.http1 import Http1Connection, Origin, Progress, UnwritableRequest, write_request
from taskcenter.actors.egress.httpx_adapter import callback_from_httpx, deadline_of, error_for_httpx, response_for_httpx
from taskcenter.actors.egress.pins import covered
from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.actors.egress.resolver import NameLookupError, Resolver
from taskcenter.actors.egress.targets import ParsedTarget
from taskcenter.actors.egress.tls import ClientIdentity, TlsSettings, UnusableIdentity, client_context, tls_context
from taskcenter.actors.egress.wire import Address, Dial, TlsWire, Wire, dial_tcp

MAX_DIAL_SLICE_S: Final = 1.0
LACK_PAUSE_S: Final = 0.1  # before the next try of a dial that this service had nothing for
UNUSABLE_IDENTITY: Final = Faulted(
    "connection_error", "the business's client certificate and key cannot be used; set them anew", sent=False
)


@dataclass(frozen=True, slots=True)
class TransportStatistics:
    open: int  # connections, those at rest included
    idle: int
    waiting: int  # exchanges waiting for a slot
    dialled: int  # in all
    reused: int  # exchanges begun on a kept connection
    redialled: int  # of those, found dead and replaced


class CallbackTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 to receivers, with a bounded pool of connections of its own. No cookies, proxies, redirects, netrc."""

    def __init__(
        self,
        *,
        policy: EgressPolicy,
        resolver: Resolver,
        tls: TlsSettings | None = None,
        max_connections: int = 64,
        max_idle_s: float = 20.0,
        max_age_s: float = 300.0,
        room: ConnectionRoom[Http1Connection] | None = None,
        dial: Dial = dial_tcp,
    ) -> None:
        """`max_connections`: at least the business's concurrency, else exchanges wait for one another. `room`: of all
        businesses together.

        Raises OSError when a file that `tls` names is missing or unfit.
        """
        self._policy = policy
        self._resolver = resolver
        self._tls = tls or TlsSettings()
        if tls is not None:
            tls_context(tls)  # a wrong file is the operator's fault and shows at the start, not at the first callback
        self._dial = dial
        self._pool = ConnectionPool(max_connections, max_idle_s, max_age_s, room)
        self._identity: ClientIdentity | None = None
        self._identity_hosts: tuple[str, ...] = ()
        self._identity_context: ssl.SSLContext | None = None  # of `_identity`, once it was needed
        self._dialled = self._reused = self._redialled = 0

    def identify(self, hosts: Sequence[str], identity: ClientIdentity | None) -> None:
        """Show `identity` to receivers that `hosts` (pins) cover and that ask for a certificate, from now on."""
        self._identity_hosts, self._identity, self._identity_context = tuple(hosts), identity, None

    def resize(self, max_connections: int) -> None:
        """So many connections at most, from now on."""
        self._pool.resize(max_connections)

    async def exchange(self, request: CallbackRequest, deadline_s: float) -> Exchange:
        """Send `request` and wait for the whole answer, `deadline_s` from now at the latest.

        Raises nothing for what a receiver, a network or a name server does; trio.ClosedResourceError after `aclose`;
        `Withheld` when the request's `may_send` says so.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        now = trio.current_time()
        progress = Progress()
        with trio.CancelScope(deadline=now + deadline_s):
            try:
                message = write_request(request)
            except UnwritableRequest as error:
                return Faulted("connection_error", f"the request cannot be sent: {error}", sent=False)
            identity = self._identity_for(request.target)
            origin = (*request.target.origin, "" if identity is None else identity.fingerprint)
            connection = self._pool.take(origin, now)
            redialled = False
            while True:
                if connection is None:
                    obtained = await self._obtain(request.target, origin, identity, progress)
                    if isinstance(obtained, Faulted):
                        return Faulted(obtained.kind, obtained.message, progress.sent)
                    connection = obtained
                kept = connection.exchanges > 0
                result = await self._exchange_on(connection, request, message, progress)
                if not kept or redialled or self._pool.closed or not _died_at_rest(result, progress):
                    return result
                self._redialled += 1
                redialled, connection = True, None
        return Faulted("timeout", f"no answer within {deadline_s:g} s ({progress.describe()})", progress.sent)

    async def _exchange_on(
        self, connection: Http1Connection, request: CallbackRequest, message: bytes, progress: Progress
    ) -> Exchange:
        self._reused += connection.exchanges > 0
        try:
            if request.may_send is not None and not request.may_send():
                raise Withheld
            result = await connection.exchange(request.method, message, progress)
        except BaseException:
            self._pool.drop(connection)
            raise
        self._pool.give_back(connection, trio.current_time())
        return result

    async def _obtain(
        self, target: ParsedTarget, origin: Origin, identity: ClientIdentity | None, progress: Progress
    ) -> Http1Connection | Faulted:
        """A connection that belongs to the caller: dialled, or handed over by another exchange."""
        progress.doing = f"waiting for a connection: all {self._pool.max_connections} are in use"
        handed_over = await self._pool.acquire(origin)
        if handed_over is not None:
            return handed_over
        try:
            connection = await self._open(target, origin, identity, progress)
        except BaseException:
            self._pool.free_slot()
            raise
        if isinstance(connection, Faulted):
            self._pool.free_slot()
            return connection
        self._dialled += 1
        self._pool.add(connection)
        if self._pool.closed:
            self._pool.drop(connection)
            raise trio.ClosedResourceError("this transport is closed")
        return connection

    async def _open(
        self, target: ParsedTarget, origin: Origin, identity: ClientIdentity | None, progress: Progress
    ) -> Http1Connection | Faulted:
        addresses = await self._admitted_addresses(target, progress)
        if isinstance(addresses, Faulted):
            return addresses
        connected = await self._connect(addresses, progress)
        if isinstance(connected, Faulted):
            return connected
        wire, peer = connected
        if target.scheme == "https":
            progress.doing = f"connected to {peer}, TLS handshake not done"
            try:
                secured = TlsWire(wire, await self._context(identity), target.host)
                await secured.handshake()
            except UnusableIdentity:
                wire.close()
                return UNUSABLE_IDENTITY
            except OSError as error:
                wire.close()
                return Faulted("connection_error", describe_handshake_error(error, peer), sent=False)
            except BaseException:
                wire.close()
                raise
            wire = secured
        return Http1Connection(wire, origin, peer, trio.current_time())

    def _identity_for(self, target: ParsedTarget) -> ClientIdentity | None:
        shown = target.scheme == "https" and covered(self._identity_hosts, target)
        return self._identity if shown else None

    async def _context(self, identity: ClientIdentity | None) -> ssl.SSLContext:
        """Raises `UnusableIdentity`."""
        if identity is None:
            return tls_context(self._tls)
        if identity is not self._identity:  # changed meanwhile; this exchange began with the former
            return await trio.to_thread.run_sync(client_context, self._tls, identity)
        if self._identity_context is None:
            context = await trio.to_thread.run_sync(client_context, self._tls, identity)
            if identity is self._identity:
                self._identity_context = context
            return context
        return self._identity_context

    async def _admitted_addresses(self, target: ParsedTarget, progress: Progress) -> Sequence[Address] | Faulted:
        """The target's addresses as they are now, less those the policy refuses."""
        if reason := self._policy.check_target(target):
            return Faulted("blocked", reason, sent=False)
        if target.address is not None:
            family = trio.socket.AF_INET if target.address.version == 4 else trio.socket.AF_INET6
            return [(family, (target.host, target.port))]
        progress.doing = f"looking up {target.host}"
        try:
            found = await self._resolver.resolve(target.host, target.port)
        except NameLookupError as error:
            return Faulted("connection_error", str(error), sent=False)
        admitted = [address for address in found if self._policy.check_address(address[1][0]) is None]
        if not admitted:  # which addresses these are is not the caller's to know
            return Faulted("blocked", f"{target.host} is not a host that callbacks may go to", sent=False)
        return admitted

    async def _connect(self, addresses: Sequence[Address], progress: Progress) -> tuple[Wire, str] | Faulted:
        """To the first address that takes the connection."""
        faults = []
        for index, address in enumerate(addresses):
            peer = show_address(address[1])
            progress.doing = f"connecting to {peer}"
            try:
                with trio.CancelScope(deadline=_dial_deadline(len(addresses) - index)):
                    return await self._dial_when_possible(address, progress), peer
                faults.append(f"connection to {peer} took too long")
            except OSError as error:
                faults.append(describe_os_error(error, peer))
        return Faulted("connection_error", "; ".join(dict.fromkeys(faults)), sent=False)

    async def _dial_when_possible(self, address: Address, progress: Progress) -> Wire:
        """What we are out of ourselves is waited for: it is not the receiver's fault."""
        while True:
            try:
                return await self._dial(address)
            except OSError as error:
                if (lack := our_lack(error)) is None:
                    raise
            progress.doing = lack
            await trio.sleep(LACK_PAUSE_S)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """For httpx; see `httpx_adapter` for what becomes of deadlines, faults and bodies."""
        callback = await callback_from_httpx(request)
        result = await self.exchange(callback, deadline_of(request))
        if isinstance(result, Faulted):
            raise error_for_httpx(result, request)
        return response_for_httpx(result)

    def close_idle(self) -> int:
        """Close the connections that have rested too long; how many. Call it now and then, about once in 10 s."""
        return self._pool.close_idle(trio.current_time())

    async def aclose(self) -> None:
        """Close every connection. Exchanges under way end as faults. Does not wait."""
        self._pool.close()

    def statistics(self) -> TransportStatistics:
        pool = self._pool
        return TransportStatistics(pool.open, pool.idle, pool.waiting, self._dialled, self._reused, self._redialled)

    def __repr__(self) -> str:
        return f"<CallbackTransport {self._pool!r}>"


def _dial_deadline(addresses_left: int) -> float:
    """The last address has all the time there is; those before it an equal share, and not more than a second."""
    if addresses_left == 1:
        return math.inf
    now = trio.current_time()
    return now + min(MAX_DIAL_SLICE_S, (trio.current_effective_deadline() - now) / addresses_left)


def _died_at_rest(result: Exchange, progress: Progress) -> bool:
    return isinstance(result, Faulted) and progress.untaken and progress.received == 0
