"""The network between instances: datagrams that are lost, doubled and late."""

from __future__ import annotations

import errno
import random
from dataclasses import dataclass, field

import trio

PORT = 7070


@dataclass
class Air:
    """All sockets, by host. The parts of the datagrams that are lost and doubled, and the longest delay."""

    nursery: trio.Nursery
    rng: random.Random
    lost: float = 0.0
    doubled: float = 0.0
    delay_s: float = 0.001
    sockets: dict[str, Socket] = field(default_factory=dict)

    def carry(self, content: bytes, host: str) -> None:
        if self.rng.random() < self.lost:
            return
        for _ in range(2 if self.rng.random() < self.doubled else 1):
            self.nursery.start_soon(self._arrive, content, host, self.rng.uniform(0, self.delay_s))

    async def _arrive(self, content: bytes, host: str, after_s: float) -> None:
        await trio.sleep(after_s)
        socket = self.sockets.get(host)
        if socket is not None:
            socket.take(content)


class Socket:
    """`runtime.datagrams.Datagrams`."""

    def __init__(self, air: Air, host: str) -> None:
        self._air = air
        self._host = host
        self._full, self._arrived = trio.open_memory_channel[bytes](100)
        air.sockets[host] = self

    @property
    def address(self) -> str:
        return f"{self._host}:{PORT}"

    def send(self, content: bytes, host: str, port: int) -> None:
        if port != PORT:
            raise OSError(errno.ECONNREFUSED, "no such port")
        self._air.carry(content, host)

    async def receive(self) -> bytes:
        return await self._arrived.receive()

    def take(self, content: bytes) -> None:
        if self._full.statistics().current_buffer_used < 100:  # as a socket's buffer, it drops the rest
            self._full.send_nowait(content)

    def close(self) -> None:
        self._air.sockets.pop(self._host, None)
