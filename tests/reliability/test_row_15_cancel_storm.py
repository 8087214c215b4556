"""Row 15: hundreds of clients vanish in the midst of creates, batches, changes and cancels, on every store.

Each sends its request and resets the connection 0 to 50 ms later. Beside them others wait for their answers: what they
were told must be there afterwards, no transaction may have stayed open, and the service must be as it was.
TASKCENTER_CLIENTS: how many vanish (1000).
"""

from __future__ import annotations

import json
import os
import random
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from tests.flow.kit import Service, business, metric, running
from tests.flow.outage_kit import Watched, refused_properly, settled, watched
from tests.flow.outage_traffic import now_ms
from tests.reliability.conftest import Figure
from tests.reliability.ledger import Change, Create
from tests.servers import PrivateServer
from tests.store.connection_kit import by_hand

pytestmark = pytest.mark.real_time
CLIENTS: Final = int(os.environ.get("TASKCENTER_CLIENTS", "1000"))
AT_ONCE: Final = 16
GONE_AFTER_S: Final = 0.05
STUCK_S: Final = 6  # twice a lock's longest wait: an open transaction this old is nobody's
ABORT: Final = struct.pack("ii", 1, 0)


class Storm:
    """Clients that do not wait for what they asked."""

    def __init__(self, on: Watched, token: str) -> None:
        self._on = on
        self._token = token
        self._rng = random.Random(15)
        self._left = CLIENTS
        self.vanished = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(self._one_after_another)

    async def _one_after_another(self) -> None:
        while self._left:
            self._left -= 1
            request = self._request(*self._asked(self._left))
            await vanish(self._on.service, request, self._rng.uniform(0, GONE_AFTER_S))
            self.vanished += 1

    def _request(self, method: str, path: str, body: Any) -> bytes:
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} /api/v1{path} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {self._token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def _asked(self, number: int) -> tuple[str, str, Any]:
        kind = number % 4
        if kind == 0:
            return "POST", "/tasks", self._task(f"gone-{number}")
        if kind == 1:
            return "POST", "/tasks/batch", {"tasks": [self._task(f"gone-{number}-{item}") for item in range(5)]}
        task_id = self._rng.choice(self._on.traffic.ids)
        kinds: Any = ("update", "cancel")[kind - 2]
        self._on.traffic.ledger.add(Change(task_id, kinds, now_ms(), now_ms() + 60_000, "unknown"))
        if kind == 2:
            return "PUT", f"/tasks/{task_id}", {"tags": [f"gone-{number}"]}
        return "DELETE", f"/tasks/{task_id}", None

    def _task(self, business_id: str) -> dict[str, Any]:
        self._on.traffic.ledger.add(Create("shop", business_id, now_ms(), now_ms() + 60_000, "unknown"))
        url = f"{self._on.receiver.url}/gone"
        return {"business_id": business_id, "callback_url": url, "retry_intervals": []}


async def vanish(service: Service, request: bytes, after_s: float) -> None:
    """Ask, and reset the connection `after_s` later, whatever has come by then."""
    stream = await trio.open_tcp_stream("127.0.0.1", service.port)
    try:
        await stream.send_all(request)
        await trio.sleep(after_s)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    finally:
        await trio.aclose_forcefully(stream)


@dataclass(frozen=True, slots=True)
class Place:
    """A database, and the server it is on; None: a SQLite file."""

    url: str
    server: PrivateServer | None

    def open_transactions(self, older_than_s: int) -> int:
        """Of the service. SQLite tells only whether somebody holds the write lock."""
        if self.server is None:
            return len(by_hand(self.url, "BEGIN IMMEDIATE"))  # raises when it is held for the driver's 5 s
        found = self.server.execute(
            "SELECT COUNT(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p"
            " ON p.id = t.trx_mysql_thread_id WHERE p.db = %s AND t.trx_started <= NOW() - INTERVAL %s SECOND",
            (self.url.rpartition("/")[2], older_than_s),
        )
        return int(found[0][0])


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path / 'taskcenter.db'}", None)
    server: PrivateServer = request.getfixturevalue(f"{request.param}_server")
    return Place(server.create_database(), server)


async def watch_transactions(place: Place, seen: list[int]) -> None:
    while True:
        seen.append(await trio.to_thread.run_sync(place.open_transactions, STUCK_S))
        await trio.sleep(0.5)


async def until_quiet(service: Service, place: Place, timeout_s: float = 10.0) -> None:
    """Return when the service has no transaction open and no connection in use."""
    with trio.fail_after(timeout_s):
        while place.open_transactions(0) or await metric(service, "db_pool_in_use"):
            await trio.sleep(0.1)


async def test_clients_that_vanish_leave_nothing_open(place: Place, tmp_path: Path, figure: Figure) -> None:
    stuck: list[int] = []
    async with running(place.url, tmp_path) as (service, receiver), business(service) as api:
        async with watched(service, receiver, api) as on, trio.open_nursery() as watching:
            watching.start_soon(watch_transactions, place, stuck)
            storm = Storm(on, api.token)
            await storm.run()
            stormed = len(on.traffic.said)
            await on.normal(trio.current_time())
            watching.cancel_scope.cancel()
        books = await settled(on, place.url)
        await until_quiet(service, place)
        failed = [one for one in on.traffic.said if one.status >= 500]
        waited = on.traffic.said[:stormed]
        figure("clients vanished", storm.vanished)
        figure("transactions open for more than 6 s, at most", max(stuck))
        figure("transactions open afterwards", place.open_transactions(0))
        figure("calls beside them, refused", f"{len(waited)}, {len(failed)}")
        figure("their longest", max(one.seconds for one in waited), "s")
        figure("acknowledged tasks, lost 0", books.acknowledged)
        assert max(stuck) == 0
        assert not books.violations, str(books)
        assert not [one for one in failed if not refused_properly(one)], failed[:3]
        assert service.running
        assert "a write failed after its client had gone" not in service.log_text()
