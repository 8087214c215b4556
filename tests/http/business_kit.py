"""For the tests of businesses and authentication: instances of the service that may share a store, asked from any
address.

The store is SQLite in memory in the event loop, so time is virtual. Every answer is held against the API's document.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import trio
from quart_trio import QuartTrio
from tests.http.api_kit import Answer, Document, RecordingEngine
from werkzeug.datastructures import Headers

from taskcenter.actors.egress.policy import EgressPolicy
from taskcenter.clock import Clock
from taskcenter.config import Settings
from taskcenter.http.app import build_app
from taskcenter.http.containment import CLIENT_LEFT
from taskcenter.ids import IdSource
from taskcenter.metrics import Metrics
from taskcenter.service.engine_port import BusinessView
from taskcenter.service.services import Services
from taskcenter.store.records import Business
from taskcenter.store.sql_store import SqlStore, open_store
from taskcenter.store.url import SqliteUrl
from taskcenter.store.vault import Vault

KEYS: Final = (("k1", bytes(range(32))),)
ADMIN: Final = "the-admin-token-of-these-tests"
START_MS: Final = 1_800_000_000_000  # 2027-01-15T08:00:00Z
HERE: Final = "192.0.2.1"
Sent = list[tuple[str, str]]  # headers


def bearer(text: str) -> Sent:
    return [("Authorization", f"Bearer {text}")]


class BusinessEngine(RecordingEngine):
    """Notes besides which businesses changed, and shows the live state a test set."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: list[Business] = []
        self.views: dict[int, BusinessView] = {}

    def business_changed(self, business: Business) -> None:
        self.changed.append(business)

    def business_view(self, business_id: int) -> BusinessView | None:
        return self.views.get(business_id)


@dataclass
class Instance:
    """One process of the service."""

    app: QuartTrio
    store: SqlStore
    services: Services
    engine: BusinessEngine
    metrics: Metrics
    clock: Clock
    document: Document

    async def call(
        self,
        method: str,
        path: str,
        credential: str | None = ADMIN,
        body: object = None,
        *,
        ip: str = HERE,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """Ask below /api/v1, with `credential` as bearer unless it is None."""
        sent = Headers(list(headers))
        if credential is not None:
            sent.add("Authorization", f"Bearer {credential}")
        content = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        client: Any = self.app.test_client()  # whose `json` the type says is needed, and is not
        response = await client.open(
            f"/api/v1{path}", method=method, headers=sent, data=content, scope_base={"client": (ip, 4711)}
        )
        answer = Answer(response.status_code, response.headers, await response.get_data(as_text=False))
        self.document.check(method, f"/api/v1{path}".partition("?")[0], answer)
        return answer

    async def ask_and_leave(self, path: str, body: object, turns: int) -> None:
        """POST as the admin, and disconnect after so many turns of the scheduler, answered or not."""
        messages: list[Any] = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            await trio.lowlevel.checkpoint()

        headers = [(b"authorization", f"Bearer {ADMIN}".encode()), (b"content-type", b"application/json")]
        scope: Any = {
            "type": "http", "asgi": {}, "http_version": "1.1", "method": "POST", "scheme": "http", "root_path": "",
            "path": f"/api/v1{path}", "raw_path": f"/api/v1{path}".encode(), "query_string": b"", "headers": headers,
            "client": (HERE, 4711), "server": None, "extensions": {},
        }  # fmt: skip
        try:
            await self.app(scope, receive, send)
        except* CLIENT_LEFT:
            pass  # nobody is there to be answered; the server takes it so too

    async def register(self, code: str = "orders", **fields: Any) -> dict[str, Any]:
        """A new business, as its admin sees it."""
        answer = await self.call("POST", "/businesses", body={"business_code": code, "business_name": code, **fields})
        assert answer.status == 201, answer.json
        made: dict[str, Any] = answer.json
        return made

    async def rotate(self, credential: str, code: str = "orders", **body: Any) -> dict[str, Any]:
        answer = await self.call("PUT", f"/businesses/{code}/credentials", credential, body)
        assert answer.status == 200, answer.json
        rotated: dict[str, Any] = answer.json
        return rotated

    async def token(self, api_key: str, code: str = "orders", **body: Any) -> str:
        answer = await self.call("POST", f"/businesses/{code}/tokens", api_key, body)
        assert answer.status == 201, answer.json
        return str(answer.json["token"])

    async def may(self, credential: str, **more: Any) -> int:
        """The status of a read with this credential."""
        return (await self.call("GET", "/tasks", credential, **more)).status

    async def audit(self, code: str | None = "orders") -> list[dict[str, Any]]:
        """The newest entries, once all are written; None: the system's."""
        await trio.sleep(0.2)
        path = "/audit" if code is None else f"/businesses/{code}/audit"
        items: list[dict[str, Any]] = (await self.call("GET", f"{path}?limit=200")).json["items"]
        return items

    def auth_count(self, business: str, result: str, reason: str) -> float:
        labels = {"business": business, "result": result, "reason": reason}
        return self.metrics.registry.get_sample_value("taskcenter_auth_total", labels) or 0.0


async def memory_store(keys: tuple[tuple[str, bytes], ...] = KEYS) -> SqlStore:
    store = open_store(SqliteUrl(":memory:"), Vault(keys), in_loop=True)
    await store.open()
    await store.create_schema()
    return store


@asynccontextmanager
async def instance(
    store: SqlStore | None = None,
    *,
    seed: int = 1,
    keys: tuple[tuple[str, bytes], ...] = KEYS,
    now: int = START_MS,
    starts_admin: bool = True,
    **settings: Any,
) -> AsyncGenerator[Instance, None]:
    """`store`: another instance's, to share it; it stays open."""
    shared = store
    store = await memory_store(keys) if shared is None else shared
    rng = random.Random(seed)
    clock, metrics, engine = Clock(now), Metrics(), BusinessEngine()
    configured = Settings(**{"admin_token": ADMIN, **settings})
    services = Services.build(
        store=store, settings=configured, keys=keys, clock=clock, ids=IdSource(rng), metrics=metrics, engine=engine,
        egress=EgressPolicy(), random_bytes=rng.randbytes,
    )  # fmt: skip
    app = build_app(services, configured, metrics, clock)
    async with trio.open_nursery() as background:
        if starts_admin:
            await services.start_admin_token()
        await background.start(services.run)
        try:
            yield Instance(app, store, services, engine, metrics, clock, Document(app))
        finally:
            await services.flush()
            background.cancel_scope.cancel()
    if shared is None:
        await store.aclose()
