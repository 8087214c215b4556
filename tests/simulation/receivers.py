"""The far end of the network: receivers of every mood, and the record of every callback that was sent to them.

A mood says what a receiver answers and, as CONTRACT.md §4 has it, what that means. What it means is written here once
more on purpose: the engine's own table is what is tested.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import trio
from tests.actors.scripted import Call, Receivers, ScriptedClient, answered

from taskcenter.actors.egress.exchange import CallbackRequest, Exchange, Faulted, Withheld
from taskcenter.clock import Clock

if TYPE_CHECKING:
    from tests.simulation.instances import Process

    from taskcenter.store.records import Business

Meaning = Literal["success", "failure", "stop", "deferral"]


@dataclass(frozen=True)
class Mood:
    name: str
    exchange: Exchange | None  # None: it never answers
    meaning: Meaning
    history: str  # the execution's status
    after_s: tuple[float, float] = (0.005, 0.2)
    waits_ms: int = 0  # of a deferral: how long


MOODS: Final = {
    mood.name: mood
    for mood in (
        Mood("ok", answered(200, body=b'{"fine": true}'), "success", "success"),
        Mood("created", answered(201), "success", "success"),
        Mood("slow", answered(204), "success", "success", (0.3, 2.5)),
        Mood("broken", answered(500, body=b"oops"), "failure", "http_error"),
        Mood("unknown path", answered(404), "failure", "http_error"),
        Mood("moved", answered(302, ("location", "http://192.0.2.9/")), "failure", "http_error"),
        Mood("again", answered(200, body=b'{"action": "retry"}'), "failure", "retry"),
        Mood("gone", answered(410), "stop", "stop"),
        Mood("stop", answered(200, body=b'{"action": "stop", "reason": "sold out"}'), "stop", "stop"),
        Mood("busy", answered(429, ("retry-after", "2")), "deferral", "deferred", waits_ms=2000),
        Mood("at rest", answered(503, ("retry-after", "3")), "deferral", "deferred", waits_ms=3000),
        Mood("later", answered(200, body=b'{"action": "retry", "retry_after": 1.5}'), "deferral", "deferred",
             waits_ms=1500),
        Mood("reset", Faulted("connection_error", "the receiver closed the connection", sent=True), "failure",
             "connection_error"),
        Mood("refused", Faulted("connection_error", "connection refused", sent=False), "failure", "connection_error",
             (0.001, 0.01)),
        Mood("garbage", Faulted("invalid_response", "this is no HTTP", sent=True), "failure", "invalid_response"),
        Mood("hanging", None, "failure", "timeout"),
    )
}  # fmt: skip
WELL: Final = ("ok", "created", "slow")
HEALED: Final = ("ok", "created")
TIMED_OUT: Final = MOODS["hanging"]


@dataclass
class Sent(Call):
    """A callback, as its sender sees it. Times in ms: `at` and `ended_at` true, `sender_at` by the sender's clock."""

    business_id: int = 0
    sender_at: int = 0
    began_at: int = 0  # by the sender's clock: when it turned to this request; a token may have been fetched since
    mood: Mood | None = None  # what came of it, as far as the sender heard
    ended_at: int | None = None
    sender_ended_at: float = 0.0
    left: bool = True  # its machine; False: there was no time left to send it
    lost_at: int | None = None  # when its sender was crashed with it on its way

    @property
    def term(self) -> int:
        return int(self.headers["x-taskcenter-term"])

    @property
    def run(self) -> int:
        return int(self.headers["webhook-id"].rpartition("-")[2])

    def lost_before(self, at: int) -> bool:
        """Whether its sender was gone by then: an answer would reach nobody."""
        return self.lost_at is not None and self.lost_at <= at

    @property
    def flagged(self) -> bool:
        return "x-taskcenter-redelivery" in self.headers

    @property
    def key(self) -> tuple[str, int, int]:
        """Names the claim it answers."""
        return self.task_id, self.term, self.due_at


class FarEnd(Receivers):
    """All receivers. `temper` holds the moods they are in; a call gets one of them by chance."""

    def __init__(self, clock: Clock, seed: int, nursery: trio.Nursery, temper: tuple[str, ...]) -> None:
        super().__init__(clock)
        self.nursery = nursery
        self.temper = temper
        self.sent: list[Sent] = []
        self._rng = random.Random(f"receivers {seed}")

    async def attend(self, sent: Sent, answer: trio.MemorySendChannel[Mood]) -> None:
        """A call on its arrival, whatever becomes of its sender."""
        mood = MOODS[self._rng.choice(self.temper)]
        self.calls.append(sent)
        await trio.sleep(self._rng.uniform(*mood.after_s))
        if mood.exchange is not None:
            answer.send_nowait(mood)


class Client(ScriptedClient):
    """One business's connections from one instance."""

    def __init__(self, receivers: FarEnd, business: Business, process: Process) -> None:
        super().__init__(receivers, business, process.name, hesitates_s=process.hesitates_s)
        self._far = receivers
        self._process = process
        self._begun: dict[int, Sent] = {}

    async def authorize(self, request: CallbackRequest, deadline_s: float) -> CallbackRequest | Faulted:
        """Takes a while; for so long, if the process stood still, that there is no time left to send anything."""
        sent = self._begun[id(request)] = self._sent(request)
        with trio.move_on_after(deadline_s):
            await super().authorize(request, deadline_s)
        if self._far.clock.now_ms() < sent.at + deadline_s * 1000:
            return request
        del self._begun[id(request)]
        self._far.sent.append(sent)
        sent.left = False
        self._end(sent, TIMED_OUT)
        return Faulted("timeout", "no access token in time", sent=False)

    async def exchange(self, request: CallbackRequest, deadline_s: float) -> Exchange:
        assert not self.closed, "a call after the client was closed"
        if not self._process.alive:
            await trio.sleep_forever()  # a dead process sends nothing, and its cancellation is on its way
        if request.may_send is not None and not request.may_send():
            raise Withheld
        sent = self._begun.pop(id(request))
        sent.at, sent.sender_at = self._far.clock.now_ms(), self._process.clock.now_ms()
        self._far.sent.append(sent)
        self._process.say(
            f"sends {sent.task_id[-6:]} run {sent.run} attempt {sent.attempt} term {sent.term} due {sent.due_at}"
            f"{' again' if sent.flagged else ''}"
        )
        answers, inbox = trio.open_memory_channel[Mood](1)
        self._far.nursery.start_soon(self._far.attend, sent, answers)
        mood = TIMED_OUT
        try:
            with trio.move_on_after(deadline_s):
                mood = await inbox.receive()
        except trio.Cancelled:
            sent.lost_at = self._far.clock.now_ms()
            raise
        self._end(sent, mood)
        return mood.exchange or Faulted("timeout", f"no answer in {deadline_s:g} s", sent=True)

    def _sent(self, request: CallbackRequest) -> Sent:
        headers = {name.lower(): value for name, value in request.headers}
        return Sent(
            self._far.clock.now_ms(), self._process.name, request.target.url, headers, request.body,
            business_id=self.business.id, began_at=self._process.clock.now_ms(),
        )  # fmt: skip

    def _end(self, sent: Sent, mood: Mood) -> None:
        sent.mood, sent.ended, sent.ended_at = mood, True, self._far.clock.now_ms()
        sent.sender_ended_at = self._process.clock.now_ms_exact()
        self._process.say(f"hears of {sent.task_id[-6:]} {mood.name}")
