"""HTTP/1.1 on one connection: write a request, read an answer, know whether the connection may be used again.

Reading is h11's: status line, header syntax, framing, the rules of keep-alive. It is fed a whole head at a time, after
the head has been measured here: 100 headers and 64 KiB, because h11 would parse 13,000 headers in one step of 20 ms.
Writing is ours: the head is checked as one block by one regular expression, which costs a quarter of h11's checks
header by header. h11 is told of a bodiless request of the same method, which is all it needs to read the answer.

A receiver is a stranger. Bounds on what it may make us do: interim answers, header count and size, body size and the
number of pieces it comes in; time is bounded by the caller's one deadline over everything, and every wait is a
cancellation point. A connection is `reusable` only after a complete exchange with nothing left over: bytes beyond the
answer would be taken for the next one.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Final

import h11
import trio

from taskcenter.actors.egress.exchange import (
    KEPT_BODY_BYTES,
    MAX_BODY_BYTES,
    Answered,
    CallbackRequest,
    Exchange,
    Faulted,
)
from taskcenter.actors.egress.faults import describe_os_error
from taskcenter.actors.egress.wire import Wire

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100
MAX_TRAILER_BYTES: Final = 8 * 1024  # and of a chunk's own line
MAX_INTERIM: Final = 16
MAX_PIECES: Final = 8192
PIECES_BETWEEN_CHECKPOINTS: Final = 64

_BLANK_LINE: Final = re.compile(rb"\n\r?\n")
_HEADER_BLOCK: Final = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
_METHOD: Final = re.compile(r"[A-Z]{1,16}")
_OURS: Final = frozenset({
    "host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
    "upgrade", "expect", "accept-encoding",
})  # fmt: skip
_BODILESS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_WIRE_FAULTS: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)
_END: Final = h11.EndOfMessage()


class UnwritableRequest(ValueError):
    """The caller's: a method or header that HTTP cannot carry. Nothing was sent."""


class _UnfitAnswer(Exception):
    """The receiver's: not HTTP, or over a limit."""


@dataclass(slots=True, eq=False)
class Progress:
    """How far one exchange has come: what a timeout tells. Owned by the task of that exchange."""

    doing: str = "starting"  # empty while request and answer are on their way
    sent: bool = False  # a byte of the request may be out
    received: int = 0  # bytes of the answer
    whole: bool = False  # the request is out
    untaken: bool = False  # the connection had ended before any of the request reached the receiver's machine

    def describe(self) -> str:
        if self.doing:
            return self.doing
        return f"connected, request {'sent' if self.whole else 'partly sent'}, {self.received} bytes received"


def write_request(request: CallbackRequest) -> bytes:
    """Head and body as they go out. Raises `UnwritableRequest`."""
    method, target, body = request.method, request.target, request.body
    if not _METHOD.fullmatch(method) or method == "CONNECT":
        raise UnwritableRequest("the method is not one of GET, POST, PUT, PATCH, DELETE")
    lines = [f"{name}: {value}\r\n" for name, value in request.headers if name.lower() not in _OURS]
    block = "".join(lines)
    if not _HEADER_BLOCK.fullmatch(block) or block.count("\n") != len(lines):
        raise UnwritableRequest("a header holds a character that HTTP does not carry")
    length = "" if not body and method in _BODILESS else f"Content-Length: {len(body)}\r\n"
    head = (
        f"{method} {target.request_target} HTTP/1.1\r\nHost: {target.authority}\r\n"
        f"Accept-Encoding: identity\r\n{block}{length}\r\n"
    )
    try:
        return head.encode() + body
    except UnicodeEncodeError:
        raise UnwritableRequest("a header holds half a surrogate pair") from None


Origin = tuple[str, str, int, str]  # scheme, host, port, fingerprint of the client certificate that may be shown


class Http1Connection:
    """One connection to one origin. Between exchanges it belongs to the pool, during one to that exchange's task."""

    __slots__ = ("_ended", "_h11", "_wire", "born_at", "exchanges", "idle_since", "origin", "peer", "reusable")

    def __init__(self, wire: Wire, origin: Origin, peer: str, born_at: float) -> None:
        """`peer`: the address it goes to, for messages. `born_at`: trio's time, s."""
        self._wire = wire
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_TRAILER_BYTES)
        self._ended = False  # the peer will say no more
        self.origin = origin
        self.peer = peer
        self.born_at = born_at
        self.idle_since = born_at
        self.exchanges = 0
        self.reusable = True

    async def exchange(self, method: str, message: bytes, progress: Progress) -> Exchange:
        """Send `message`, which `write_request` made for `method`, and read the answer. Cancelled or faulted, the
        connection is not `reusable` and must be closed."""
        self.reusable = False
        self._h11.send(_h11_request(method))
        self._h11.send(_END)
        progress.doing = ""
        progress.sent = True
        try:
            progress.whole = self._wire.begin_send(message)
        except _WIRE_FAULTS:
            progress.whole = False  # the receiver hung up; it may have answered first, so read what is there
            progress.untaken = True
            return await self._read_answer(progress)
        if progress.whole:
            return await self._read_answer(progress)
        return await self._exchange_slowly(progress)

    async def _exchange_slowly(self, progress: Progress) -> Exchange:
        """A request larger than the socket's buffer: read while sending, since a receiver may refuse it half-way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._finish_send, progress)
            result = await self._read_answer(progress)
            nursery.cancel_scope.cancel()
        return result

    async def _finish_send(self, progress: Progress) -> None:
        try:
            await self._wire.finish_send()
            progress.whole = True
        except _WIRE_FAULTS:
            return  # the reader meets the same fault, or the answer that came before it

    async def _read_answer(self, progress: Progress) -> Exchange:
        try:
            response = await self._read_head(progress)
            body, size = await self._read_body(response, progress)
        except _UnfitAnswer as error:
            return Faulted("invalid_response", str(error), sent=True)
        except h11.RemoteProtocolError as error:
            if self._ended:
                return Faulted("connection_error", self._cut_short(progress), sent=True)
            return Faulted("invalid_response", f"the answer is not valid HTTP: {error}", sent=True)
        except _WIRE_FAULTS as error:
            return Faulted("connection_error", describe_os_error(error, self.peer), sent=True)
        reused = self.exchanges > 0
        self.exchanges += 1
        protocol = self._h11
        if (
            progress.whole
            and not self._ended
            and protocol.our_state is h11.DONE
            and protocol.their_state is h11.DONE
            and not protocol.trailing_data[0]
        ):
            protocol.start_next_cycle()
            self.reusable = True
        headers = tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers])
        return Answered(response.status_code, headers, body, size, reused)

    async def _read_head(self, progress: Progress) -> h11.Response:
        data = await self._receive(progress)
        searched = interim = 0
        while True:
            if not data.startswith(b"HTTP/"[: len(data)]):
                raise _UnfitAnswer("the answer is not HTTP")
            blank = _BLANK_LINE.search(data, searched)
            end = len(data) if blank is None else blank.end()
            if end > MAX_HEAD_BYTES:
                raise _UnfitAnswer(f"the answer's headers are larger than {MAX_HEAD_BYTES // 1024} KiB")
            if blank is None:
                searched = max(0, end - 2)
                data += await self._receive(progress)
                continue
            if data.count(b"\n", 0, end) > MAX_HEADERS + 2:
                raise _UnfitAnswer(f"the answer has more than {MAX_HEADERS} headers")
            self._h11.receive_data(data[:end])
            event = self._h11.next_event()
            data = data[end:]
            if type(event) is h11.Response:
                if data:
                    self._h11.receive_data(data)
                return event
            interim += 1
            if interim > MAX_INTERIM:
                raise _UnfitAnswer(f"more than {MAX_INTERIM} interim answers (1xx)")
            searched = 0
            data = data or await self._receive(progress)

    async def _read_body(self, response: h11.Response, progress: Progress) -> tuple[bytes, int]:
        """The part that is kept, and the size of the whole."""
        kept = bytearray()
        size = pieces = 0
        next_event = self._h11.next_event
        if _declared_length(response) > MAX_BODY_BYTES:
            raise _UnfitAnswer(_TOO_LARGE)
        while True:
            event = next_event()
            if type(event) is h11.Data:
                size += len(event.data)
                if size > MAX_BODY_BYTES:
                    raise _UnfitAnswer(_TOO_LARGE)
                if len(kept) < KEPT_BODY_BYTES:
                    kept += event.data
                pieces += 1
                if pieces % PIECES_BETWEEN_CHECKPOINTS == 0:
                    await trio.lowlevel.checkpoint()
                    if pieces > MAX_PIECES:
                        raise _UnfitAnswer(f"the answer's body comes in more than {MAX_PIECES} pieces")
            elif event is h11.NEED_DATA:
                data = await self._wire.receive()
                progress.received += len(data)
                self._ended = not data
                self._h11.receive_data(data)
            else:  # EndOfMessage: h11 lets nothing else follow
                return bytes(kept[:KEPT_BODY_BYTES]), size

    async def _receive(self, progress: Progress) -> bytes:
        data = await self._wire.receive()
        if not data:
            self._ended = True
            progress.untaken = progress.untaken or (not progress.received and self._wire.untaken())
            raise h11.RemoteProtocolError("peer unexpectedly closed connection")
        progress.received += len(data)
        return data

    def _cut_short(self, progress: Progress) -> str:
        if not progress.received:
            return f"{self.peer} closed the connection without an answer"
        return f"{self.peer} closed the connection in the middle of its answer ({progress.received} bytes received)"

    def is_fresh(self) -> bool:
        """Whether a connection at rest still looks alive: not ended, and nothing came that nobody asked for."""
        try:
            return self._wire.receive_nowait() is None
        except _WIRE_FAULTS:
            return False

    def close(self) -> None:
        self.reusable = False
        self._wire.close()

    def __repr__(self) -> str:
        return f"<Http1Connection to {self.peer} exchanges={self.exchanges} reusable={self.reusable}>"


_TOO_LARGE: Final = f"the answer's body is too large (more than {MAX_BODY_BYTES // 1024} KiB)"


def _declared_length(response: h11.Response) -> int:
    for name, value in response.headers:
        if name == b"content-length":  # h11 has checked that it is one number of at most 20 digits
            return int(value)
    return 0


@functools.lru_cache(maxsize=16)
def _h11_request(method: str) -> h11.Request:
    """A request without body, which h11 is told of in place of the real one."""
    return h11.Request(method=method, target="/", headers=[("host", "receiver")])
