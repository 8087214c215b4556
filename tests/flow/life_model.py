"""What the contract says becomes of a task, without store, engine or clock: the model of the life machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from taskcenter.actors.egress.exchange import Answered, Exchange, Faulted
from taskcenter.store.records import Task

QUOTA: Final = 4
WAITING: Final = {"pending", "retrying"}
ACTIVE: Final = {*WAITING, "running"}
RETRY_S: Final = 60
EVERY_S: Final = 3600
MAX_RUNS: Final = 2
MOST_DEFERRALS: Final = 20
SHOWN: Final = 20  # executions with a task
MOST_INTERRUPTIONS: Final = 3


def answered(status: int, body: bytes = b"", **headers: str) -> Answered:
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Answered(status, given, body, len(body), reused=False)


# what came back → (what it means, how the history calls it)
ANSWERS: Final[dict[str, tuple[Exchange, str, str]]] = {
    "200": (answered(200), "success", "success"),
    "500": (answered(500), "failure", "http_error"),
    "action retry": (answered(200, b'{"action": "retry"}'), "failure", "retry"),
    "timeout": (Faulted("timeout", "no answer", sent=True), "failure", "timeout"),
    "429": (answered(429, retry_after="60"), "deferral", "deferred"),
    "action stop": (answered(200, b'{"action": "stop"}'), "stop", "stop"),
    "410": (answered(410), "stop", "stop"),
}


@dataclass
class Model:
    """One task. `due` is in ms; None when only the service knows it (due at the moment of a call)."""

    id: str
    body: dict[str, Any]
    due: int | None
    retries: int
    status: str = "pending"
    reason: str | None = None
    version: int = 1
    run: int = 1
    runs: int = 0
    retry: int = 0
    deferrals: int = 0
    interruptions: int = 0
    doubtful: bool = False  # a sender of this attempt was lost with it, and no end of it is known since
    manual: bool = False  # the retry that waits was asked for before its time
    attempts: int = 0
    anchor: int = 0
    history: dict[int, str] = field(default_factory=dict)  # number → how the attempt ended
    cancelled_with: set[int] = field(default_factory=set)  # numbers of attempts that were on their way, and are
    sent: Task | None = None  # claimed, with no end recorded yet
    deadline: int | None = None
    every: int = EVERY_S * 1000
    most_runs: int = MAX_RUNS

    @property
    def recurring(self) -> bool:
        return "schedule" in self.body

    @property
    def seen(self) -> dict[str, Any]:
        return {
            "status": self.status, "finish_reason": self.reason, "version": self.version, "run": self.run,
            "runs": self.runs, "current_retry": self.retry, "max_retries": self.retries, "attempts": self.attempts,
            "deferrals": self.deferrals,
        }  # fmt: skip

    @property
    def in_flight(self) -> bool:
        """What a cancel says: whether a call may yet reach the receiver. A lost sender's may for minutes."""
        if self.status == "running" or self.cancelled_with:
            return True
        latest = dict(sorted(self.history.items())[-SHOWN:])
        return (self.interruptions > 0 or self.run > 1) and "interrupted" in latest.values()

    def changed(self) -> None:
        self.version += 1

    def cancelled(self) -> None:
        if self.status == "running":
            self.cancelled_with.add(self.attempts)
        self._ended("cancelled", "cancelled")

    def claimed(self, task: Task | None) -> None:
        """`task`: as the claimant got it, where an answer will need it."""
        self.sent = task
        self.status, self.attempts, self.due = "running", self.attempts + 1, None
        self.changed()

    def asked_for(self, at: int) -> None:
        """Run now."""
        self.due, self.manual = at, self.retry > 0
        self.changed()

    def again(self) -> None:
        """Delivered again."""
        self.status, self.reason, self.due = "pending", None, None
        self.run, self.retry, self.deferrals, self.interruptions, self.manual = self.run + 1, 0, 0, 0, False
        self.doubtful = False
        self.changed()

    def interrupted(self) -> None:
        """Its sender was lost."""
        self.history[self.attempts] = "interrupted"
        self.interruptions, self.doubtful = self.interruptions + 1, True
        if self.interruptions == MOST_INTERRUPTIONS:
            self._ended("failed", "crash_suspect")
        else:
            self.status, self.due = "retrying", None
            self.changed()

    def lost(self) -> None:
        """The senders of what was on its way at its cancels are."""
        self.history |= dict.fromkeys(self.cancelled_with, "interrupted")
        self.cancelled_with.clear()

    def told(self, number: int, how: str) -> None:
        """How an attempt ended, by its sender: what history has already stays."""
        self.history.setdefault(number, how)
        self.cancelled_with.discard(number)

    def over(
        self,
        meaning: str,
        scheduled_at: int,
        ended_at: int,
        *,
        started_at: int | None = None,
        waits: int = RETRY_S * 1000,
    ) -> None:
        """An attempt ended, at the moment it was sent unless told otherwise; a deferral too many is a failure.

        `waits`: the deferral's, or the retry list's at this place; in ms.
        """
        self.interruptions = 0
        began_at = max(scheduled_at, ended_at if started_at is None else started_at)
        deferred = meaning == "deferral" and self.deferrals < MOST_DEFERRALS
        used = self.retry if self.manual else self.retry + 1
        failed = meaning in {"failure", "deferral"} and not deferred
        again = deferred or (failed and used <= self.retries)
        self.manual = self.manual and deferred
        self.doubtful = self.doubtful and deferred
        if again and self.deadline is not None and ended_at + waits > self.deadline:
            self.expired()
        elif deferred:
            self.deferrals += 1
            self._waits("retrying", ended_at + waits)
        elif meaning == "stop":
            self._ended("stopped", "receiver_stopped")
        elif again:
            self.retry = used
            self._waits("retrying", ended_at + waits)
        elif not self.recurring:
            self._ended(*(("succeeded", None) if meaning == "success" else ("failed", "retries_exhausted")))
        else:
            self._run_over(meaning, began_at, ended_at)

    def expired(self) -> None:
        """Nothing may start any more."""
        self._ended("failed", "deadline_passed")

    def _run_over(self, meaning: str, began_at: int, ended_at: int) -> None:
        """The next run is at the first time of the schedule after this one began, or the last one missed meanwhile."""
        self.runs += 1
        if self.runs >= self.most_runs:
            good = meaning == "success"
            self._ended(*(("succeeded", "schedule_ended") if good else ("failed", "retries_exhausted")))
            return
        self.run, self.retry, self.deferrals = self.run + 1, 0, 0
        following, missed = (began_at - self.anchor) // self.every + 1, (ended_at - self.anchor) // self.every
        self._waits("pending", self.anchor + max(0, following, missed) * self.every)

    def _waits(self, status: str, due: int) -> None:
        self.status, self.due = status, due
        self.changed()

    def _ended(self, status: str, reason: str | None) -> None:
        self.status, self.reason, self.due = status, reason, None
        self.changed()
