"""Instances that stand still while time goes on, as a process does between SIGSTOP and SIGCONT.

trio puts whatever may run into one queue. This one keeps back the tasks of instances that are frozen, with all that
woke them meanwhile (timers, answers); thawed, they go on from where they stood and find how late it is.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import trio
import trio._core._run as scheduler


class FreezingQueue(deque[Any]):
    """trio's queue of tasks that may run. One for the whole run: `install`."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[trio.lowlevel.Task, list[Any]] = {}  # by the frozen instance's first task

    @classmethod
    def install(cls) -> FreezingQueue:
        """In place of the queue of the loop that runs now."""
        runner = scheduler.GLOBAL_RUN_CONTEXT.runner
        queue = cls()
        queue.extend(runner.runq)
        runner.runq = queue
        return queue

    def freeze(self, root: trio.lowlevel.Task) -> None:
        self._kept[root] = []

    def thaw(self, root: trio.lowlevel.Task) -> None:
        self.extend(self._kept.pop(root))

    def is_frozen(self, root: trio.lowlevel.Task) -> bool:
        return root in self._kept

    def append(self, task: Any) -> None:
        if not self._kept or (kept := self._kept_for(task)) is None:
            super().append(task)
        else:
            kept.append(task)

    def _kept_for(self, task: Any) -> list[Any] | None:
        """Where the task waits if it belongs to a frozen instance."""
        while True:
            if (kept := self._kept.get(task)) is not None:
                return kept
            if task.parent_nursery is None:
                return None
            task = task.parent_nursery.parent_task
