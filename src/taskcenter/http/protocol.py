"""Hypercorn's HTTP/1.1 protocol, narrowed: what it may never do, and where its faults end.

Two of hypercorn's classes are subclassed here, a third in `containment.py`. They speak to the connection below through
the events of `hypercorn.events`, and to the app above through ASGI.

- `ApiProtocol` (H11Protocol): every request goes to `ApiStream`. There is no websocket, no h2c upgrade and no prior
  knowledge of HTTP/2, so the code with the known killers is never entered; an `Upgrade` field is ignored, as RFC 9110
  §7.8 allows. Every error response of hypercorn becomes a `Refused`, answered as problem+json.
- `ApiStream` (HTTPStream): counts the body, tells the connection when it is whole, answers 500 for a dead handler.

`CheckedConnection` (`checked.py`) stands before hypercorn's h11 connection.

On failure: `Refused` ends in `ApiProtocol.refuse`. Whatever else is raised goes up to the connection, which ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol import events
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGISendEvent, ConnectionState, TaskGroup
from hypercorn.utils import suppress_body

from taskcenter.http.checked import CheckedConnection, ConnectionOver
from taskcenter.http.head import (
    Caller,
    Refused,
    origin_form,
    problem_body,
    problem_headers,
    refusal_bytes,
)
from taskcenter.http.limits import ServerMeter, ServerSettings

GATHER: Final = 64 * 1024  # bytes of a body that are given to the handler at once
YIELD_EVERY: Final = 64  # pieces of a body


class Below(Protocol):
    """What a protocol needs of its connection."""

    settings: ServerSettings
    meter: ServerMeter
    new_request_id: Callable[[], str]
    asgi: ASGIWrapper
    hypercorn: Config
    context: WorkerContext
    tls: bool
    client: tuple[str, int] | None
    local: tuple[str, int] | None

    async def send_event(self, event: Event) -> None: ...

    def body_complete(self) -> None: ...


class ApiStream(HTTPStream):
    """One request. The body is counted whatever its framing; the 500 of a handler that died is problem+json."""

    def __init__(self, below: Below, protocol: ApiProtocol, task_group: TaskGroup) -> None:
        super().__init__(
            below.asgi,
            below.hypercorn,
            below.context,
            task_group,
            below.tls,
            below.client,
            below.local,
            protocol.stream_send,
            STREAM_ID,
        )
        self._below = below
        self._protocol = protocol
        self._pending = bytearray()  # of the body, not yet given to the handler
        self._body_bytes = 0
        self.body_whole = False  # all of it has arrived
        self._pieces = 0

    async def handle(self, event: events.Event) -> None:
        """Raises `Refused`: 413 when a chunked body outgrows the limit, 400 for what ends it.

        Pieces are gathered until 64 KiB, the end, or `flush`: a body in chunks of one byte would otherwise cost a
        task switch for each of them. Reading many pieces out of one buffer yields to other connections.
        """
        if isinstance(event, events.Body):
            self._body_bytes += len(event.data)
            self._pieces += 1
            if self._body_bytes > self._below.settings.max_body_bytes:
                raise Refused(413)
            self._pending += event.data
            if len(self._pending) >= GATHER:
                await self.flush()
            elif self._pieces % YIELD_EVERY == 0:
                await trio.lowlevel.checkpoint()
        elif isinstance(event, events.EndBody):
            self._protocol.check_ending()
            self.body_whole = True
            self._below.body_complete()
            body = bytes(self._pending)
            self._pending.clear()
            if not self.closed:
                await self.app_put({"type": "http.request", "body": body, "more_body": False})
        else:
            if isinstance(event, events.StreamClosed) and not self.closed:
                self._below.meter.requests_open -= 1
            await super().handle(event)

    async def flush(self) -> None:
        """Give the handler what has gathered: there is no more input at present. Not after the body's end."""
        if self._pending and not self.closed:
            body = bytes(self._pending)
            self._pending.clear()
            await self.app_put({"type": "http.request", "body": body, "more_body": True})

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Hypercorn drops the body of an answer to HEAD without a checkpoint: an endless one would stop the process."""
        body = message if message is not None and message["type"] == "http.response.body" else None
        if body is not None and (not body.get("body") or self.scope["method"] == "HEAD"):
            await trio.lowlevel.checkpoint()
        await super().app_send(message)

    async def _send_error_response(self, status_code: int) -> None:
        refused = Refused(status_code)
        self._below.meter.refusal(refused.code)
        body = problem_body(refused, self._protocol.caller)
        request_id = self._protocol.caller.request_id or self._below.new_request_id()
        await self.send(
            events.Response(
                stream_id=self.stream_id, headers=problem_headers(body, request_id), status_code=status_code
            )
        )
        if not suppress_body(self.scope["method"], status_code):
            await self.send(events.Body(stream_id=self.stream_id, data=body))
        await self.send(events.EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED


class ApiProtocol(H11Protocol):
    """One connection's HTTP/1.1. `over` once it was refused or closed: nothing is parsed or sent after that."""

    def __init__(self, below: Below, task_group: TaskGroup) -> None:
        super().__init__(
            below.asgi,
            below.hypercorn,
            below.context,
            task_group,
            ConnectionState({}),
            below.tls,
            below.client,
            below.local,
            below.send_event,
        )
        self._below = below
        self._checked = CheckedConnection(self.connection, below.settings)
        self.connection = cast("Any", self._checked)  # it has the shape, not the type, that hypercorn declares
        self._answering = False  # a final response has begun and is not yet complete

    @property
    def caller(self) -> Caller:
        return self._checked.caller

    def check_ending(self) -> None:
        self._checked.check_ending()

    @property
    def over(self) -> bool:
        return self._checked.over

    @over.setter
    def over(self, value: bool) -> None:
        self._checked.over = value

    @property
    def has_input(self) -> bool:
        """Whether bytes were received that are not parsed yet."""
        return bool(self._checked.trailing_data[0])

    async def refuse(self, refused: Refused) -> None:
        """Answer (unless an answer has begun), end the connection, and tell the handler that its client is gone."""
        if self.over:
            return
        self.over = True
        self._below.meter.refusal(refused.code)
        if not self._answering:
            data = refusal_bytes(refused, self.caller, self._below.new_request_id())
            await self.send(RawData(data=data))
        await self.send(Closed())
        await self.handle(Closed())

    async def handle(self, event: Event) -> None:
        """Bytes from the client, or `Closed`: it is gone, and the reader must not wait for the next cycle any more."""
        if isinstance(event, Closed):
            self.over = True
            await super().handle(event)
            await self.can_read.set()
            return
        await super().handle(event)
        stream = self.stream
        if isinstance(stream, ApiStream):
            await stream.flush()

    async def stream_send(self, event: events.Event) -> None:
        if isinstance(event, events.Response) and event.status_code >= 200:
            self._answering = True
            unread = isinstance(self.stream, ApiStream) and not self.stream.body_whole  # so no request can follow it
            if self.context.terminated.is_set() or unread:
                event = dataclasses.replace(event, headers=[*event.headers, (b"connection", b"close")])
        elif isinstance(event, events.StreamClosed):
            self._answering = False
        if self.over:
            await trio.lowlevel.checkpoint()  # a handler that only sends must meet its cancellation here
        else:
            await super().stream_send(event)

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except Refused as refused:
            await self.refuse(refused)
        except ConnectionOver:
            return

    async def _send_error_response(self, status_code: int) -> None:
        """Hypercorn's word that h11 refused the input."""
        raise Refused(status_code if status_code in (431, 501) else 400)

    async def _check_protocol(self, event: Any) -> None:
        """Hypercorn would change to HTTP/2 here."""

    async def _create_stream(self, request: Any) -> None:
        """`request` is h11's. What hypercorn does, without the websocket."""
        stream = ApiStream(self._below, self, self.task_group)
        self.stream = stream
        self._below.meter.requests_total += 1
        self._below.meter.requests_open += 1
        self.keep_alive_requests += 1
        await stream.handle(
            events.Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii"),
                raw_path=origin_form(bytes(request.target)),
                state=self.connection_state,
            )
        )
