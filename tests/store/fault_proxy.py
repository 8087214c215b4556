"""A TCP proxy that does to a connection what networks and servers do, on command and while it runs.

It stands between the service and a MySQL-protocol server (any other with `follow=False`), because `tc netem` is not
in every kernel and knows nothing of packets. Each fault is an attribute or a method that takes effect at once, on
open connections too:

    async with open_proxy(server.host, server.port) as proxy: proxy.latency_s = 0.2              # each way, per chunk
    proxy.slice_bytes = 1              # one byte at a time proxy.black_hole()                 # nothing passes,
    nothing closes; `proxy.clear()` lets it pass again proxy.cut_after(1000)              # the connection that
    carries the 1000th byte from now on is reset there proxy.commit_fault = "reply"       # COMMIT takes effect, its
    answer never comes proxy.rewrite_greeting = without_tls  # new connections are told that the server has no TLS
    proxy.reset_all(); proxy.half_close(); proxy.refuse(); proxy.accept()

To know a COMMIT it follows the client's packets; on a connection that turns to TLS it only passes on.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import trio

Direction = Literal["up", "down"]  # up: from the client to the server
CommitFault = Literal["none", "request", "reply", "either"]
RECEIVE_BYTES = 1 << 16
SMALL_PACKET = 64  # only packets up to this are held until they are whole
TLS_REQUEST_BYTES = 32
_ENDS = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class CommitScanner:
    """Cuts the client's bytes at packet borders, as far as it takes to tell a COMMIT from the rest."""

    def __init__(self) -> None:
        self._held = b""
        self._passing = 0  # bytes of a longer packet still to come
        self.encrypted = False

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """Pieces to pass on, each with whether it is a COMMIT."""
        pieces: list[tuple[bytes, bool]] = []
        data, self._held = self._held + data, b""
        while data:
            if self.encrypted:
                pieces.append((data, False))
                break
            if self._passing:
                piece, data = data[: self._passing], data[self._passing :]
                self._passing -= len(piece)
                pieces.append((piece, False))
                continue
            size = 4 + int.from_bytes(data[:3], "little")
            if len(data) < 4 or (size <= SMALL_PACKET and len(data) < size):
                self._held = data
                break
            if size > SMALL_PACKET:
                self._passing = size
                continue
            piece, data = data[:size], data[size:]
            self.encrypted = size == 4 + TLS_REQUEST_BYTES and piece[3] == 1
            pieces.append((piece, piece[4:5] == b"\x03" and piece[5:].strip().upper() == b"COMMIT"))
        return pieces


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream, *, follow: bool) -> None:
        self.client = client
        self.server = server
        self.scanner = CommitScanner()
        self.scanner.encrypted = not follow
        self.swallow_reply = False
        self.greeted = False

    def reset(self) -> None:
        """Close both ways with a reset. May be repeated."""
        for stream in (self.client, self.server):
            with suppress(OSError):
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            stream.socket.close()


class FaultProxy:
    """See the module. Made by `open_proxy`."""

    def __init__(self, upstream_host: str, upstream_port: int, host: str, *, follow: bool, rng: Random) -> None:
        self._upstream = (upstream_host, upstream_port)
        self._follow = follow
        self._rng = rng
        self._links: set[_Link] = set()
        self._listener: trio.SocketListener | None = None
        self._accepting = trio.Event()
        self._accepting.set()
        self._clear: dict[Direction, trio.Event] = {"up": _set_event(), "down": _set_event()}
        self._cut: dict[Direction, int | None] = {"up": None, "down": None}
        self.host = host
        self.port = 0
        self.latency_s = 0.0
        self.jitter_s = 0.0  # added to the latency, uniformly
        self.slice_bytes = 0  # 0: chunks as they come
        self.slice_pause_s = 0.0
        self.commit_fault: CommitFault = "none"
        self.commit_faults_left: int | None = None  # None: every COMMIT
        self.commit_share = 1.0  # of the COMMITs, chosen at random
        self.rewrite_greeting: Callable[[bytes], bytes] | None = None  # the first packet a server sends
        self.commit_silent = False  # True: the connection hangs afterwards, instead of being reset
        self.held = trio.Event()  # since the last `clear`, something has fallen into a black hole
        self.connections_total = 0
        self.commits_total = 0
        self.commits_eaten = 0

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def url(self, url: str) -> str:
        """The same URL, by way of this proxy."""
        split = urlsplit(url)
        account = split.netloc.rpartition("@")[0]
        return urlunsplit(split._replace(netloc=f"{account}@{self.host}:{self.port}"))

    def black_hole(self, *directions: Direction) -> None:
        """Hold what comes (both ways if none is named) until `clear`. New connections are taken, and hang too."""
        for direction in directions or ("up", "down"):
            self._clear[direction] = trio.Event()

    def clear(self) -> None:
        """End all faults; what a black hole held is passed on."""
        for event in self._clear.values():
            event.set()
        self.held = trio.Event()
        self._cut = {"up": None, "down": None}
        self.latency_s = self.jitter_s = self.slice_pause_s = 0.0
        self.slice_bytes, self.rewrite_greeting = 0, None
        self.commit_fault, self.commit_faults_left, self.commit_silent = "none", None, False
        self.commit_share = 1.0
        self.accept()

    def cut_after(self, count: int, direction: Direction = "down") -> None:
        """Pass `count` more bytes in this direction, counted over all connections, then reset the one that has more."""
        self._cut[direction] = count

    def reset_all(self) -> None:
        """Reset all open connections, on both sides."""
        for link in list(self._links):
            link.reset()

    def half_close(self) -> None:
        """End the server's half of all open connections in order (FIN); the client may go on sending into nothing."""
        for link in list(self._links):
            with suppress(OSError):
                link.client.socket.shutdown(socket.SHUT_WR)

    def refuse(self) -> None:
        """Refuse new connections (ECONNREFUSED); open ones live."""
        self._accepting = trio.Event()
        if self._listener is not None:
            self._listener.socket.close()
            self._listener = None

    def accept(self) -> None:
        """Take new connections again, on the same port."""
        self._accepting.set()

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Listen until cancelled."""
        started = False
        while True:
            await self._accepting.wait()
            self._listener = (await trio.open_tcp_listeners(self.port, host=self.host, backlog=512))[0]
            self.port = self._listener.socket.getsockname()[1]
            if not started:
                task_status.started()
                started = True
            try:
                await trio.serve_listeners(self._handle, [self._listener])
            except* trio.ClosedResourceError:
                await trio.lowlevel.checkpoint()

    async def _handle(self, client: trio.SocketStream) -> None:
        self.connections_total += 1
        try:
            server = await trio.open_tcp_stream(*self._upstream)
        except OSError:
            client.socket.close()
            return
        link = _Link(client, server, follow=self._follow)
        self._links.add(link)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, link, "up")
                nursery.start_soon(self._pump, link, "down")
        finally:
            self._links.discard(link)
            link.client.socket.close()
            link.server.socket.close()

    async def _pump(self, link: _Link, direction: Direction) -> None:
        """Carry one direction until either side ends it; an end is passed on as a FIN, a break as a reset."""
        source, sink = (link.client, link.server) if direction == "up" else (link.server, link.client)
        try:
            while data := await source.receive_some(RECEIVE_BYTES):
                await self._delay()
                await self._carry(link, direction, data, sink)
            await self._passage(direction)
            await sink.send_eof()
        except _ENDS:
            link.reset()

    async def _carry(self, link: _Link, direction: Direction, data: bytes, sink: trio.SocketStream) -> None:
        if direction == "down":
            await self._passage(direction)
            if self.rewrite_greeting is not None and not link.greeted:
                data = self.rewrite_greeting(data)
            link.greeted = True
            if not link.swallow_reply:
                await self._send(link, direction, data, sink)
            elif not self.commit_silent:
                link.reset()
            return
        for piece, is_commit in link.scanner.feed(data):
            await self._passage(direction)
            self.commits_total += is_commit
            fault = self._take_commit_fault() if is_commit else "none"
            link.swallow_reply = link.swallow_reply or fault == "reply"
            if fault != "request":
                await self._send(link, direction, piece, sink)
            elif not self.commit_silent:
                link.reset()

    async def _passage(self, direction: Direction) -> None:
        """Wait while there is a black hole."""
        if not self._clear[direction].is_set():
            self.held.set()
        await self._clear[direction].wait()

    def _take_commit_fault(self) -> CommitFault:
        """What becomes of this COMMIT."""
        if self.commit_fault == "none" or self.commit_faults_left == 0 or self._rng.random() >= self.commit_share:
            return "none"
        if self.commit_faults_left is not None:
            self.commit_faults_left -= 1
        self.commits_eaten += 1
        return self._rng.choice(("request", "reply")) if self.commit_fault == "either" else self.commit_fault

    async def _send(self, link: _Link, direction: Direction, data: bytes, sink: trio.SocketStream) -> None:
        """Pass bytes on, sliced and cut as ordered."""
        while data:
            piece = data[: self.slice_bytes] if self.slice_bytes else data
            data = data[len(piece) :]
            left = self._cut[direction]
            if left is not None:
                self._cut[direction] = max(left - len(piece), 0)
                if left < len(piece):
                    self._cut[direction] = None
                    await sink.send_all(piece[:left])
                    link.reset()
                    return
            await sink.send_all(piece)
            if data and self.slice_pause_s:
                await trio.sleep(self.slice_pause_s)

    async def _delay(self) -> None:
        if self.latency_s or self.jitter_s:
            await trio.sleep(self.latency_s + self.jitter_s * self._rng.random())


def without_tls(greeting: bytes) -> bytes:
    """A server's greeting with the capability CLIENT_SSL taken out."""
    at = greeting.index(0, 5) + 1 + 4 + 8 + 1 + 1  # version, thread, nonce, filler, low byte of the capabilities
    return greeting[:at] + bytes((greeting[at] & ~0x08,)) + greeting[at + 1 :]


def _set_event() -> trio.Event:
    event = trio.Event()
    event.set()
    return event


@asynccontextmanager
async def open_proxy(
    host: str, port: int, *, listen: str = "127.0.0.1", follow: bool = True, seed: int = 0
) -> AsyncIterator[FaultProxy]:
    """A proxy to `host:port` on a port of its own of the loopback address `listen`, gone with the block.

    `follow=False` for a protocol other than MySQL's: nothing is held until a packet is whole, no COMMIT is known.
    """
    proxy = FaultProxy(host, port, listen, follow=follow, rng=Random(seed))
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.serve)
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
