"""The far end of the network, in memory: receivers that do as a test says, and the client that calls them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from taskcenter.actors.egress.exchange import Answered, CallbackRequest, Exchange, Faulted, Withheld
from taskcenter.clock import Clock
from taskcenter.store.records import Business


@dataclass
class Call:
    """A callback as it arrived."""

    at: int  # ms
    sender: str  # which instance
    url: str
    headers: dict[str, str]
    body: Any
    ended: bool = False

    @property
    def task_id(self) -> str:
        return self.headers["x-taskcenter-task-id"]

    @property
    def attempt(self) -> int:
        return int(self.headers["x-taskcenter-attempt"])

    @property
    def due_at(self) -> int:
        return int(self.headers["x-taskcenter-due"])


def answered(status: int = 200, *headers: tuple[str, str], body: bytes = b"") -> Answered:
    return Answered(status, headers, body, len(body), reused=False)


REFUSED = Faulted("connection_error", "connection refused by 192.0.2.1:80", sent=False)
Mood = Callable[[Call], Awaitable[Exchange]]


def answering(exchange: Exchange, after_s: float = 0.02) -> Mood:
    async def mood(call: Call) -> Exchange:
        await trio.sleep(after_s)
        return exchange

    return mood


@dataclass
class Receivers:
    """All receivers there are. `mood` says what becomes of a call; every call is kept, in order of arrival."""

    clock: Clock
    mood: Mood = field(default_factory=lambda: answering(answered()))
    calls: list[Call] = field(default_factory=list)
    on_their_way: int = 0
    most_at_once: int = 0
    _arrived: trio.Event = field(default_factory=trio.Event)

    async def take(self, request: CallbackRequest, sender: str) -> Exchange:
        headers = {name.lower(): value for name, value in request.headers}
        body = json.loads(request.body) if request.body else None
        call = Call(self.clock.now_ms(), sender, request.target.url, headers, body)
        self.calls.append(call)
        self._arrived.set()
        self.on_their_way += 1
        self.most_at_once = max(self.most_at_once, self.on_their_way)
        try:
            exchange = await self.mood(call)
            call.ended = True
            return exchange
        finally:
            self.on_their_way -= 1

    async def wait_for(self, count: int, within_s: float = 600) -> None:
        """Return when that many calls have arrived."""
        with trio.fail_after(within_s):
            while len(self.calls) < count:
                self._arrived = trio.Event()
                await self._arrived.wait()

    def of(self, task_id: str) -> list[Call]:
        return [call for call in self.calls if call.task_id == task_id]


class ScriptedClient:
    """`actors.tools.CallbackClient` over `Receivers`."""

    def __init__(
        self, receivers: Receivers, business: Business, sender: str = "one", *, hesitates_s: float = 0.0
    ) -> None:
        self._receivers = receivers
        self._sender = sender
        self._hesitates_s = hesitates_s
        self.business = business
        self.closed = False

    async def authorize(self, request: CallbackRequest, deadline_s: float) -> CallbackRequest | Faulted:
        await trio.sleep(self._hesitates_s)
        return request

    def update(self, business: Business) -> None:
        self.business = business

    async def exchange(self, request: CallbackRequest, deadline_s: float) -> Exchange:
        assert not self.closed, "a call after the client was closed"
        if request.may_send is not None and not request.may_send():
            raise Withheld
        with trio.move_on_after(deadline_s):
            return await self._receivers.take(request, self._sender)
        return Faulted("timeout", f"no answer in {deadline_s:g} s", sent=True)

    def close_idle(self) -> int:
        return 0

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = True
