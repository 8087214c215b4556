"""Traffic of every kind that leaves no more active tasks behind than it found, for as long as it is let go on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from random import Random
from typing import Any

import trio
from tests.flow.kit import ADMIN_TOKEN, Service
from tests.reliability.moods import Answers
from tests.reliability.recorder import Caller, now_ms
from tests.reliability.wire import NoAnswer, Wire

FAR = {"delay": 86_400}
PAGES = ("/docs", "/openapi.json", "/health", "/health/live", "/health/ready")
NONSENSE = (
    b"GET / HTTP/9\r\n\r\n",
    b"\x16\x03\x01",
    b"POST /api/v1/tasks HTTP/1.1\r\nHost: t\r\nContent-Length: 9\r\n\r\n{",
)
FAULTY: tuple[Any, ...] = (
    {},
    {"business_id": "x"},
    {"business_id": "x", "callback_url": "ftp://x"},
    {"tasks": 1},
    [],
    "x",
    None,
)


@dataclass(frozen=True, slots=True)
class Targets:
    """Where callbacks go."""

    answers: Answers
    url: str  # of the receiver that answers by `answers`
    bad: Mapping[str, str]  # URLs of receivers that do not answer, by mood
    finish: str


class Soak:
    """Each kind of call again and again, a pause after each, until `stop`. `moody` alone is called where no book is
    kept: its books hold what was acknowledged.
    """

    def __init__(self, service: Service, callers: Sequence[Caller], moody: Caller, targets: Targets) -> None:
        self._service = service
        self._callers = callers
        self._moody = moody
        self._targets = targets
        self._rng = Random(25)
        self._number = count()
        self._recent: deque[tuple[Caller, str]] = deque(maxlen=100)
        self._stopping = False
        self.asked: Counter[str] = Counter()
        self.unavailable = 0
        self.odd: Counter[str] = Counter()  # answers that are not what the call should get

    def stop(self) -> None:
        """Ask for nothing more; `run` returns when what was begun has ended."""
        self._stopping = True

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for kind, (pause_s, work) in self._kinds().items():
                nursery.start_soon(self._again, kind, pause_s, work)

    def _kinds(self) -> dict[str, tuple[float, Callable[[], Awaitable[None]]]]:
        """How long the pause after each is, in s."""
        return {
            "batch": (0.5, self._batch),
            "create": (0.15, self._create),
            "replay": (1, self._replay),
            "cancel": (0.3, partial(self._far, "cancel")),
            "run": (0.5, partial(self._far, "run")),
            "redeliver": (0.5, self._redeliver),
            "cancel many": (3, self._cancel_many),
            "recurring": (3, self._recurring),
            "finish call": (1, self._with_finish),
            "bad receiver": (0.4, self._bad_receiver),
            "look": (0.1, self._look),
            "read": (0.3, self._read),
            "list": (0.4, self._list),
            "business": (4, self._business),
            "refused": (0.3, self._refused),
            "wrong key": (5, self._wrong_key),
            "token": (3, self._token),
            "scrape": (5, partial(self._as_admin, "GET", "/metrics")),
            "page": (1, self._page),
            "nonsense": (0.5, self._nonsense),
        }  # fmt: skip

    async def _again(self, kind: str, pause_s: float, work: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping:
            await work()
            self.asked[kind] += 1
            await trio.sleep(pause_s * self._rng.uniform(0.5, 1.5))

    def _any(self) -> Caller:
        return self._rng.choice(self._callers)

    def _name(self) -> str:
        return f"n{next(self._number)}"

    def _url(self, name: str | None = None) -> str:
        answers = self._targets.answers
        return f"{self._targets.url}/{answers.any_path() if name is None else answers.paths[name]}"

    def _expect(self, status: int, *wanted: int) -> None:
        if status == 503:  # as a busy machine may make it answer
            self.unavailable += 1
        elif status not in wanted:
            self.odd[f"{status} for {wanted}"] += 1

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _batch(self) -> None:
        caller, now = self._any(), now_ms()
        tasks = [(self._name(), now + self._rng.uniform(0, 3000)) for _ in range(8)]
        ids = await caller.create_many(tasks, callback_url=self._url(), retry_intervals=[1, 1], payload="x" * 500)
        self._recent.extend((caller, task_id) for task_id in ids)

    async def _create(self) -> None:
        caller = self._any()
        task_id = await caller.create(self._name(), callback_url=self._url(), retry_intervals=[1])
        assert task_id is not None
        self._recent.append((caller, task_id))

    async def _replay(self) -> None:
        """The same again, and something else by the same name."""
        caller, name = self._any(), self._name()
        first = await caller.create(name, callback_url=self._url("well"), payload=1)
        again = await caller.create(name, callback_url=self._url("well"), payload=1)
        other = await caller.create(name, callback_url=self._url("well"), payload=2)
        if again != first or other is not None:
            self.odd["no replay"] += 1

    async def _far(self, then: str) -> None:
        """A task of tomorrow that is changed, and cancelled or run today."""
        caller = self._any()
        task_id = await caller.create(self._name(), **FAR, callback_url=self._url("well"), tags=["far"])
        assert task_id is not None
        await caller.change("update", task_id, {"tags": ["near"], "payload": "y" * 2000})
        await trio.sleep(0.2)
        await caller.change(then, task_id)

    async def _redeliver(self) -> None:
        if self._recent:
            caller, task_id = self._rng.choice(self._recent)
            await caller.change("redeliver", task_id)  # 409 while it is active

    async def _cancel_many(self) -> None:
        caller, tag = self._any(), self._name()
        ids = [await caller.create(f"{tag}-{n}", **FAR, callback_url=self._url("well"), tags=[tag]) for n in range(5)]
        reply = await caller.ask("DELETE", f"/tasks?tag={tag}&limit=10")
        if reply.json().get("cancelled") != len(ids):
            self.odd["not all were cancelled"] += 1

    async def _recurring(self) -> None:
        schedule = {"every": 1, "max_runs": 4}
        await self._any().create(self._name(), callback_url=self._url("slow"), schedule=schedule, retry_intervals=[])

    async def _with_finish(self) -> None:
        url = self._url(self._rng.choice(("well", "gone", "mended")))
        await self._any().create(self._name(), callback_url=url, retry_intervals=[1], finish_url=self._targets.finish)

    async def _bad_receiver(self) -> None:
        url = self._rng.choice(list(self._targets.bad.values()))
        await self._moody.create(self._name(), callback_url=url, retry_intervals=[], timeout=1)

    # --- reads ------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        if self._recent:
            caller, task_id = self._rng.choice(self._recent)
            await caller.look(task_id)

    async def _read(self) -> None:
        if self._recent:
            caller, task_id = self._rng.choice(self._recent)
            reply = await caller.ask("GET", f"/tasks/{task_id}/{self._rng.choice(('executions', 'explain'))}")
            self._expect(reply.status, 200)

    async def _list(self) -> None:
        where = self._rng.choice(("status=succeeded", "status=pending", "tag=near", "callback_host=127.0.0.1"))
        reply = await self._any().ask("GET", f"/tasks?limit={self._rng.choice((5, 50))}&{where}")
        self._expect(reply.status, 200)

    async def _business(self) -> None:
        caller = self._any()
        for path in ("", "/stats", "/audit?limit=20"):
            self._expect((await caller.ask("GET", f"/businesses/{caller.code}{path}")).status, 200)
        await self._as_admin("GET", "/api/v1/stats")
        name = {"business_name": f"called {next(self._number)}"}
        await self._as_admin("PUT", f"/api/v1/businesses/{caller.code}", name)

    # --- those that are wrong, or strange ---------------------------------------------------------------------------

    async def _refused(self) -> None:
        self._expect((await self._any().ask("POST", "/tasks", self._rng.choice(FAULTY))).status, 400, 415, 422)
        self._expect((await self._any().ask("GET", f"/tasks/{self._name()}")).status, 404)

    async def _wrong_key(self) -> None:
        await self._ask_once(f"tc_live_{self._name()}", "GET", "/api/v1/tasks", None, 401, 429)

    async def _token(self) -> None:
        caller = self._any()
        issued = await caller.ask("POST", f"/businesses/{caller.code}/tokens", {})
        await self._ask_once(issued.json()["token"], "GET", "/api/v1/tasks?limit=3", None, 200)

    async def _page(self) -> None:
        await self._as_admin("GET", self._rng.choice(PAGES))

    async def _as_admin(self, method: str, path: str, body: object = None) -> None:
        await self._ask_once(ADMIN_TOKEN, method, path, body, 200)

    async def _ask_once(self, token: str, method: str, path: str, body: object, *wanted: int) -> None:
        """Over a connection of its own."""
        wire = Wire(token, timeout_s=20)
        try:
            self._expect((await wire.ask(self._service.port, method, path, body)).status, *wanted)
        except NoAnswer as error:
            self.odd[f"no answer to {path}: {error}"] += 1
        finally:
            await wire.aclose()

    async def _nonsense(self) -> None:
        """Something that is no request, and away."""
        stream = await trio.open_tcp_stream("127.0.0.1", self._service.port)
        try:
            await stream.send_all(self._rng.choice(NONSENSE))
            await trio.sleep(self._rng.uniform(0, 0.3))
        finally:
            await trio.aclose_forcefully(stream)
