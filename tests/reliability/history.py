"""What the store holds of a trial, read past the service: the rows the judge compares with everybody's books."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trio
from tests.reliability.ledger import Execution, TaskRow
from tests.servers import PrivateServer

from taskcenter.task import ACTIVE

_ACTIVE = ", ".join(f"'{status}'" for status in sorted(ACTIVE))
_TASKS = (
    "SELECT id, business_code, business_unique_id, status, retry_intervals, schedule IS NOT NULL, kind = 'finish'"
    " FROM tasks ORDER BY id"
)
_EXECUTIONS = (
    "SELECT task_id, number, run, attempt, term, status, scheduled_at, execution_time, duration,"
    " response_status, policy_wait_ms, wait_reason FROM task_executions ORDER BY task_id, number"
)


@dataclass(frozen=True, slots=True)
class Running:
    """A task with an attempt on its way."""

    task_id: str
    run: int
    attempt: int
    term: int


class History:
    """Reads in a thread, as the server's administrator, so that neither the loop nor the service is held up."""

    def __init__(self, server: PrivateServer, url: str) -> None:
        self._server = server
        self.database = urlsplit(url).path.removeprefix("/")

    async def fetch(self, sql: str) -> list[tuple[Any, ...]]:
        return await trio.to_thread.run_sync(self._fetch, sql)

    def _fetch(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._server.connect(self.database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    async def rows(self) -> list[TaskRow]:
        """Every task with its executions."""
        executions: dict[str, list[Execution]] = defaultdict(list)
        for (
            task_id,
            number,
            run,
            attempt,
            term,
            status,
            due,
            started,
            duration,
            answer,
            waited,
            reason,
        ) in await self.fetch(_EXECUTIONS):
            one = Execution(
                number, run, attempt, term, _text(status), due, started, started + float(duration), answer,
                float(waited), reason and _text(reason),
            )  # fmt: skip
            executions[_text(task_id)].append(one)
        return [
            TaskRow(
                _text(task_id),
                _text(business),
                _text(business_id),
                _text(status),
                tuple(executions[_text(task_id)]),
                tuple(json.loads(_text(intervals))),
                recurring=bool(recurring),
                derived=bool(derived),
            )
            for task_id, business, business_id, status, intervals, recurring, derived in await self.fetch(_TASKS)
        ]

    async def active(self) -> int:
        """Tasks that have not ended."""
        return int((await self.fetch(f"SELECT COUNT(*) FROM tasks WHERE status IN ({_ACTIVE})"))[0][0])

    async def running(self, owner: str | None = None) -> list[Running]:
        """Tasks that are claimed, of this instance's shards or of all."""
        mine = f"JOIN shards s ON s.shard = t.shard AND s.owner = '{owner}'" if owner else ""
        found = await self.fetch(
            f"SELECT t.id, t.run, t.current_retry + 1, t.term FROM tasks t {mine} WHERE t.status = 'running'"
        )
        return [Running(_text(task_id), run, attempt, term) for task_id, run, attempt, term in found]

    async def owners(self) -> dict[int, tuple[str | None, int]]:
        """Owner and term of each shard."""
        found = await self.fetch("SELECT shard, owner, term FROM shards")
        return {shard: (owner and _text(owner), term) for shard, owner, term in found}

    async def until_settled(self, timeout_s: float) -> None:
        """Return when every task has ended. Raises `trio.TooSlowError`."""
        with trio.fail_after(timeout_s):
            while await self.active():
                await trio.sleep(0.2)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
