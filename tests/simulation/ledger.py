"""What clients asked for, and what they were told: one record of every call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from taskcenter.store.records import Task


@dataclass
class Asked:
    """A call. Times in ms, true. `told`: "ok", an error's code, or "unknown" when no answer came."""

    what: str
    code: str  # of the business
    at: int
    name: str = ""  # business_id of the task it is about
    task_id: str = ""
    body: Any = None
    answered_at: int | None = None
    told: str = "unknown"
    task: Task | None = None  # as it was told
    in_flight: bool | None = None  # of a cancel
    tag: str | None = None
    replayed: bool = False


@dataclass
class Ledger:
    now_ms: Callable[[], int]
    calls: list[Asked] = field(default_factory=list)
    bodies: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # (code, name) → as first asked for
    known: dict[tuple[str, str], str] = field(default_factory=dict)  # (code, name) → id, once acknowledged

    def open(self, what: str, code: str, **given: Any) -> Asked:
        asked = Asked(what, code, self.now_ms(), **given)
        self.calls.append(asked)
        return asked

    def close(self, asked: Asked, told: str, task: Task | None = None) -> None:
        asked.answered_at, asked.told, asked.task = self.now_ms(), told, task
        if task is not None and asked.name:
            self.known.setdefault((asked.code, asked.name), task.id)

    def ids(self, code: str) -> list[str]:
        """Of the tasks that were acknowledged, in that order."""
        return [task_id for (of, _), task_id in self.known.items() if of == code]
