"""The group committer of creates: what arrives together, or while a commit is running, is one transaction.

Theory. A durable commit costs the same for one row as for two hundred. One task of ours takes what has gathered, at
most 256 creates, and hands it to the store as one transaction; while that runs the next group gathers. When the last
group held more than one create, the next waits 2 ms for company; a lone client waits for nothing but its own commit.

Invariants. A create is in one group at a time. A handler is answered after the commit of its group, never before. At
most `MAX_WAITING` creates wait; one more is refused (`Overloaded`), and so is one that would join a standing queue
(`queueing`): when the store slows, callers are told to come back before all of them wait. A handler that goes away
leaves its create in the group: it may be committed, and the client that repeats it is told so.

On failure. `StoreUnavailable`: all of the group are refused, and with it whoever waits behind it: the store is out, and
nobody shall wait for that twice. (A lock is no outage: after a conflict those who came lately go on waiting.)
`CommitUnknown`: the same rows, with the same ids, are sent once more; rows with these very ids that are there already
count as created. If that is refused, the first one's end is still unknown, and told so. Any other error is a bug or a
poisoned row: the group is then committed one by one, so that only the culprit fails.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import field
from typing import Final

import trio

from taskcenter import log
from taskcenter.errors import CommitUnknown, Overloaded, StoreUnavailable
from taskcenter.queueing import StandingQueue
from taskcenter.service.shielded import PATIENCE_S, Slot
from taskcenter.service.task_tools import TaskTools
from taskcenter.store.connection import LockConflict
from taskcenter.store.records import Created, CreateResult, NewAuditEntry, NewTask, Task
from taskcenter.values import value_class

MAX_GROUP: Final = 256
MAX_WAITING: Final = 4096
GATHER_S: Final = 0.002
TARGET_MS: Final = 100.0  # a create waits this long, in a queue that stands, before the next ones are refused

_log = log.get("creator")


@value_class(frozen=True, slots=True)
class Create:
    """One create as the store takes it."""

    task: NewTask
    max_active: int
    audit: NewAuditEntry | None


@value_class(frozen=True, slots=True)
class _Waiting:
    create: Create
    since_ms: float
    slot: Slot[CreateResult] = field(default_factory=Slot)


class Creator:
    """Owns the queue of creates. `create` is called by handlers; `run` is the one task that commits."""

    def __init__(self, tools: TaskTools) -> None:
        self._tools = tools
        self._group_size = tools.metrics.commit_batch_size.labels("create")
        self._duration = tools.metrics.commit_duration.labels("create")
        self._queue: deque[_Waiting] = deque()
        self._waits = StandingQueue(TARGET_MS)
        self._wake = trio.Event()
        self._closing = False

    async def create(self, create: Create) -> CreateResult:
        """What became of it, once that is durable. Raises `Overloaded` and `StoreUnavailable`."""
        if self._closing:
            raise Overloaded("the service is stopping")
        if (reason := self.overloaded()) is not None:
            raise Overloaded(reason)
        waiting = _Waiting(create, trio.current_time() * 1000)
        self._queue.append(waiting)
        self._wake.set()
        return await waiting.slot.result()

    def overloaded(self) -> str | None:
        """Why one more create is refused, or None."""
        if len(self._queue) >= MAX_WAITING:
            return "too many creates are waiting for the store"
        now_ms = trio.current_time() * 1000
        oldest_ms = now_ms - self._queue[0].since_ms if self._queue else 0.0
        if self._waits.refuses(oldest_ms, now_ms):
            return f"creates are waiting {max(oldest_ms, self._waits.wait_ms):.0f} ms for the store"
        return None

    async def create_many(self, creates: Sequence[Create]) -> list[CreateResult]:
        """All of `creates` in one transaction; then the engine is told. Raises `StoreUnavailable`.

        Run it where no client can cancel it: what is committed must be told.
        """
        now = self._tools.clock.now_ms()
        tasks = [create.task for create in creates]
        limits = {create.task.business_id: create.max_active for create in creates}
        audit = [create.audit for create in creates]
        self._group_size.observe(len(tasks))
        with self._duration.time():
            try:
                results = await self._tools.store.create(tasks, limits, audit, now)
            except CommitUnknown:
                results = await self._once_more(tasks, limits, audit, now)
        self._tell([result.task for result in results if isinstance(result, Created)])
        return results

    async def _once_more(
        self, tasks: Sequence[NewTask], limits: dict[int, int], audit: Sequence[NewAuditEntry | None], now: int
    ) -> list[CreateResult]:
        """After an unknown commit. Whatever the store says now, unless it is the results, leaves the first unknown."""
        try:
            return await self._tools.store.create(tasks, limits, audit, now)
        except StoreUnavailable as error:
            raise CommitUnknown(str(error)) from None

    def _tell(self, born: Sequence[Task]) -> None:
        for task in born:
            self._tools.nudge(task)
        for code, count in Counter(task.business_code for task in born).items():
            self._tools.metrics.tasks_created.labels(code).inc(count)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until `close`, and then until nothing waits. Cancelled: who waits is told that the outcome is unknown."""
        task_status.started()
        group: list[_Waiting] = []
        try:
            while self._queue or not self._closing:
                await self._something()
                if len(group) > 1 and len(self._queue) < MAX_GROUP:
                    await trio.sleep(GATHER_S)
                group = self._next_group()
                await self._commit(group)
        finally:
            self._closing = True
            for waiting in (*group, *self._queue):
                if not waiting.slot.filled:
                    waiting.slot.fail(CommitUnknown("the service was stopped; the request can be repeated"))

    def close(self) -> None:
        self._closing = True
        self._wake.set()

    async def _something(self) -> None:
        while not self._queue and not self._closing:
            self._wake = trio.Event()
            await self._wake.wait()

    def _next_group(self) -> list[_Waiting]:
        if self._queue:
            now_ms = trio.current_time() * 1000
            self._waits.waited(now_ms - self._queue[0].since_ms, now_ms)
        return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_GROUP))]

    async def _commit(self, group: Sequence[_Waiting]) -> None:
        if not group:
            return
        try:
            results = await self.create_many([waiting.create for waiting in group])
        except StoreUnavailable as error:
            kind = CommitUnknown if isinstance(error, CommitUnknown) else StoreUnavailable
            for waiting in group:
                waiting.slot.fail(kind(str(error)))  # one each: an exception is raised by one task only
            self._refuse_those_behind(error)
        except Exception as error:  # noqa: BLE001 - raised again by the one handler whose create it is
            if len(group) == 1:
                group[0].slot.fail(error)
                return
            _log.exception("a group of creates failed; committing one by one", size=len(group))
            for waiting in group:
                await self._commit([waiting])
        else:
            for waiting, result in zip(group, results, strict=True):
                waiting.slot.fill(result)

    def _refuse_those_behind(self, error: StoreUnavailable) -> None:
        """Nothing of theirs was sent yet."""
        long_ago_ms = (trio.current_time() - (PATIENCE_S if isinstance(error, LockConflict) else 0)) * 1000
        while self._queue and self._queue[0].since_ms <= long_ago_ms:
            self._queue.popleft().slot.fail(StoreUnavailable(str(error)))

    def __repr__(self) -> str:
        return f"<Creator {len(self._queue)} waiting{', closing' if self._closing else ''}>"
