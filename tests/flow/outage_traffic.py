"""Callers who go on while the store is out: every kind of call and probe, each with its time, its answer and, in the
`Ledger`, what was promised by it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import trio
from tests.flow.kit import PLAIN, Api, Receiver, Service
from tests.reliability.ledger import Change, Create, Ledger

PAUSE_S: Final = 0.12  # between the calls of one kind
PROBE_S: Final = 0.1
FAR_S: Final = 86_400
KINDS: Final = frozenset({"create", "batch", "read", "list", "change", "cancel"})
_TOLD: Final = {200: "replayed", 201: "created"}


@dataclass(frozen=True, slots=True)
class Said:
    """One answer; times in s of the loop's clock."""

    what: str
    at: float
    seconds: float
    status: int  # 0: none came
    code: str | None
    proper: bool  # problem+json with Retry-After

    @property
    def until(self) -> float:
        return self.at + self.seconds


def said(what: str, at: float, answer: httpx.Response | None) -> Said:
    """What has just been answered."""
    seconds = trio.current_time() - at
    if answer is None:
        return Said(what, at, seconds, 0, None, proper=False)
    kind = answer.headers.get("content-type", "")
    code = answer.json().get("code") if "json" in kind else None
    proper = kind.startswith("application/problem+json") and int(answer.headers.get("retry-after", 0)) > 0
    return Said(what, at, seconds, answer.status_code, code, proper)


def now_ms() -> float:
    """By the clock that the ledger is kept by."""
    return time.time() * 1000


@dataclass
class Traffic:
    """A client that asks for everything, again and again, and repeats what was not acknowledged."""

    api: Api
    receiver: Receiver
    ledger: Ledger = field(default_factory=Ledger)
    rng: random.Random = field(default_factory=lambda: random.Random(6))  # what is asked when; decides no outcome
    said: list[Said] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)  # acknowledged, to be called
    payload_bytes: int = 0  # of each task of a batch
    closing: bool = False
    _serial: int = 0

    async def run(self) -> None:
        """Until `closing`; each kind ends with the call it is at, acknowledged."""
        far = await self.create(self._body("far", FAR_S))
        async with trio.open_nursery() as kinds:
            for work in (self._one, self._one, self._batch, self._read, self._list, self._cancel):
                kinds.start_soon(self._again, work)
            kinds.start_soon(self._again, lambda: self._change(far))
        await self.cancel(far)

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self.closing:
            await work()
            await self._pause()

    async def _pause(self) -> None:
        await trio.sleep(PAUSE_S * self.rng.uniform(0.5, 1.5))

    async def _call(self, what: str, method: str, path: str, body: Any = None) -> httpx.Response | None:
        at = trio.current_time()
        answer: httpx.Response | None = None
        try:
            answer = await self.api.call(method, path, body)
        except httpx.TransportError:
            answer = None
        self.said.append(said(what, at, answer))
        return answer

    def _body(self, prefix: str, delay_s: float) -> dict[str, Any]:
        self._serial += 1
        url = f"{self.receiver.url}/{prefix}"
        return {"business_id": f"{prefix}-{self._serial}", "callback_url": url, "delay": delay_s, "retry_intervals": []}

    # --- creates ----------------------------------------------------------------------------------------------------

    async def create(self, body: dict[str, Any]) -> str:
        """The task's id, as told when the create was acknowledged at last."""
        while True:
            asked_at = now_ms()
            answer = await self._call("create", "POST", "/tasks", body)
            status = 0 if answer is None else answer.status_code
            task = answer.json() if answer is not None and answer.is_success else {}
            self._note(body["business_id"], asked_at, status, task)
            if task:
                return str(task["id"])
            await self._pause()

    def _note(self, business_id: str, asked_at: float, status: int, task: dict[str, Any]) -> None:
        result: Any = _TOLD.get(status, "unknown")
        self.ledger.add(Create("shop", business_id, asked_at, now_ms(), result, task.get("id")))

    async def _one(self) -> None:
        self.ids.append(await self.create(self._body("one", self.rng.uniform(0, 0.6))))

    async def _batch(self) -> None:
        payload = {"payload": "x" * self.payload_bytes} if self.payload_bytes else {}
        tasks = [self._body("many", self.rng.uniform(0, 0.6)) | payload for _ in range(3)]
        while True:
            asked_at = now_ms()
            answer = await self._call("batch", "POST", "/tasks/batch", {"tasks": tasks})
            results: list[dict[str, Any]] = (
                [{"status": 0}] * 3 if answer is None or not answer.is_success else answer.json()["results"]
            )
            for body, result in zip(tasks, results, strict=True):
                self._note(body["business_id"], asked_at, result["status"], result.get("task", {}))
            if all("task" in result for result in results):
                self.ids += [result["task"]["id"] for result in results]
                return
            await self._pause()

    # --- the rest ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        if self.ids:
            await self._call("read", "GET", f"/tasks/{self.rng.choice(self.ids)}")

    async def _list(self) -> None:
        await self._call("list", "GET", "/tasks?limit=5")

    async def _change(self, task_id: str) -> None:
        asked_at = now_ms()
        answer = await self._call("change", "PUT", f"/tasks/{task_id}", {"tags": [f"t{self._serial}"]})
        done = answer is not None and answer.is_success
        self.ledger.add(Change(task_id, "update", asked_at, now_ms(), "done" if done else "unknown"))

    async def _cancel(self) -> None:
        await self.cancel(await self.create(self._body("cancelled", FAR_S)))

    async def cancel(self, task_id: str) -> None:
        """Until it is acknowledged."""
        while True:
            asked_at = now_ms()
            answer = await self._call("cancel", "DELETE", f"/tasks/{task_id}")
            done = answer is not None and answer.is_success
            self.ledger.add(Change(task_id, "cancel", asked_at, now_ms(), "done" if done else "unknown"))
            if done:
                return
            await self._pause()


@dataclass
class Probes:
    """Looks at the health as a load balancer and a supervisor do."""

    service: Service
    said: list[Said] = field(default_factory=list)
    closing: bool = False

    async def run(self) -> None:
        """Until `closing`."""
        async with trio.open_nursery() as nursery:
            for path in ("live", "ready"):
                nursery.start_soon(self._look, path)

    async def _look(self, path: str) -> None:
        async with httpx.AsyncClient(trust_env=False, verify=PLAIN, timeout=20) as client:
            while not self.closing:
                at = trio.current_time()
                answer: httpx.Response | None = None
                try:
                    answer = await client.get(f"{self.service.url}/health/{path}")
                except httpx.TransportError:
                    answer = None
                self.said.append(said(path, at, answer))
                await trio.sleep(PROBE_S)
