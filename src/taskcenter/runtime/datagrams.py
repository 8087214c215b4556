"""The socket under `peer_link`: datagrams between numeric addresses, which may be lost, doubled or late."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv6Address, ip_address
from typing import Final, Protocol

import trio

from taskcenter.config import split_address
from taskcenter.errors import ConfigError

MAX_DATAGRAM: Final = 4096
PORTS: Final = 64  # tried from the one that is set: the processes of one machine share the setting


class Datagrams(Protocol):
    """What a link speaks through. Raises OSError where a socket would."""

    @property
    def address(self) -> str:
        """Where datagrams arrive, as `host:port` or `[host]:port`."""
        ...

    def send(self, content: bytes, host: str, port: int) -> None:
        """At once or not at all: it never waits."""

    async def receive(self) -> bytes:
        """The next one that arrives."""
        ...

    def close(self) -> None: ...


class UdpSocket:
    """One UDP socket, for both ways."""

    def __init__(self, bind: str) -> None:
        """`bind`: a numeric address and a port, 0 for any. Raises `ConfigError`."""
        self._socket = _bound(bind)

    @property
    def address(self) -> str:
        host, port, *_ = self._socket.getsockname()
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def send(self, content: bytes, host: str, port: int) -> None:
        self._socket.sendto(content, (host, port))

    async def receive(self) -> bytes:
        return await trio.socket.from_stdlib_socket(self._socket).recv(MAX_DATAGRAM)

    def close(self) -> None:
        self._socket.close()

    def __repr__(self) -> str:
        return f"<UdpSocket {self.address if self._socket.fileno() >= 0 else 'closed'}>"


def _bound(bind: str) -> socket.socket:
    host, first = split_address(bind)
    family = socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.setblocking(False)
    for port in range(first, min(first + PORTS, 65536) if first else 1):
        try:
            made.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            made.close()
            raise ConfigError(f"TASKCENTER_PEER_ADDRESS: {bind}: {error.strerror}; e.g. 10.0.0.5:7070") from None
        return made
    made.close()
    raise ConfigError(f"TASKCENTER_PEER_ADDRESS: {bind}: this port and those after it are taken; e.g. 10.0.0.5:0")
