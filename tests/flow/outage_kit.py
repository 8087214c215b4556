"""An outage of the store under a whole service: struck, lasted out, mended, and what callers saw of it.

`Outage` tells when the fault was felt, how long the longest call took and when all was normal again; `settled` closes
the books once everything has ended and has the judge of `tests/reliability` read them.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio
from tests.flow.kit import Answer, Api, Call, Receiver, Service
from tests.flow.outage_traffic import KINDS, Probes, Said, Traffic
from tests.reliability.judge import Verdict, verdict
from tests.reliability.ledger import Execution, Send, TaskRow
from tests.store.connection_kit import by_hand

from taskcenter.task import ACTIVE

CODES: Final = frozenset({"store_unavailable", "commit_unknown", "overloaded"})
_TASKS: Final = "SELECT id, business_code, business_unique_id, status FROM tasks"
_EXECUTIONS: Final = (
    "SELECT task_id, number, run, attempt, term, status, scheduled_at, execution_time, duration, response_status"
    " FROM task_executions ORDER BY task_id, number"
)


@dataclass
class Watched:
    """A service under traffic and probes."""

    service: Service
    receiver: Receiver
    traffic: Traffic
    probes: Probes

    async def normal(self, since: float, timeout_s: float = 150.0) -> None:
        """Return once every kind of call has succeeded, ready is 200, and a task created since then was called."""
        probe = f"probe-{since:.3f}"
        body = {"business_id": probe, "callback_url": f"{self.receiver.url}/{probe}", "retry_intervals": []}
        with trio.fail_after(timeout_s):
            await self.traffic.create(body)
            while not (self._all_well(since) and any(call.path == f"/{probe}" for call in self.receiver.calls)):
                await trio.sleep(0.05)

    def _all_well(self, since: float) -> bool:
        calls = (one for one in (*self.traffic.said, *self.probes.said) if one.at > since)
        return {one.what for one in calls if 200 <= one.status < 300} >= {*KINDS, "live", "ready"}

    async def felt(self) -> None:
        """Return once callers, readiness and operator have been told that the store is out."""
        since = trio.current_time()
        with trio.fail_after(150):
            while not (
                any(one.status == 503 for one in self.traffic.said if one.at > since)
                and any(one.status == 503 for one in self.probes.said if one.at > since)
                and alerts(self.service, "store_out")
            ):
                await trio.sleep(0.1)


@asynccontextmanager
async def watched(service: Service, receiver: Receiver, api: Api) -> AsyncIterator[Watched]:
    """Traffic and probes for the time of the block; at its end the traffic ends what it began."""
    traffic, probes = Traffic(api, receiver), Probes(service)
    receiver.decide = lambda call: Answer(delay_s=traffic.rng.choice((0.0, 0.02, 0.15)))
    async with trio.open_nursery() as clients:
        clients.start_soon(probes.run)
        clients.start_soon(traffic.run)
        on = Watched(service, receiver, traffic, probes)
        await on.normal(trio.current_time())
        yield on
        traffic.closing = probes.closing = True


@dataclass(frozen=True, slots=True)
class Outage:
    """One fault from when it had struck until it was mended, and what followed. Times in s of the loop's clock."""

    name: str
    struck_at: float
    mended_at: float
    calls: list[Said]
    looks: list[Said]
    sends: list[float]  # arrivals at the receiver

    @property
    def failed(self) -> list[Said]:
        return [one for one in self.calls if one.status >= 500 or not one.status]

    @property
    def first_503_s(self) -> float | None:
        """From the blow to the first refusal."""
        times = [one.until - self.struck_at for one in self.calls if one.status == 503]
        return max(0.0, min(times)) if times else None

    @property
    def longest_s(self) -> float:
        return max(one.seconds for one in self.calls)

    @property
    def longest_503_s(self) -> float:
        return max((one.seconds for one in self.failed), default=0.0)

    @property
    def unready_s(self) -> float | None:
        """From the blow until the readiness said so."""
        times = [one.until - self.struck_at for one in self.looks if one.what == "ready" and one.status == 503]
        return max(0.0, min(times)) if times else None

    @property
    def normal_s(self) -> float:
        """From the mending to the last refusal, by call or by readiness."""
        refused = (*self.failed, *(one for one in self.looks if one.status != 200))
        return max((one.until - self.mended_at for one in refused if one.until > self.mended_at), default=0.0)

    @property
    def last_send_s(self) -> float | None:
        """From the blow to the last callback before the mending."""
        times = [at - self.struck_at for at in self.sends if self.struck_at < at < self.mended_at]
        return max(times, default=None)

    def improper(self) -> dict[str, int]:
        """Answers that are not as promised, refusals and those about life: how often."""
        wrong = [one for one in self.failed if one.status and not refused_properly(one)]
        wrong += [one for one in self.looks if one.what == "live" and one.status not in (0, 200)]
        return dict(Counter(f"{one.what}: {one.status} {one.code}" for one in wrong))

    @property
    def unanswered(self) -> int:
        """Calls and looks whose connection broke, or to which no answer came in the caller's 20 s."""
        return sum(not one.status for one in (*self.calls, *self.looks))

    def __str__(self) -> str:
        codes = dict(Counter(one.code for one in self.failed))
        return (
            f"{self.name}: first 503 {_s(self.first_503_s)}, longest call {_s(self.longest_s)}, longest refusal"
            f" {_s(self.longest_503_s)}, not ready {_s(self.unready_s)}, last send {_s(self.last_send_s)}, normal"
            f" {_s(self.normal_s)}; {len(self.failed)} of {len(self.calls)} calls refused {codes} {self.improper()}"
        )


def refused_properly(one: Said) -> bool:
    """503 with Retry-After and a code that says what it means."""
    return one.status == 503 and one.proper and one.code in CODES


def _s(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"


async def outage(
    on: Watched,
    name: str,
    fault: AbstractAsyncContextManager[None],
    last: Callable[[], Awaitable[None]],
    *,
    look_s: float = 0,
) -> Outage:
    """Strike, last it out, mend, wait until all is normal and `look_s` longer; what was seen meanwhile."""
    calls, looks, sends = len(on.traffic.said), len(on.probes.said), len(on.receiver.calls)
    async with fault:
        struck_at = trio.current_time()
        await last()
    mended_at = trio.current_time()
    await on.normal(mended_at)
    await trio.sleep(look_s)
    ahead_s = trio.current_time() - time.time()  # of the loop's clock, before the receiver's
    return Outage(
        name, struck_at, mended_at, on.traffic.said[calls:], on.probes.said[looks:],
        [call.arrived_at / 1000 + ahead_s for call in on.receiver.calls[sends:]],
    )  # fmt: skip


# --- the books ------------------------------------------------------------------------------------------------------


async def settled(on: Watched, url: str, timeout_s: float = 150.0) -> Verdict:
    """What the judge says once the traffic has ended and every task has. `url`: past whatever stands before the store.

    Nothing excuses a repeat: no sender was lost.
    """
    rows = await _rows(url)
    with trio.fail_after(timeout_s):
        while any(row.status in ACTIVE for row in rows):
            await trio.sleep(0.3)
            rows = await _rows(url)
    ledger = on.traffic.ledger
    for call in on.receiver.calls:
        ledger.add(_send(call))
    ledger.close(rows)
    return verdict(ledger)


def _send(call: Call) -> Send:
    headers, told = call.headers, call.json
    return Send(
        told["task_id"], told["business_code"], told["run"], told["attempt"], int(headers["x-taskcenter-term"]),
        call.due_at, call.arrived_at, call.arrived_at,
        redelivery=headers.get("x-taskcenter-redelivery") == "possible-duplicate", status=200,
    )  # fmt: skip


async def _rows(url: str) -> list[TaskRow]:
    """Tasks first: an end and its execution are one transaction, so whoever has ended has its executions below."""
    tasks = await _fetch(url, _TASKS)
    executions: dict[str, list[Execution]] = defaultdict(list)
    for task_id, number, run, attempt, term, status, due, at, duration, answer in await _fetch(url, _EXECUTIONS):
        one = Execution(number, run, attempt, term, _text(status), due, at, at + float(duration), answer)
        executions[_text(task_id)].append(one)
    return [
        TaskRow(_text(task_id), _text(code), _text(name), _text(status), tuple(executions[_text(task_id)]))
        for task_id, code, name, status in tasks
    ]


async def _fetch(url: str, sql: str) -> list[tuple[Any, ...]]:
    return await trio.to_thread.run_sync(by_hand, url, sql)


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def alerts(service: Service, rule: str) -> list[str]:
    """The texts of the alerts of this rule that were logged."""
    lines = [json.loads(line) for line in service.log_text().splitlines() if line.startswith("{")]
    return [line["text"] for line in lines if line.get("event") == "alert" and line["rule"] == rule]
