"""Packets over a socket: the byte layer under `mysql_wire`, and the only place that touches the descriptor.

Whatever has been received stays in the inbox until a whole packet can be taken, also across a cancellation; whatever
was half sent makes the stream useless, which is for the wire to notice. Closing means the descriptor itself, at once:
the layers above it may be in the middle of something.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
from functools import partial
from typing import Any, Final

import trio

from taskcenter.encryption import shake_hands
from taskcenter.store.connection import StoreFault
from taskcenter.store.mysql_rows import ProtocolFault

MAX_PACKET: Final = (1 << 24) - 1  # a packet of this size is continued by the next one
RECEIVE_BYTES: Final = 1 << 16
QUIT_PACKET: Final = b"\x01\x00\x00\x00\x01"
_ABORT: Final = struct.pack("ii", 1, 0)  # SO_LINGER: reset at close


class PacketStream:
    """`dial` once, then packets out and in by one task at a time; `close` from anywhere."""

    def __init__(self) -> None:
        self._raw: socket.socket | None = None  # the descriptor; None before `dial` and after `close`
        self._wrapped: trio.socket.SocketType | None = None  # the same descriptor, as trio knows it
        self._stream: trio.abc.Stream | None = None
        self._poll = select.poll()
        self.secure = False  # while False the descriptor is used past the layers between: 10 us less a command
        self.number = 0  # sequence number of the next packet, in either direction
        self._inbox = b""  # received and, from _at on, not yet taken
        self._at = 0
        self._lacking = 0

    @property
    def alive(self) -> bool:
        return self._raw is not None

    async def dial(self, host: str, port: int, lookups: trio.CapacityLimiter) -> None:
        """A TCP connection to the first address that takes one, each getting its share of the time. Raises OSError."""
        found = await _addresses(host, port, lookups)
        failure = OSError(errno.EHOSTUNREACH, "no address")
        for position, (family, address) in enumerate(found):
            self._raw = socket.socket(family, socket.SOCK_STREAM)
            self._wrapped = trio.socket.from_stdlib_socket(self._raw)
            left_s = trio.current_effective_deadline() - trio.current_time()
            try:
                with trio.fail_after(max(left_s, 0) / (len(found) - position)):
                    await self._wrapped.connect(address)
            except OSError as error:
                failure = error
            except trio.TooSlowError:
                failure = TimeoutError(errno.ETIMEDOUT, "timed out")
            else:
                self._raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                self._poll.register(self._raw, select.POLLIN)
                self._stream = trio.SocketStream(self._wrapped)
                return
            self.close()
        raise failure

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Encrypt from here on. Bytes that came before the handshake are a stranger's: StoreFault."""
        if self._at != len(self._inbox):
            raise StoreFault("tls", "clear text came from the database where encryption begins")
        if self._stream is None:
            raise trio.ClosedResourceError("closed by us")
        stream = trio.SSLStream(self._stream, context, server_hostname=host)
        await shake_hands(stream)
        self._stream, self.secure = stream, True

    def surplus(self) -> bool:
        """Whether something came unasked: a server's way to end a connection, or a stranger's bytes."""
        return self._raw is None or self._at != len(self._inbox) or bool(self._poll.poll(0))

    def close(self, *, reset: bool = True) -> None:
        """Close the descriptor; with a reset, what the server has not read yet is dropped. May be repeated."""
        raw, wrapped = self._raw, self._wrapped
        self._raw = self._wrapped = self._stream = None
        if raw is None or wrapped is None:
            return
        if reset:
            with contextlib.suppress(OSError):  # some systems refuse options on a broken connection
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        wrapped.close()  # wakes whoever waits on it, with ClosedResourceError

    def farewell(self) -> None:
        """Close an idle connection politely, without waiting for anything."""
        if self._raw is not None and not self.secure:
            with contextlib.suppress(OSError):  # it is closed either way
                self._raw.send(QUIT_PACKET)
        self.close(reset=False)

    def __del__(self) -> None:
        if self._raw is not None:  # no task can be waiting on it any more
            self._raw.close()

    async def send_command(self, payload: bytes) -> None:
        """Frame and send a command. One of 16 MB or more takes several frames, the last of them shorter."""
        if len(payload) < MAX_PACKET:
            self.number = 1
            await self._send(len(payload).to_bytes(4, "little") + payload)  # the fourth byte is sequence number 0
            return
        frames = []
        for number, start in enumerate(range(0, len(payload) + 1, MAX_PACKET)):
            part = payload[start : start + MAX_PACKET]
            frames += [len(part).to_bytes(3, "little"), bytes((number & 0xFF,)), part]
        self.number = len(frames) // 3 & 0xFF
        await self._send(b"".join(frames))

    async def write_packet(self, payload: bytes) -> None:
        """The next packet of an exchange under way."""
        header = len(payload).to_bytes(3, "little") + bytes((self.number,))
        self.number = (self.number + 1) & 0xFF
        await self._send(header + payload)

    async def read_packet(self) -> bytes:
        """The next packet's payload. Raises ProtocolFault, OSError, BrokenResourceError, ClosedResourceError."""
        while (body := self.take()) is None:
            await self.fill()
        return body

    def take(self) -> bytes | None:
        """One whole packet out of the inbox, or None when it has not all come: then `fill`."""
        inbox, at, number = self._inbox, self._at, self.number
        parts: list[bytes] = []
        while True:
            if (missing := at + 4 - len(inbox)) > 0:
                break
            size = inbox[at] | inbox[at + 1] << 8 | inbox[at + 2] << 16
            end = at + 4 + size
            if inbox[at + 3] != number:
                raise ProtocolFault("sequence number")
            if (missing := end - len(inbox)) > 0:
                break
            number = (number + 1) & 0xFF
            body = inbox[at + 4 : end]
            at = end
            if size < MAX_PACKET:
                self._at, self.number = at, number
                return b"".join((*parts, body)) if parts else body
            parts.append(body)
        self._lacking = missing
        return None

    async def fill(self) -> None:
        """Receive at least what `take` lacked; what came stays even when this is cancelled."""
        parts = [self._inbox[self._at :]]
        try:
            while self._lacking > 0:
                data = await self._receive(min(max(RECEIVE_BYTES, self._lacking), 1 << 22))
                if not data:
                    raise trio.BrokenResourceError("closed by the server")
                parts.append(data)
                self._lacking -= len(data)
        finally:
            self._inbox, self._at = b"".join(parts), 0

    async def _receive(self, most: int) -> bytes:
        while self._raw is not None and self._stream is not None:
            if self.secure:
                return bytes(await self._stream.receive_some(most))
            await trio.lowlevel.wait_readable(self._raw)
            with contextlib.suppress(BlockingIOError):
                return self._raw.recv(most)
        raise trio.ClosedResourceError("closed by us")

    async def _send(self, data: bytes) -> None:
        if self._raw is None or self._stream is None:
            raise trio.ClosedResourceError("closed by us")
        sent = 0
        if not self.secure:
            with contextlib.suppress(BlockingIOError):
                sent = self._raw.send(data)
        if sent < len(data):
            await self._stream.send_all(memoryview(data)[sent:] if sent else data)


async def _addresses(host: str, port: int, lookups: trio.CapacityLimiter) -> list[tuple[int, Any]]:
    """What the host name stands for, resolved in one of the database's own few threads; a literal needs none."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    try:
        found = ask(flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=lookups)
    return [(int(family), address) for family, _, _, _, address in found]
