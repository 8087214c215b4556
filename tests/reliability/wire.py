"""A client of the API that costs the trial little: h11 on kept connections, one pool for each address."""

from __future__ import annotations

import json
import select
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import h11
import trio

RECEIVE_BYTES = 1 << 16


class NoConnection(Exception):
    """The instance does not listen: the request was not sent."""


class NoAnswer(Exception):
    """The connection ended, or nothing came in time: whether the request took effect is not known."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    retry_after_s: float  # 0 when it says nothing

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class _Kept:
    stream: trio.SocketStream
    state: h11.Connection

    @property
    def usable(self) -> bool:
        """Nothing was sent on it meanwhile, not even its end."""
        poll = select.poll()
        poll.register(self.stream.socket.fileno(), select.POLLIN)
        return not poll.poll(0)


class Wire:
    """Any number of requests at once; each has a connection to itself."""

    def __init__(self, token: str, timeout_s: float) -> None:
        self._token = token
        self._timeout_s = timeout_s
        self._idle: dict[int, list[_Kept]] = defaultdict(list)  # by port of the instance

    async def ask(self, port: int, method: str, path: str, body: Any = None) -> Reply:
        """Raises `NoConnection` and `NoAnswer`."""
        with trio.move_on_after(self._timeout_s):
            kept = await self._connection(port)
            try:
                reply = await self._exchange(kept, method, path, b"" if body is None else json.dumps(body).encode())
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
                raise NoAnswer(repr(error)) from None
            finally:
                await self._put_back(port, kept)
            return reply
        raise NoAnswer(f"nothing in {self._timeout_s} s")

    async def aclose(self) -> None:
        for kept in [each for pool in self._idle.values() for each in pool]:
            await trio.aclose_forcefully(kept.stream)
        self._idle.clear()

    async def _connection(self, port: int) -> _Kept:
        while self._idle[port]:
            kept = self._idle[port].pop()
            if kept.usable:
                return kept
            await trio.aclose_forcefully(kept.stream)
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError as error:
            raise NoConnection(repr(error)) from None
        return _Kept(stream, h11.Connection(h11.CLIENT))

    async def _exchange(self, kept: _Kept, method: str, path: str, body: bytes) -> Reply:
        headers = [("Host", "t"), ("Authorization", f"Bearer {self._token}"), ("Content-Length", str(len(body)))]
        if body:
            headers.append(("Content-Type", "application/json"))
        state = kept.state
        sent = state.send(h11.Request(method=method, target=path, headers=headers)) or b""
        sent += (state.send(h11.Data(body)) or b"") if body else b""
        sent += state.send(h11.EndOfMessage()) or b""
        await kept.stream.send_all(sent)
        status, retry_after_s, parts = 0, 0.0, []
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(await kept.stream.receive_some(RECEIVE_BYTES))
            elif isinstance(event, h11.Response):
                status = event.status_code
                retry_after_s = float(dict(event.headers).get(b"retry-after", b"0"))
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return Reply(status, b"".join(parts), retry_after_s)
            elif isinstance(event, h11.ConnectionClosed):
                raise NoAnswer("closed before the answer")

    async def _put_back(self, port: int, kept: _Kept) -> None:
        if kept.state.our_state is h11.DONE and kept.state.their_state is h11.DONE:
            kept.state.start_next_cycle()
            self._idle[port].append(kept)
        else:
            await trio.aclose_forcefully(kept.stream)
