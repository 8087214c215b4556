"""The receiver and the API's clients of a trial with real processes: each writes its own book of the `Ledger`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import trio
from tests.flow.kit import Answer, Call, Receiver, Service
from tests.reliability.ledger import Change, Create, Ledger, Send, Sight
from tests.reliability.wire import NoAnswer, NoConnection, Reply, Wire

from taskcenter.times import format_time, parse_time

Mood = Callable[[Call], Answer]
REQUEST_TIMEOUT_S = 15.0  # of one try; the service answers sooner, whatever happens to it
PAUSE_S = 0.05  # before the next try of an unanswered request
CHANGES = {
    "cancel": ("DELETE", ""),
    "update": ("PUT", ""),
    "run": ("POST", "/run"),
    "redeliver": ("POST", "/redeliver"),
}


def now_ms() -> float:
    """By the clock that all of a trial's books are kept by."""
    return time.time() * 1000


class Recorder(Receiver):
    """Answers as its mood says, and keeps nothing but the ledger."""

    def __init__(self, ledger: Ledger, mood: Mood) -> None:
        super().__init__()
        self.mood = mood
        self.arrived = 0
        self._ledger = ledger
        self._news = trio.Event()
        self.decide = self._arrives
        self.answered = self._ends

    def _arrives(self, call: Call) -> Answer:
        self.calls.clear()
        self.arrived += 1
        self._news.set()
        return self.mood(call)

    def _ends(self, call: Call, status: int | None, at: float) -> None:
        headers = call.headers
        task_id = headers["x-taskcenter-task-id"]
        self._ledger.add(
            Send(
                task_id,
                call.json["business_code"],
                int(headers["webhook-id"].removeprefix(f"{task_id}-")),
                int(headers["x-taskcenter-attempt"]),
                int(headers["x-taskcenter-term"]),
                call.due_at,
                call.arrived_at,
                at,
                redelivery=headers.get("x-taskcenter-redelivery") == "possible-duplicate",
                status=status,
            )
        )

    async def wait_until(self, arrived: int, timeout_s: float = 60) -> None:
        """Return when so many callbacks have come since the trial began."""
        with trio.fail_after(timeout_s):
            while self.arrived < arrived:
                self._news = trio.Event()
                await self._news.wait()


@dataclass(slots=True)
class Manners:
    """What a client met besides answers to its requests. It asked again each time."""

    refused: int = 0  # no connection: the instance was going or gone
    cut: int = 0  # a connection that ended before the answer
    faults: Counter[str] = field(default_factory=Counter)  # answers of 5xx, by their code

    @property
    def failed(self) -> int:
        """All but creates that were refused because the machine was busy."""
        return self.refused + self.cut + self.faults.total() - self.shed

    @property
    def shed(self) -> int:
        return self.faults["overloaded"]


class Caller:
    """One business's client: like one behind a balancer it turns to the next instance when one does not answer, with
    the same body, until it is told. What it is told goes into the ledger.
    """

    def __init__(self, services: Sequence[Service], token: str, business: str, url: str, ledger: Ledger) -> None:
        """`url`: of the receiver."""
        self._services = services
        self.code = business
        self._url = url
        self._ledger = ledger
        self._turn = count()
        self.manners = Manners()
        self.answered = 0
        self._wire = Wire(token, REQUEST_TIMEOUT_S)

    def through(self, service: Service) -> Caller:
        """The same client, asking this instance alone."""
        other = copy(self)
        other._services = [service]
        return other

    async def create(self, business_id: str, due_ms: float | None = None, **fields: Any) -> str | None:
        """The task's id; None when it was refused. `due_ms`: None for now."""
        body = self._body(business_id, due_ms, fields)
        while True:
            asked_at, answer = await self._ask("POST", "/tasks", body)
            task = answer.json() if answer is not None else {}
            self._note(business_id, asked_at, answer.status if answer is not None else 0, task)
            if answer is not None:
                return str(task["id"]) if answer.ok else None

    async def create_many(self, tasks: Sequence[tuple[str, float | None]], **fields: Any) -> list[str]:
        """The ids of a batch of `(business_id, due_ms)`, all of which must be taken."""
        body = {"tasks": [self._body(business_id, due_ms, fields) for business_id, due_ms in tasks]}
        while True:
            asked_at, answer = await self._ask("POST", "/tasks/batch", body)
            assert answer is None or answer.ok, answer.body
            unanswered: list[dict[str, Any]] = [{"status": 0}] * len(tasks)
            results = answer.json()["results"] if answer is not None else unanswered
            for (business_id, _), result in zip(tasks, results, strict=True):
                self._note(business_id, asked_at, result["status"], result.get("task", {}))
            assert not any(400 <= result["status"] < 500 for result in results), results
            if all(result["status"] in {200, 201} for result in results):
                return [str(result["task"]["id"]) for result in results]

    async def cancel(self, task_id: str) -> None:
        await self.change("cancel", task_id)

    async def change(self, kind: str, task_id: str, body: Any = None) -> None:
        """One of `CHANGES`, until it is answered."""
        method, path = CHANGES[kind]
        while True:
            asked_at, answer = await self._ask(method, f"/tasks/{task_id}{path}", body)
            if answer is None:
                self._ledger.add(Change(task_id, kind, asked_at, now_ms(), "unknown"))
                continue
            in_flight = answer.ok and answer.json().get("in_flight") is True
            result = "done" if answer.ok else "refused"
            self._ledger.add(Change(task_id, kind, asked_at, now_ms(), result, in_flight))
            return

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """Anything else, until it is answered."""
        while True:
            _, answer = await self._ask(method, path, body)
            if answer is not None:
                return answer

    async def look(self, task_id: str) -> str | None:
        """The task's status; None: there is no such task."""
        while True:
            asked_at, answer = await self._ask("GET", f"/tasks/{task_id}")
            if answer is None:
                continue
            if not answer.ok:
                return None
            task = answer.json()
            self._ledger.add(Sight(task_id, asked_at, now_ms(), task["version"], task["status"]))
            return str(task["status"])

    async def aclose(self) -> None:
        await self._wire.aclose()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _body(self, business_id: str, due_ms: float | None, fields: dict[str, Any]) -> dict[str, Any]:
        due = {} if due_ms is None else {"execute_at": format_time(int(due_ms))}
        return {"business_id": business_id, "callback_url": self._url, **due, **fields}

    def _note(self, business_id: str, asked_at: float, status: int, task: dict[str, Any]) -> None:
        told = {200: "replayed", 201: "created"}
        result = told.get(status, "refused" if 400 <= status < 500 else "unknown")
        due = parse_time(task["execute_at"]) if status in told else None
        self._ledger.add(Create(self.code, business_id, asked_at, now_ms(), result, task.get("id"), due))

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[float, Reply | None]:
        """One try: when it was asked, and its answer; None when there was none, or one that leaves it open (5xx)."""
        service, asked_at = self._next(), now_ms()
        try:
            answer = await self._wire.ask(service.port, method, f"/api/v1{path}", body)
        except NoConnection:
            self.manners.refused += 1
        except NoAnswer:
            self.manners.cut += 1
        else:
            if answer.status < 500:
                self.answered += 1
                return asked_at, answer
            self.manners.faults[str(answer.json().get("code"))] += 1
            await trio.sleep(answer.retry_after_s)
        await trio.sleep(PAUSE_S)
        return asked_at, None

    def _next(self) -> Service:
        """The instances in turns, those left out that are known to be down."""
        there = [service for service in self._services if service.port]
        return there[next(self._turn) % len(there)] if there else self._services[0]


def spread(prefix: str, number: int, start_ms: float, over_ms: float) -> Iterator[tuple[str, float]]:
    """So many `(business_id, due_ms)`, evenly."""
    for index in range(number):
        yield f"{prefix}{index}", start_ms + over_ms * index / number
