"""What a former owner left on its way, when its shards are taken over: told as interrupted, and counted.

It is all told of before the shards are announced, so that whoever rebuilds a limit from history finds every callback
that was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from taskcenter import log
from taskcenter.actors.finish import finish_of
from taskcenter.metrics import Metrics
from taskcenter.store.interface import EngineStore
from taskcenter.store.records import ExecutionStatus, Task, TaskKind
from taskcenter.task import TERMINAL

PAGE: Final = 500


class Takeover:
    """Called by the lease keeper, for shards that are this instance's at these terms."""

    def __init__(
        self, store: EngineStore, now_ms: Callable[[], int], metrics: Metrics, alert: Callable[[str, str], None]
    ) -> None:
        self._store = store
        self._now_ms = now_ms
        self._metrics = metrics
        self._alert = alert
        self._log = log.get("takeover")

    async def recover(self, terms: Mapping[int, int]) -> None:
        """Tasks that were running wait again, overdue: the loader finds them first when their shard is announced.

        Then the attempts of cancelled tasks: only now nothing can be cancelled any more that is running under a term
        before these. Raises `StoreUnavailable`.
        """
        now = self._now_ms()
        while tasks := await self._store.recover(terms, now, PAGE, finish=finish_of(now)):
            self._log.info("interrupted attempts recovered", tasks=len(tasks))
            for task in tasks:
                self._interrupted(task.business_code)
                self._ended(task)
            now = self._now_ms()
        while attempts := await self._store.recover_cancelled(terms, now, PAGE):
            self._log.info("interrupted attempts of cancelled tasks told", attempts=len(attempts))
            for attempt in attempts:
                self._interrupted(attempt.business_code)

    def _interrupted(self, business_code: str) -> None:
        self._metrics.callbacks.labels(business_code, ExecutionStatus.INTERRUPTED.value).inc()

    def _ended(self, task: Task) -> None:
        if task.status in TERMINAL and task.kind is TaskKind.CALLBACK:
            self._metrics.tasks_finished.labels(task.business_code, task.status.value).inc()
            self._alert("crash_suspect", f"task {task.id} ended: {task.last_error}")
