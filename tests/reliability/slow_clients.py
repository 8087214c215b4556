"""Clients of the API that take their time, in every way there is, and come again when they are cut."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from random import Random

import trio
from tests.flow.kit import ADMIN_TOKEN

CREATE = (
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
    % ADMIN_TOKEN.encode()
)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: t\r\n\r\n"
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n"
DRIP_S = 2.0  # between two bytes
TINY_BYTES = 4096  # of a socket's buffer for input

Slow = Callable[[trio.SocketStream], Awaitable[None]]


async def _drip(stream: trio.SocketStream, begin: bytes) -> None:
    await stream.send_all(begin)
    for byte in count():
        await stream.send_all(b"%d" % (byte % 10))
        await trio.sleep(DRIP_S)


async def drips_a_head(stream: trio.SocketStream) -> None:
    await _drip(stream, b"GET /health/live HTTP/1.1\r\nHost: t\r\nX: ")


async def drips_a_body(stream: trio.SocketStream) -> None:
    await _drip(stream, CREATE + b"Content-Length: 9999\r\n\r\n")


async def half_a_body(stream: trio.SocketStream) -> None:
    await stream.send_all(CREATE + b"Transfer-Encoding: chunked\r\n\r\nff\r\nhalf")
    await _until_cut(stream)


async def never_speaks(stream: trio.SocketStream) -> None:
    await _until_cut(stream)


async def keeps_alive(stream: trio.SocketStream) -> None:
    await stream.send_all(LIVE)
    await _until_cut(stream)


async def does_not_read(stream: trio.SocketStream) -> None:
    """More than all buffers on the way take. It is cut by a reset, which a write meets."""
    await stream.send_all(LARGE * 100)
    while True:
        await trio.sleep(DRIP_S)
        await stream.send_all(b"\r\n")


async def _until_cut(stream: trio.SocketStream) -> None:
    while await stream.receive_some(4096):
        continue


KINDS: dict[str, Slow] = {
    "drips a head": drips_a_head,
    "drips a body": drips_a_body,
    "half a body": half_a_body,
    "never speaks": never_speaks,
    "keeps alive": keeps_alive,
    "does not read": does_not_read,
}


class SlowClients:
    """So many at once, of each kind as many. `cut`: how often the service has ended one, by kind."""

    def __init__(self, port: int, number: int) -> None:
        self._port = port
        self._number = number
        self._rng = Random(25)
        self.cut: Counter[str] = Counter()
        self.connected = 0

    async def run(self) -> None:
        """Until cancelled; then all are gone."""
        kinds = list(KINDS.items())
        async with trio.open_nursery() as nursery:
            for number in range(self._number):
                nursery.start_soon(self._again, *kinds[number % len(kinds)])

    async def _again(self, name: str, slow: Slow) -> None:
        await trio.sleep(self._rng.uniform(0, 5))  # they do not come all in one moment
        while True:
            with trio.socket.socket() as sock, suppress(OSError, trio.BrokenResourceError):  # it is cut
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BYTES)
                await sock.connect(("127.0.0.1", self._port))
                self.connected += 1
                try:
                    await slow(trio.SocketStream(sock))
                finally:
                    self.connected -= 1
            self.cut[name] += 1
            await trio.sleep(self._rng.uniform(1, 4))
