"""The service that crashes at a named point: run as `python -m tests.reliability.crashing serve …`.

Nothing in the service knows of it: before it is started, functions of it are wrapped. `CRASH_POINT` is the point,
`CRASH_HIT` how often it is passed unharmed and once; then the process ends on the spot, with `os._exit` or SIGKILL. A
point inside a transaction is passed after each of its statements, and once more when its COMMIT was answered.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final

import trio

from taskcenter.actors.attempt import Attempt
from taskcenter.actors.egress.http1 import Http1Connection
from taskcenter.store.audit import SqlAuditStore
from taskcenter.store.connection import Connection, Param, Row
from taskcenter.store.engine import SqlEngineStore
from taskcenter.store.leases import SqlLeaseStore
from taskcenter.store.mysql import MysqlDatabase
from taskcenter.store.sqlite import SqliteDatabase
from taskcenter.store.tasks import SqlTaskStore

STATUS: Final = 77  # of a process that ended at its point
POISON: Final = b" /poison "  # the path of a callback whose sending kills the sender
_inside: ContextVar[str | None] = ContextVar("inside", default=None)  # the point whose transaction this task runs


class Countdown:
    """To the end. Passed from the loop and from the embedded store's threads."""

    def __init__(self, point: str, hit: int) -> None:
        self.point = point
        self._left = hit
        self._lock = threading.Lock()

    def passed(self, point: str | None) -> None:
        if point != self.point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os._exit(STATUS)


class Stepped:
    """A connection that tells of every statement that has been run on it."""

    def __init__(self, inner: Connection, passed: Callable[[], None]) -> None:
        self._inner = inner
        self._passed = passed

    @property
    def dialect(self) -> Any:
        return self._inner.dialect

    @property
    def server(self) -> Any:
        return self._inner.server

    async def _after(self, statement: Awaitable[Any]) -> Any:
        result = await statement
        self._passed()
        return result

    async def execute(self, sql: str, params: Sequence[Param] = ()) -> int:
        return int(await self._after(self._inner.execute(sql, params)))

    async def execute_insert_id(self, sql: str, params: Sequence[Param] = ()) -> int:
        return int(await self._after(self._inner.execute_insert_id(sql, params)))

    async def last_insert_id(self) -> int:
        return await self._inner.last_insert_id()

    async def fetch(self, sql: str, params: Sequence[Param] = ()) -> list[Row]:
        return list(await self._after(self._inner.fetch(sql, params)))

    async def fetch_one(self, sql: str, params: Sequence[Param] = ()) -> Row | None:
        rows = await self.fetch(sql, params)
        return rows[0] if rows else None

    async def insert_many(self, sql: str, rows: Sequence[Sequence[Param]]) -> int:
        return int(await self._after(self._inner.insert_many(sql, rows)))


def arm(count: Countdown) -> None:
    """Wrap what the points are in."""
    for database in (MysqlDatabase, SqliteDatabase):
        _wrap_writes(database, count)
    _in_commit(SqlEngineStore, "claim", "claim, before its commit", count, committed=False)
    _after_commit(SqlEngineStore, "claim", "claim, after its commit", count)
    _on_entry(Http1Connection, "exchange", "send, before", count)
    _on_entry(Http1Connection, "_read_answer", "send, after", count)
    _on_entry(Attempt, "_record", "answer, before its outcome", count)
    _in_commit(SqlEngineStore, "record", "outcome", count)
    _in_commit(SqlEngineStore, "recover", "recovery", count)
    _in_commit(SqlLeaseStore, "acquire", "acquire", count)
    _in_commit(SqlLeaseStore, "release", "release", count)
    _in_commit(SqlLeaseStore, "retire", "release", count)
    _in_commit(SqlTaskStore, "create", "create", count, when=lambda tasks, *_: len(tasks) < 10)
    _in_commit(SqlTaskStore, "create", "batch", count, when=lambda tasks, *_: len(tasks) >= 10)
    _in_commit(SqlTaskStore, "cancel", "cancel", count)
    _in_commit(SqlAuditStore, "append", "audit", count)


POINTS: Final = (
    "claim, before its commit", "claim, after its commit", "send, before", "send, after", "answer, before its outcome",
    "outcome", "recovery", "acquire", "release", "create", "batch", "cancel", "audit",
)  # fmt: skip


def _wrap_writes(database: Any, count: Countdown) -> None:
    name = "write" if database is MysqlDatabase else "write_as"  # a lane of the embedded store has its own `write`
    original = getattr(database, name)

    @wraps(original)
    async def write(self: Any, work: Callable[[Any], Awaitable[Any]], **named: Any) -> Any:
        point = _inside.get()
        if point is None:
            return await original(self, work, **named)

        async def stepped(connection: Connection) -> Any:
            return await work(Stepped(connection, lambda: count.passed(point)))

        return await original(self, stepped, **named)

    setattr(database, name, write)


def _always(*_: Any) -> bool:
    return True


def _in_commit(
    owner: Any,
    name: str,
    point: str,
    count: Countdown,
    *,
    committed: bool = True,
    when: Callable[..., bool] = _always,
) -> None:
    original = getattr(owner, name)

    @wraps(original)
    async def verb(self: Any, *given: Any, **named: Any) -> Any:
        if point != count.point or not when(*given):
            return await original(self, *given, **named)
        token = _inside.set(point)
        try:
            result = await original(self, *given, **named)
        finally:
            _inside.reset(token)
        if committed:
            count.passed(point)
        return result

    setattr(owner, name, verb)


def _after_commit(owner: Any, name: str, point: str, count: Countdown) -> None:
    original = getattr(owner, name)

    @wraps(original)
    async def verb(self: Any, *given: Any, **named: Any) -> Any:
        result = await original(self, *given, **named)
        count.passed(point)
        return result

    setattr(owner, name, verb)


def _on_entry(owner: Any, name: str, point: str, count: Countdown) -> None:
    original = getattr(owner, name)

    @wraps(original)
    async def entered(self: Any, *given: Any, **named: Any) -> Any:
        count.passed(point)
        return await original(self, *given, **named)

    setattr(owner, name, entered)


def poison() -> None:
    """Sending a callback to `/poison` kills the sender: the request is out, and that was all."""
    original = Http1Connection.exchange

    async def exchange(self: Any, method: str, message: bytes, progress: Any) -> Any:
        if POISON in message.partition(b"\r\n")[0]:
            self._wire.begin_send(message)
            await trio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        return await original(self, method, message, progress)

    Http1Connection.exchange = exchange  # type: ignore[method-assign]  # that is the point


def main() -> None:
    """`taskcenter`, to its point."""
    poison()
    if point := os.environ.get("CRASH_POINT"):
        assert point in POINTS, point
        arm(Countdown(point, int(os.environ["CRASH_HIT"])))
    from taskcenter.__main__ import main as taskcenter

    taskcenter()


if __name__ == "__main__":
    main()
