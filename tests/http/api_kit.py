"""What the tests of the API share: the app over a store, a client, and a check of every answer against the document."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import jsonschema_rs
import trio
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers

from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.http.app import build_app
from taskcenter.http.openapi import build_document, routes_of
from taskcenter.http.openapi_parts import RATE_HEADERS
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.service.engine_port import BusinessView, WaitView
from taskcenter.service.services import Services
from taskcenter.store.engine_records import Applied, ClaimRequest, Move, OpenAttempt, Outcome
from taskcenter.store.interface import Store
from taskcenter.store.migrate import up
from taskcenter.store.records import Business, Execution, ExecutionStatus, Task
from taskcenter.store.sql_store import open_store
from taskcenter.store.vault import Vault
from taskcenter.task import SHARDS, FinishReason, Status, TaskRef

NOW: Final = 1_800_000_000_000  # 2027-01-15T08:00:00Z
ADMIN: Final = "admin-token-for-tests"
URL: Final = "https://example.com/hook"
KEYS: Final = (("k1", bytes(32)),)
JSON: Final = {"Content-Type": "application/json"}


class RecordingEngine:
    """The engine's port: notes what it is told, answers what a test set."""

    instance_id = "engine-of-the-test"

    def __init__(self) -> None:
        self.offered: list[TaskRef] = []
        self.withdrawn: list[str] = []
        self.holds_unsent: set[str] = set()  # task ids whose claimed attempt has not been sent
        self.overload: str | None = None
        self.waits: dict[str, WaitView] = {}
        self.checks: dict[str, str] = {"engine": "ok"}
        self.owned = True

    def offer(self, ref: TaskRef) -> None:
        self.offered.append(ref)

    def withdraw(self, task_id: str, business_id: int) -> bool:
        self.withdrawn.append(task_id)
        return task_id in self.holds_unsent

    def owns(self, shard: int) -> bool:
        return self.owned

    def business_changed(self, business: Business) -> None: ...

    def secrets_changed(self, business_id: int) -> None: ...

    def business_view(self, business_id: int) -> BusinessView | None:
        return None

    async def wait_view(self, shard: int, business_id: int, task_id: str) -> WaitView | None:
        return self.waits.get(task_id)

    def overloaded(self) -> str | None:
        return self.overload

    def statistics(self) -> dict[str, Any]:
        return {"wheel_timers": 0}

    def health(self) -> dict[str, str]:
        return self.checks


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Headers
    content: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def code(self) -> str:
        assert self.headers["Content-Type"] == "application/problem+json", self
        return str(self.json["code"])

    @property
    def fields(self) -> set[str]:
        """Of a 422: the fields at fault."""
        return {fault["field"] for fault in self.json["errors"]}


_documents: dict[str, dict[str, Any]] = {}
_validators: dict[tuple[int, str], Any] = {}  # by document, which stays in `_documents`, and schema


class Document:
    """The API's document, as a check of answers."""

    def __init__(self, app: QuartTrio) -> None:
        routes = str(routes_of(app))
        if routes not in _documents:
            _documents[routes] = build_document(app)  # once for all tests with these routes
        self.value = _documents[routes]
        self._paths = [(_pattern(path), path) for path in sorted(self.value["paths"], key=lambda path: path.count("{"))]

    def check(self, method: str, path: str, answer: Answer) -> None:
        """What was answered stands in the document: status, media type, shape, headers."""
        template = next((found for pattern, found in self._paths if pattern.fullmatch(path)), None)
        operation = self.value["paths"].get(template, {}).get("get" if method == "HEAD" else method.lower())
        if operation is None:
            assert answer.status in {404, 405}, f"{method} {path} is served and not documented"
            return
        described = operation["responses"].get(str(answer.status))
        assert described is not None, f"{method} {template}: {answer.status} is not documented"
        if "$ref" in described:
            described = self.value["components"]["responses"][described["$ref"].rpartition("/")[2]]
        missing = [name for name in described["headers"] if name not in answer.headers and name not in RATE_HEADERS]
        assert not missing, f"{method} {template}: {missing} are documented and not sent"
        media_type = answer.headers["Content-Type"].partition(";")[0]
        if method != "HEAD" and media_type.endswith("json"):
            self._check_shape(described["content"][media_type]["schema"], answer)

    def _check_shape(self, schema: Mapping[str, Any], answer: Answer) -> None:
        key = (id(self.value), json.dumps(schema, sort_keys=True))
        if key not in _validators:  # compiling one takes longer than most calls
            _validators[key] = jsonschema_rs.validator_for({**schema, "components": self.value["components"]})
        for error in _validators[key].iter_errors(answer.json):
            raise AssertionError(f"{error.instance_path}: {error.message}")


def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"({[a-z_]+})", template)
    inside = {"{business_id}": ".+"}
    return re.compile("".join(inside.get(part, "[^/]+") if part.startswith("{") else re.escape(part) for part in parts))


@dataclass
class Api:
    """A served API. `call` speaks for the business `orders`, unless told otherwise."""

    app: QuartTrio
    store: Store
    services: Services
    engine: RecordingEngine
    metrics: Metrics
    clock: Clock
    document: Document
    keys: dict[str, str] = field(default_factory=dict)  # business code → its API key
    _terms: dict[int, int] = field(default_factory=dict)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        by: str | None = "orders",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask below /api/v1 (a path that starts with `//`: at the root). `by`: a business, "admin", or nobody."""
        whole = path[1:] if path.startswith("//") else f"/api/v1{path}"
        sent = Headers()
        if by is not None:
            sent["Authorization"] = f"Bearer {ADMIN if by == 'admin' else self.keys[by]}"
        if body is not None:
            content = json.dumps(body).encode()
        if content is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        client: Any = self.app.test_client()  # whose `json` the type says is needed, and is not
        response = await client.open(
            whole, method=method, headers=sent, data=content, query_string=dict(query) if query else None
        )
        answer = Answer(response.status_code, response.headers, await response.get_data(as_text=False))
        self.document.check(method, whole.partition("?")[0], answer)
        return answer

    async def create(self, business_id: str = "a", *, by: str = "orders", **fields: Any) -> dict[str, Any]:
        """A task, created."""
        answer = await self.call("POST", "/tasks", {"business_id": business_id, "callback_url": URL, **fields}, by=by)
        assert answer.status == 201, answer.json
        created: dict[str, Any] = answer.json
        return created

    async def register(self, code: str, **fields: Any) -> None:
        """A further business."""
        answer = await self.call(
            "POST", "/businesses", {"business_code": code, "business_name": code.title(), **fields}, by="admin"
        )
        assert answer.status == 201, answer.json
        self.keys[code] = answer.json["api_key"]

    # --- what the engine would do ---------------------------------------------------------------------------------

    async def claim(self, task_id: str, by: str = "orders") -> Task:
        """The task, taken for an attempt: `running`."""
        if not self._terms:
            await self.store.leases.register("owner", address=None, host_identity="", ttl_ms=600_000)
            self._terms = await self.store.leases.acquire("owner", range(SHARDS))
        ref = await self._row(task_id, by)
        term = self._terms[ref.shard]
        (claimed,) = await self.store.engine.claim(
            [ClaimRequest(task_id, ref.version, ref.shard, term)], self.clock.now_ms()
        )
        return claimed

    async def take_over(self) -> tuple[list[Task], list[OpenAttempt]]:
        """The instance that owned the shards is lost, another takes over: what it left running, as it is now, and the
        attempts of cancelled tasks that it left on their way.
        """
        if not self._terms:
            return [], []
        heir = f"heir-{max(self._terms.values())}"
        for shard in await self.store.leases.shards():
            if shard.owner is not None:
                await self.store.leases.retire(shard.owner)
                break
        await self.store.leases.register(heir, address=None, host_identity="", ttl_ms=600_000)
        self._terms = await self.store.leases.acquire(heir, range(SHARDS))
        now = self.clock.now_ms()
        lost = await self.store.engine.recover(self._terms, now, 1000)
        return lost, await self.store.engine.recover_cancelled(self._terms, now, 1000)

    async def attempt(
        self, task_id: str, *, status: Status, at: int | None = None, by: str = "orders", **execution: Any
    ) -> None:
        """An attempt that began now and took 40 ms; the task is then in `status` (due at `at` if it waits)."""
        task = await self.claim(task_id, by)
        now = self.clock.now_ms()
        failed = status in {Status.RETRYING, Status.FAILED}
        history = Execution(
            task_id=task.id, business_id=task.business_id, number=task.sends, run=task.run,
            attempt=task.current_retry + 1, term=task.term, scheduled_at=task.scheduled_at, started_at=now,
            **{
                "status": ExecutionStatus.HTTP_ERROR if failed else ExecutionStatus.SUCCESS, "duration_ms": 40.25,
                "lateness_ms": 3.5, **execution,
            },
        )  # fmt: skip
        reasons = {Status.FAILED: FinishReason.RETRIES_EXHAUSTED, Status.STOPPED: FinishReason.RECEIVER_STOPPED}
        move = Move(
            status=status, current_retry=task.current_retry + failed, deferrals=0, run=task.run,
            runs_done=task.runs_done, next_execute_at=at, finish_reason=reasons.get(status),
            last_error="HTTP 500" if failed else None,
        )  # fmt: skip
        (recorded,) = await self.store.engine.record(
            [Outcome(task.id, task.business_id, task.version, task.term, task.sends, history, move)], now
        )
        assert isinstance(recorded, Applied)

    async def _row(self, task_id: str, by: str) -> Task:
        business = await self.store.businesses.get(by)
        assert business is not None
        task = await self.store.tasks.get(business.id, task_id)
        assert task is not None
        return task


@asynccontextmanager
async def serve(url: str, *, in_loop: bool, **settings_of_test: Any) -> AsyncGenerator[Api, None]:
    """The app over the store at `url`, with the business `orders`."""
    up(url)
    rng = random.Random(7)
    metrics, clock, engine = Metrics(), Clock(NOW if in_loop else None), RecordingEngine()
    store = open_store(url, Vault(KEYS), in_loop=in_loop, durable=False, metrics=metrics)
    settings = Settings(**{"admin_token": ADMIN, "api_burst": 100_000, **settings_of_test})
    await store.open()
    services = Services.build(
        store=store, settings=settings, keys=KEYS, clock=clock, ids=IdSource(rng), metrics=metrics, engine=engine,
        egress=EgressPolicy(), random_bytes=rng.randbytes,
    )  # fmt: skip
    app = build_app(services, settings, metrics, clock)
    api = Api(app, store, services, engine, metrics, clock, Document(app))
    async with trio.open_nursery() as background:
        await services.start_admin_token()
        await background.start(services.run)
        await api.register("orders")
        try:
            yield api
        finally:
            await services.flush()
            background.cancel_scope.cancel()
    await store.aclose()
