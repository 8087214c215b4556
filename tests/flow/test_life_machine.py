"""The life of tasks, driven through the API and a model side by side.

The app runs over its real store in a loop of its own; the machine plays the clients, and the engine's two moves: it
claims a task and records how the attempt ended. The model knows nothing but the table of CONTRACT §3.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.http.api_kit import URL, Answer, Api, serve

from taskcenter.store.engine_records import Applied, Move, Outcome, Stale, Superseded
from taskcenter.store.records import Execution, ExecutionStatus, Task
from taskcenter.task import FinishReason, Status

T = TypeVar("T")
QUOTA = 4
WAITING = {"pending", "retrying"}
ACTIVE = {*WAITING, "running"}
NAMES = [f"task/{number}" for number in range(6)]
numbers = itertools.count()


@dataclass
class Model:
    """What a task must look like."""

    id: str
    body: dict[str, Any]
    retries: int
    status: str = "pending"
    version: int = 1
    run: int = 1
    retry: int = 0
    attempts: int = 0
    sent: Task | None = None  # claimed, with no end recorded yet

    @property
    def seen(self) -> dict[str, Any]:
        return {
            "status": self.status, "version": self.version, "run": self.run, "current_retry": self.retry,
            "max_retries": self.retries, "attempts": self.attempts,
        }  # fmt: skip


class Loop:
    """The served app, in a thread of its own; `do` runs one call there."""

    def __init__(self, api: Api, token: trio.lowlevel.TrioToken) -> None:
        self.api = api
        self._token = token

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        return trio.from_thread.run(work, trio_token=self._token)


@contextmanager
def looping(directory: Path) -> Iterator[Loop]:
    made: list[Loop] = []
    ready, over = threading.Event(), trio.Event()

    async def main() -> None:
        async with serve(f"sqlite:///{directory / 'tasks.db'}", in_loop=True) as api:
            made.append(Loop(api, trio.lowlevel.current_trio_token()))
            ready.set()
            await over.wait()

    thread = threading.Thread(target=trio.run, args=(main,), daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield made[0]
    finally:
        trio.from_thread.run_sync(over.set, trio_token=made[0]._token)
        thread.join(30)


class Life(RuleBasedStateMachine):
    """One business and its tasks."""

    loop: ClassVar[Loop]

    def __init__(self) -> None:
        super().__init__()
        self.code = f"b{next(numbers)}"
        self.tasks: dict[str, Model] = {}
        self.touched: Model | None = None
        self.loop.do(lambda: self.loop.api.register(self.code, max_active_tasks=QUOTA))

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.loop.do(lambda: self.loop.api.call(method, path, body, by=self.code, headers=given))

    @property
    def full(self) -> bool:
        return sum(task.status in ACTIVE for task in self.tasks.values()) >= QUOTA

    def pick(self, data: st.DataObject) -> Model:
        self.touched = self.tasks[data.draw(st.sampled_from(sorted(self.tasks)))]
        return self.touched

    # --- what clients do ----------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES), payload=st.sampled_from([1, 2]), retries=st.integers(0, 2))
    def create(self, name: str, payload: int, retries: int) -> None:
        body = {
            "business_id": name, "callback_url": URL, "delay": 3600, "payload": payload,
            "retry_intervals": [60] * retries,
        }  # fmt: skip
        answer = self.call("POST", "/tasks", body)
        known = self.tasks.get(name)
        if known is None and self.full:
            assert (answer.status, answer.code) == (429, "quota_exceeded")
        elif known is None:
            assert answer.status == 201, answer
            self.touched = self.tasks[name] = Model(answer.json["id"], body, retries)
        elif known.body == body:
            assert (answer.status, answer.headers["Idempotent-Replayed"]) == (200, "true")
            assert (answer.json["id"], answer.json["version"]) == (known.id, known.version)
        else:
            assert (answer.status, answer.code) == (409, "business_id_conflict")
            assert answer.json["existing_task_id"] == known.id

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), off_by=st.sampled_from([None, 0, 0, 1]), retries=st.none() | st.integers(0, 2))
    def update(self, data: st.DataObject, off_by: int | None, retries: int | None) -> None:
        task = self.pick(data)
        headers = {} if off_by is None else {"If_Match": f'"{task.version + off_by}"'}
        body = {"timeout": 5} if retries is None else {"retry_intervals": [60] * retries}
        answer = self.call("PUT", f"/tasks/{task.id}", body, **headers)
        if task.status not in ACTIVE:
            assert (answer.status, answer.code) == (409, "task_finished")
        elif off_by:
            assert (answer.status, answer.code) == (409, "version_conflict")
        else:
            assert answer.status == 200, answer
            task.version += 1
            task.retries = task.retries if retries is None else retries

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), by_name=st.booleans())
    def cancel(self, data: st.DataObject, by_name: bool) -> None:
        task = self.pick(data)
        path = f"/tasks/business/{task.body['business_id']}" if by_name else f"/tasks/{task.id}"
        answer = self.call("DELETE", path)
        if task.status not in {*ACTIVE, "cancelled"}:
            assert (answer.status, answer.code) == (409, "not_cancellable")
            return
        assert answer.status == 200, answer
        if task.status in ACTIVE:
            assert answer.json["in_flight"] is (task.status == "running")
            task.status, task.version = "cancelled", task.version + 1
        assert answer.json["version"] == task.version

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def run_now(self, data: st.DataObject) -> None:
        task = self.pick(data)
        answer = self.call("POST", f"/tasks/{task.id}/run")
        if task.status in WAITING:
            assert answer.status == 200, answer
            task.version += 1
        else:
            assert (answer.status, answer.code) == (409, "not_runnable")

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        task = self.pick(data)
        answer = self.call("POST", f"/tasks/{task.id}/redeliver")
        if task.status in ACTIVE:
            assert (answer.status, answer.code) == (409, "not_redeliverable")
        elif self.full:
            assert (answer.status, answer.code) == (429, "quota_exceeded")
        else:
            assert answer.status == 200, answer
            task.status, task.version, task.run, task.retry = "pending", task.version + 1, task.run + 1, 0

    @rule(status=st.sampled_from(sorted(Status)))
    def list_them(self, status: str) -> None:
        answer = self.call("GET", f"/tasks?status={status}")
        listed = [item["id"] for item in answer.json["items"]]
        assert set(listed) == {task.id for task in self.tasks.values() if task.status == status}
        assert listed == sorted(listed, reverse=True), "newest first"

    # --- what the engine does -----------------------------------------------------------------------------------

    @precondition(lambda self: any(task.status in WAITING for task in self.tasks.values()))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        waiting = sorted(name for name, task in self.tasks.items() if task.status in WAITING)
        task = self.touched = self.tasks[data.draw(st.sampled_from(waiting))]
        task.sent = self.loop.do(lambda: self.loop.api.claim(task.id, self.code))
        task.status, task.version, task.attempts = "running", task.version + 1, task.attempts + 1

    @precondition(lambda self: any(task.sent for task in self.tasks.values()))
    @rule(data=st.data(), end=st.sampled_from(["success", "failure", "stop"]))
    def record(self, data: st.DataObject, end: str) -> None:
        sent = sorted(name for name, task in self.tasks.items() if task.sent)
        task = self.touched = self.tasks[data.draw(st.sampled_from(sent))]
        claimed = task.sent
        assert claimed is not None
        move = self.move(task, end)
        recorded = self.loop.do(lambda: self.write(claimed, move))
        if isinstance(recorded, Stale):  # updated while it was on its way: decided again, as the engine does
            assert (task.status, recorded.task.version) == ("running", task.version)
            fresh = recorded.task
            recorded = self.loop.do(lambda: self.write(fresh, move))
        task.sent = None
        if task.status == "running" and claimed.run == task.run and claimed.sends == task.attempts:
            assert isinstance(recorded, Applied)
            task.status, task.version, task.retry = move.status.value, task.version + 1, move.current_retry
        else:
            assert isinstance(recorded, Superseded), "cancelled meanwhile, and perhaps delivered again"

    @staticmethod
    def move(task: Model, end: str) -> Move:
        more = task.retry < task.retries
        status, reason = {
            "success": (Status.SUCCEEDED, None),
            "stop": (Status.STOPPED, FinishReason.RECEIVER_STOPPED),
            "failure": (Status.RETRYING, None) if more else (Status.FAILED, FinishReason.RETRIES_EXHAUSTED),
        }[end]
        retrying = status is Status.RETRYING
        return Move(
            status=status, current_retry=task.retry + retrying, deferrals=0, run=task.run, runs_done=0,
            next_execute_at=1_900_000_000_000 if retrying else None, finish_reason=reason, last_error=None,
        )  # fmt: skip

    async def write(self, task: Task, move: Move) -> Applied | Stale | Superseded:
        api = self.loop.api
        now = api.clock.now_ms()
        execution = Execution(
            task_id=task.id, business_id=task.business_id, number=task.sends, run=task.run,
            attempt=task.current_retry + 1, term=task.term, scheduled_at=task.scheduled_at, started_at=now,
            status=ExecutionStatus.SUCCESS, duration_ms=1.0, lateness_ms=0.0,
        )  # fmt: skip
        outcome = Outcome(task.id, task.business_id, task.version, task.term, task.sends, execution, move)
        (recorded,) = await api.store.engine.record([outcome], now)
        return recorded

    # --- the comparison -----------------------------------------------------------------------------------------

    @invariant()
    def the_touched_task_is_as_the_model_says(self) -> None:
        if (task := self.touched) is None:
            return
        self.touched = None
        found = self.call("GET", f"/tasks/{task.id}").json
        assert {name: found[name] for name in task.seen} == task.seen
        assert (found["next_execute_at"] is not None) == (task.status in WAITING)
        assert (found["finished_at"] is not None) == (task.status not in ACTIVE)

    def teardown(self) -> None:
        items = self.call("GET", "/tasks").json["items"]
        assert {item["business_id"]: item["version"] for item in items} == {
            name: task.version for name, task in self.tasks.items()
        }
        for task in self.tasks.values():
            if task.status in ACTIVE:
                assert self.call("DELETE", f"/tasks/{task.id}").status == 200


def test_the_api_and_the_model_live_the_same_life(tmp_path: Path) -> None:
    with looping(tmp_path) as loop:
        Life.loop = loop
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=100, stateful_step_count=30, deadline=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
