"""A connection as bytes: plain TCP, or TLS over any wire. The only place that touches a socket.

Not trio's own streams, for two reasons. Cost: they pay for checkpoints and guards at every call, where an exchange on a
kept connection needs one wait (for the answer) and no more. And closing: every wire closes at once and without
awaiting, so it can be closed on any way out, a cancellation included, and no descriptor outlives its owner.

Rules of a `Wire`: one task receives, at most one other sends. After any exception the wire is good for `close` only.
Faults are OSErrors (`ssl.SSLError` is one), and `trio.ClosedResourceError` when another task closed the wire.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

RECEIVE_BYTES: Final = 16 * 1024
_INT: Final = struct.Struct("i")

SocketAddress = tuple[Any, ...]  # (host, port) or (host, port, flow, scope), as `socket` takes it
Address = tuple[int, SocketAddress]  # with the address family before it


class Wire(Protocol):
    def begin_send(self, data: bytes) -> bool:
        """Send what goes without waiting. True: all of it; False: `finish_send` must follow."""

    async def finish_send(self) -> None:
        """Send the rest of what `begin_send` was given."""

    async def receive(self) -> bytes:
        """The next bytes, at most about RECEIVE_BYTES; empty when the peer has ended. Always waits at least once
        before it reads from the network, so it is a checkpoint."""

    def receive_nowait(self) -> bytes | None:
        """What is there already, None for nothing. On a connection at rest anything else means: do not use it."""

    def untaken(self) -> bool:
        """Whether nothing of what the last `begin_send` was given has reached the peer's machine, so that nobody can
        have acted on it. False where that is not known."""

    def close(self) -> None:
        """Close at once; again is harmless."""


Dial = Callable[[Address], Awaitable[Wire]]


class SocketWire:
    """A connected, non-blocking TCP socket."""

    __slots__ = ("_handed", "_sock", "_unsent")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._handed = 0  # bytes the kernel took since `begin_send`
        self._unsent = memoryview(b"")

    def begin_send(self, data: bytes) -> bool:
        self._handed = 0
        try:
            sent = self._handed = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._unsent = memoryview(data)[sent:]
        return False

    async def finish_send(self) -> None:
        while self._unsent:
            await wait_writable(self._open_socket())
            with suppress(BlockingIOError):
                sent = self._sock.send(self._unsent)
                self._handed += sent
                self._unsent = self._unsent[sent:]

    async def receive(self) -> bytes:
        sock = self._open_socket()
        while True:
            await wait_readable(sock)
            try:
                return sock.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue

    def receive_nowait(self) -> bytes | None:
        try:
            return self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None

    def untaken(self) -> bool:
        try:
            queued = fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(_INT.size))
        except (OSError, ValueError):  # not a system that tells, or closed
            return False
        return bool(_INT.unpack(queued)[0] >= self._handed)  # the kernel keeps what the peer's has not acknowledged

    def close(self) -> None:
        if self._sock.fileno() != -1:
            notify_closing(self._sock)
            self._sock.close()

    def _open_socket(self) -> socket.socket:
        if self._sock.fileno() == -1:
            raise trio.ClosedResourceError("closed by another task")
        return self._sock

    def __repr__(self) -> str:
        return f"<SocketWire fd={self._sock.fileno()}>"


async def dial_tcp(address: Address) -> SocketWire:
    """Connect to exactly `address`, which is numeric: no name is looked up here. Raises OSError."""
    family, where = address
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(where)
        if code == errno.EINPROGRESS:
            await wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return SocketWire(sock)


class TlsWire:
    """TLS over a wire. The engine (`ssl.SSLObject`) works on memory; this class carries the bytes."""

    __slots__ = ("_incoming", "_outgoing", "_raw", "_sending", "_tls")

    def __init__(self, raw: Wire, context: ssl.SSLContext, host: str) -> None:
        """`host`: the name or address in the URL. It is what SNI names and what the certificate must be for."""
        self._raw = raw
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sending = False  # the raw wire holds an unsent rest

    async def handshake(self) -> None:
        """Raises ssl.SSLError (certificate, protocol) or OSError (connection)."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                self._feed(await self._raw.receive())
            except ssl.SSLError:
                with suppress(OSError):  # tell the peer why, if it still listens
                    self._raw.begin_send(self._outgoing.read())
                raise
            else:
                return await self._flush()

    def begin_send(self, data: bytes) -> bool:
        self._tls.write(data)
        self._sending = not self._raw.begin_send(self._outgoing.read())
        return not self._sending

    async def finish_send(self) -> None:
        await self._raw.finish_send()
        self._sending = False
        await self._flush()

    async def receive(self) -> bytes:
        while (data := self._decrypt()) is None:
            if not self._sending:  # a key update may have to be answered
                await self._flush()
            self._feed(await self._raw.receive())
        return data

    def receive_nowait(self) -> bytes | None:
        while (data := self._decrypt()) is None:
            raw = self._raw.receive_nowait()
            if raw is None:
                return None
            self._feed(raw)  # session tickets are no data: go on reading
        return data

    def untaken(self) -> bool:
        return self._raw.untaken()

    def close(self) -> None:
        if not self._sending:
            with suppress(OSError):
                self._tls.unwrap()  # writes close_notify, then wants the peer's, which nobody waits for
            with suppress(OSError):
                if self._outgoing.pending:
                    self._raw.begin_send(self._outgoing.read())
        self._raw.close()

    def _decrypt(self) -> bytes | None:
        try:
            return self._tls.read(RECEIVE_BYTES)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # An end without close_notify is common. Where it could cut an answer short, HTTP's own framing notices.
            return b""

    def _feed(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending and not self._raw.begin_send(self._outgoing.read()):
            await self._raw.finish_send()

    def __repr__(self) -> str:
        return f"<TlsWire {self._tls.version() or 'handshake'} over {self._raw!r}>"
