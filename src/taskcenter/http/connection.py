"""One client's connection: reads with deadlines, sends with deadlines, and lets no fault out.

This takes the place of hypercorn's TCPServer, of which nothing would be left to inherit: its sends are shielded
and unbounded (a client that does not read holds a SIGTERM up for ever), its reads have no deadline but an idle task
made anew for every request, it speaks HTTP/2, and an exception in it ends the process.

**Phases.** The reader is one task; `_read_by` is when its wait for bytes ends. The phase says why it waits:

    FRESH ─byte─▶ HEAD ─head whole─▶ BODY ─body whole─▶ ANSWER ─response whole─▶ IDLE ─byte─▶ HEAD …
      any ─ refused, or the response closes the connection ─▶ LINGER ─▶ gone

FRESH and HEAD end after `head_timeout_s`, BODY after `body_timeout_s` (with a 408), IDLE after `keep_alive_s`. In
ANSWER the reader waits without limit, but only to see the client go; the time is then the handler's and the sends'.
LINGER swallows what the client still sends, up to `linger_s`, since closing a socket with unread input makes the kernel
send a reset, and a reset can overtake the refusal.

**Ends.** Every abrupt end (a client that does not read, an eviction, the end of the grace) is one cancel of the
connection's scope; the socket is closed in `finally`, without an await. A send that was interrupted leaves half a
message on the wire, so nothing is sent after it. An end by the client gives the handler `http.disconnect`.

**Faults.** Network errors are ordinary ends. Any other exception, alone or in a group, is counted as `connection` and
ends here; `trio.Cancelled` and KeyboardInterrupt are split off and go on.
"""

from __future__ import annotations

import math
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.utils import parse_socket_addr

from taskcenter.encryption import shake_hands
from taskcenter.http.containment import AppTasks, split_fault
from taskcenter.http.head import Refused
from taskcenter.http.protocol import ApiProtocol, Below

if TYPE_CHECKING:
    import ssl

    from taskcenter.http.server import ApiServer

SLICE: Final = 64 * 1024  # what is read at once, and what must be sent within send_timeout_s
IMPATIENCE_S: Final = 0.5  # a client told to come back in a second is not read from before: refusing costs too
FRESH_AT_DRAIN_S: Final = 0.5  # a client that was just accepted may still send its request
_NETWORK: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Phase(Enum):
    FRESH = auto()
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    IDLE = auto()
    LINGER = auto()


class Connection(Below):
    """All of one client's connection. Made and run by the server, in a task of its own."""

    def __init__(self, server: ApiServer, socket: trio.socket.SocketType, tls: ssl.SSLContext | None) -> None:
        self.settings = server.settings
        self.meter = server.meter
        self.new_request_id = server.new_request_id
        self.asgi = server.asgi
        self.hypercorn = server.hypercorn
        self.context = server.context
        self.tls = tls is not None
        self.client: tuple[str, int] | None = None
        self.local: tuple[str, int] | None = None
        self.phase = Phase.FRESH
        self.since = trio.current_time()  # when this phase began
        self._server = server
        self._socket = socket
        self._tls = tls
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
        self._protocol: ApiProtocol
        self._scope = trio.CancelScope()
        self._read_scope = trio.CancelScope()
        self._read_by = self.since + self.settings.head_timeout_s
        self._send_lock = trio.Lock()
        self._mute = False  # the way out is broken, closed or holds half a message

    def __repr__(self) -> str:
        return f"<Connection {self.phase.name} client={self.client}>"

    async def run(self) -> None:
        """Serve until the connection ends. Raises nothing but cancellation and KeyboardInterrupt."""
        try:
            with self._scope:
                await self._serve()
        except BaseException as error:  # noqa: BLE001 - cancellation is split off and raised on
            passing, fault = split_fault(error)
            if isinstance(fault, BaseExceptionGroup):
                fault = fault.split(_NETWORK)[1]
            if fault is not None and not isinstance(fault, _NETWORK):
                self.meter.fault("connection", fault)
            if passing is not None:
                raise passing from None
        finally:
            self._socket.close()

    def cut(self) -> None:
        """End at once, handler included."""
        self._scope.cancel()

    def drain(self) -> None:
        """The server is stopping: a silent connection ends now; a request on its way goes on."""
        if self.phase is Phase.IDLE:
            self.cut()
        elif self.phase is Phase.FRESH:
            self._wait_until(min(self._read_by, trio.current_time() + FRESH_AT_DRAIN_S))

    async def _serve(self) -> None:
        self.client = parse_socket_addr(self._socket.family, self._socket.getpeername())
        self.local = parse_socket_addr(self._socket.family, self._socket.getsockname())
        plain = trio.SocketStream(self._socket)
        self._stream = plain
        if self._tls is not None:
            self._stream = trio.SSLStream(plain, self._tls, server_side=True, https_compatible=True)
            with trio.CancelScope(deadline=self._read_by) as scope:
                await shake_hands(self._stream)
            if scope.cancelled_caught:
                self.meter.cut_slow += 1
                return
            self._read_by = trio.current_time() + self.settings.head_timeout_s
        async with AppTasks(self.meter) as tasks:
            self._protocol = ApiProtocol(self, tasks)
            await self._read()
            await self._close()

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Feed the protocol until the client or the protocol ends the connection, or its time is over."""
        swallowed = 0
        while True:
            with trio.CancelScope(deadline=self._read_by) as self._read_scope:
                try:
                    data = bytes(await self._stream.receive_some(SLICE))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    data = b""
                    self._mute = True
            if self._read_scope.cancelled_caught:
                if trio.current_time() < self._read_by:
                    continue  # the phase changed while the deadline struck
                await self._silence()
                if self.phase is not Phase.LINGER or trio.current_time() >= self._read_by:
                    return
            elif self.phase is Phase.LINGER:
                swallowed += len(data)
                if not data or swallowed > self.settings.max_body_bytes:
                    return
            elif not data:
                await self._end_of_input()
                return
            elif not await self._feed(data):
                return

    async def _feed(self, data: bytes) -> bool:
        """Bytes for the protocol. False: the client is gone, as a send found out meanwhile."""
        if self.phase in (Phase.FRESH, Phase.IDLE):
            if (refusal := self._server.shed(data)) is not None:
                self._enter(Phase.IDLE, trio.current_time() + self.settings.keep_alive_s)
                await self._send(refusal)
                await trio.sleep(IMPATIENCE_S)
                return not self._mute
            self._begin_head()
        await self._protocol.handle(RawData(data=data))
        return not self._mute or self.phase is Phase.LINGER

    async def _silence(self) -> None:
        """The wait for bytes is over without any."""
        if self.phase in (Phase.FRESH, Phase.IDLE):
            self.meter.cut_idle += 1
        elif self.phase in (Phase.HEAD, Phase.BODY):
            self.meter.cut_slow += 1
            await self._protocol.refuse(Refused(408))

    async def _end_of_input(self) -> None:
        if self.phase in (Phase.HEAD, Phase.BODY) and not self._mute:
            await self._protocol.refuse(Refused(400, "The connection was closed before the request was whole."))
        else:
            await self._protocol.handle(Closed())

    def _begin_head(self) -> None:
        fresh = self.phase is Phase.FRESH
        read_by = self._read_by if fresh else trio.current_time() + self.settings.head_timeout_s
        self._enter(Phase.HEAD, read_by)

    def body_complete(self) -> None:
        if self.phase is Phase.BODY:
            self._enter(Phase.ANSWER, math.inf)

    def _enter(self, phase: Phase, read_by: float) -> None:
        if self.phase in (Phase.IDLE, Phase.FRESH):
            self._server.busy(self)
        self.phase = phase
        self.since = trio.current_time()
        self._wait_until(read_by)
        if phase is Phase.IDLE:
            self._server.idle(self)

    def _wait_until(self, read_by: float) -> None:
        self._read_by = read_by
        self._read_scope.deadline = read_by

    # --- sending -------------------------------------------------------------------------------------------------

    async def send_event(self, event: Event) -> None:
        """What the protocol has for us: bytes, the end, or that a request begins or is over."""
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Updated):
            self._updated(event.idle)
        elif isinstance(event, Closed):
            await self._finish()

    def _updated(self, idle: bool) -> None:
        now = trio.current_time()
        if not idle:
            self._enter(Phase.BODY, now + self.settings.body_timeout_s)
        elif self._protocol.has_input:
            self._enter(Phase.HEAD, now + self.settings.head_timeout_s)
        else:
            self._enter(Phase.IDLE, now + self.settings.keep_alive_s)

    async def _send(self, data: bytes) -> None:
        """Send `data` unless the way out is closed."""
        if not data:
            return
        async with self._send_lock:  # a checkpoint even then: a handler that only sends must be cancellable
            went_well = self._mute or await self._write(data)
        if not went_well:
            await self._protocol.handle(Closed())  # so that the handler hears of it

    async def _write(self, data: bytes) -> bool:
        """Put `data` on the wire, each 64 KiB of it within `send_timeout_s`, else cut. False: the client is gone."""
        with trio.CancelScope() as scope:
            try:
                for at in range(0, len(data), SLICE):
                    scope.deadline = trio.current_time() + self.settings.send_timeout_s
                    await self._stream.send_all(data if len(data) <= SLICE else data[at : at + SLICE])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._mute = True
                return False
            except BaseException:
                self._mute = True  # half a message is out
                raise
            return True
        self.meter.cut_nonreading += 1
        self.cut()
        return True

    async def _finish(self) -> None:
        """The protocol is done: no more bytes out; swallow what may still come in."""
        if self.phase is Phase.LINGER:
            return
        self._protocol.over = True
        unread = self.phase is not Phase.ANSWER or self._protocol.has_input
        self._enter(Phase.LINGER, trio.current_time() + (self.settings.linger_s if unread else 0.0))
        await self._send_eof()

    async def _send_eof(self) -> None:
        if self._mute or isinstance(self._stream, trio.SSLStream):
            return
        async with self._send_lock:
            self._mute = True
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _close(self) -> None:
        """Close the socket; over TLS say so first, as long as the client takes it."""
        if isinstance(self._stream, trio.SSLStream) and not self._mute:
            self._mute = True
            with trio.move_on_after(self.settings.linger_s):
                await self._stream.aclose()
        self._mute = True
        self._socket.close()
