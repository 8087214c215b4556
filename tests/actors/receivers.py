"""Raw receivers on loopback, of any mood, and transports that may call them."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import trio

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Exchange, Faulted
from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.actors.egress.resolver import NameLookupError
from taskcenter.actors.egress.targets import check_url
from taskcenter.actors.egress.transport import CallbackTransport
from taskcenter.actors.egress.wire import Address, Wire, dial_tcp

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LOOPBACK = EgressPolicy(allowed_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@dataclass
class Receiver:
    """A listening receiver. `requests` are whole requests, as read by `read_request`."""

    port: int
    host: str = "127.0.0.1"
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)

    def url(self, path: str = "/hook", scheme: str = "http", host: str | None = None) -> str:
        return f"{scheme}://{host or self.host}:{self.port}{path}"

    async def read_request(self, stream: trio.abc.Stream) -> bytes:
        request = await read_request(stream)
        if request:
            self.requests.append(request)
        return request


@asynccontextmanager
async def receiving(
    mood: Callable[[Receiver, trio.abc.Stream], Awaitable[None]],
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Receiver]:
    """A receiver that meets each connection with `mood`."""
    receiver = Receiver(0, f"[{host}]" if ":" in host else host)

    async def serve(stream: trio.SocketStream) -> None:
        receiver.connections += 1
        try:
            if tls is None:
                await mood(receiver, stream)
            else:
                secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
                await mood(receiver, secure)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client went away, as many tests want

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=host))
        receiver.port = listeners[0].socket.getsockname()[1]
        yield receiver
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.Stream) -> bytes:
    """One request with its body; empty at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(65536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
    while len(body) < length:
        more = await stream.receive_some(65536)
        if not more:
            return b""
        body += more
    return head + b"\r\n\r\n" + body


def answering(*answers: bytes) -> Callable[[Receiver, trio.abc.Stream], Awaitable[None]]:
    """Each request of a connection gets the next answer, the last one again and again."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        index = 0
        while await receiver.read_request(stream):
            await stream.send_all(answers[min(index, len(answers) - 1)])
            index += 1

    return mood


def answering_once(answer: bytes) -> Callable[[Receiver, trio.abc.Stream], Awaitable[None]]:
    """One answer, then the end of the connection."""

    async def mood(receiver: Receiver, stream: trio.abc.Stream) -> None:
        if await receiver.read_request(stream):
            await stream.send_all(answer)
        await stream.aclose()

    return mood


@dataclass
class StaticResolver:
    """Names to addresses, as a test likes; an answer can be swapped between calls."""

    answers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[Address]:
        await trio.lowlevel.checkpoint()
        self.calls.append(host)
        if host not in self.answers:
            raise NameLookupError(f"the name {host} does not exist")
        return [
            (trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET, (address, port))
            for address in self.answers[host]
        ]


def transport_to_loopback(**options: Any) -> CallbackTransport:
    given: dict[str, Any] = {"policy": LOOPBACK, "resolver": StaticResolver()} | options
    return CallbackTransport(**given)


def a_request(url: str, body: bytes = b"{}", method: str = "POST", **headers: str) -> CallbackRequest:
    return CallbackRequest(
        method, check_url(url), [(name.replace("_", "-"), value) for name, value in headers.items()], body
    )


class UnsuspectingWire:
    """Shows no end at rest, as if it came an instant later, when the request is on its way."""

    def __init__(self, wire: Wire) -> None:
        self.begin_send, self.finish_send, self.receive = wire.begin_send, wire.finish_send, wire.receive
        self.untaken, self.close = wire.untaken, wire.close

    def receive_nowait(self) -> bytes | None:
        return None


async def dial_unsuspecting(address: Address) -> Wire:
    return UnsuspectingWire(await dial_tcp(address))


async def call(transport: CallbackTransport, url: str, deadline_s: float = 5.0, **request: Any) -> Exchange:
    return await transport.exchange(a_request(url, **request), deadline_s)


async def answer_of(transport: CallbackTransport, url: str, deadline_s: float = 5.0, **request: Any) -> Answered:
    exchange = await call(transport, url, deadline_s, **request)
    assert isinstance(exchange, Answered), exchange
    return exchange


async def fault_of(transport: CallbackTransport, url: str, deadline_s: float = 5.0, **request: Any) -> Faulted:
    exchange = await call(transport, url, deadline_s, **request)
    assert isinstance(exchange, Faulted), exchange
    return exchange


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
