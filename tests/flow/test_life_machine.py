"""The life of tasks, driven through the API and a model side by side, on every store.

The app runs over its real store in a loop of its own; the machine plays the clients, the receivers, and the engine's
three moves: it claims a task, decides with the engine's own functions what an answer means and records it, and takes
over what a lost instance left running. The model (`life_model`) knows nothing but the contract.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.flow.life_model import ACTIVE, ANSWERS, EVERY_S, MAX_RUNS, QUOTA, RETRY_S, SHOWN, WAITING, Model
from tests.flow.looping import Loop, looping
from tests.http.api_kit import URL, Answer

from taskcenter.actors.answers import decide
from taskcenter.actors.egress.exchange import Exchange
from taskcenter.actors.ended import Ended, execution_of
from taskcenter.actors.outcome import move_after
from taskcenter.store.engine_records import Applied, Outcome, Stale, Superseded
from taskcenter.store.records import Task
from taskcenter.task import TERMINAL, Status
from taskcenter.times import parse_time

NAMES = [f"task/{number}" for number in range(6)]
ENDS = sorted(status.value for status in TERMINAL)
numbers = itertools.count()


class Life(RuleBasedStateMachine):
    """One business and its tasks."""

    loop: ClassVar[Loop]

    def __init__(self) -> None:
        super().__init__()
        self.code = f"b{next(numbers)}"
        self.tasks: dict[str, Model] = {}
        self.touched: list[Model] = []
        self.loop.do(lambda: self.loop.api.register(self.code, max_active_tasks=QUOTA))

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.loop.do(lambda: self.loop.api.call(method, path, body, by=self.code, headers=given))

    @property
    def room(self) -> int:
        return QUOTA - sum(task.status in ACTIVE for task in self.tasks.values())

    def pick(self, data: st.DataObject, statuses: Collection[str] = tuple(Status)) -> Model:
        names = sorted(name for name, task in self.tasks.items() if task.status in statuses)
        task = self.tasks[data.draw(st.sampled_from(names))]
        self.touched.append(task)
        return task

    def newest(self, good: Callable[[Model], bool]) -> list[Model]:
        return sorted((task for task in self.tasks.values() if good(task)), key=lambda task: task.id, reverse=True)

    # --- what clients do ----------------------------------------------------------------------------------------

    @staticmethod
    def body(name: str, payload: int, retries: int, recurring: bool) -> dict[str, Any]:
        body = {
            "business_id": name, "callback_url": URL, "delay": 3600, "payload": payload, "tags": [f"p{payload}"],
            "retry_intervals": [RETRY_S] * retries,
        }  # fmt: skip
        return body | ({"schedule": {"every": EVERY_S, "max_runs": MAX_RUNS}} if recurring else {})

    def born(self, body: dict[str, Any], status: int, told: Any, replayed: bool) -> None:
        """One create, alone or in a batch, held against the model."""
        name = body["business_id"]
        known = self.tasks.get(name)
        if known is None and not self.room:
            assert (status, told["code"]) == (429, "quota_exceeded")
        elif known is None:
            assert status == 201, told
            due = parse_time(told["created_at"]) + 3_600_000
            self.tasks[name] = Model(told["id"], body, due, len(body["retry_intervals"]), anchor=due)
            self.touched.append(self.tasks[name])
        elif known.body == body:
            assert (status, replayed) == (200, True)
            assert (told["id"], told["version"]) == (known.id, known.version)
        else:
            assert (status, told["code"]) == (409, "business_id_conflict")
            assert told["existing_task_id"] == known.id

    bodies = st.builds(body, st.sampled_from(NAMES), st.sampled_from([1, 2]), st.integers(0, 2), st.booleans())

    @rule(body=bodies)
    def create(self, body: dict[str, Any]) -> None:
        answer = self.call("POST", "/tasks", body)
        self.born(body, answer.status, answer.json, "Idempotent-Replayed" in answer.headers)

    @rule(bodies=st.lists(bodies, min_size=1, max_size=3))
    def create_batch(self, bodies: list[dict[str, Any]]) -> None:
        wrong = {"business_id": "wrong", "callback_url": URL, "timeout": 99}
        answer = self.call("POST", "/tasks/batch", {"tasks": [wrong, *bodies]})
        first, *others = answer.json["results"]
        assert (first["status"], first["error"]["code"]) == (422, "invalid_request")
        for body, result in zip(bodies, others, strict=True):
            self.born(body, result["status"], result.get("task") or result["error"], result["status"] == 200)

    @precondition(lambda self: self.tasks)
    @rule(
        data=st.data(),
        off_by=st.sampled_from([None, 0, 0, 1]),
        change=st.sampled_from(
            [{"timeout": 5}, {"retry_intervals": []}, {"retry_intervals": [RETRY_S] * 2}, {"delay": 9}]
        ),
    )
    def update(self, data: st.DataObject, off_by: int | None, change: dict[str, Any]) -> None:
        task = self.pick(data)
        headers = {} if off_by is None else {"If_Match": f'"{task.version + off_by}"'}
        answer = self.call("PUT", f"/tasks/{task.id}", change, **headers)
        if task.status not in ACTIVE:
            assert (answer.status, answer.code) == (409, "task_finished")
        elif off_by:
            assert (answer.status, answer.code) == (409, "version_conflict")
        else:
            assert answer.status == 200, answer
            task.changed()
            task.retries = len(change.get("retry_intervals", [0] * task.retries))
            if "delay" in change and task.status in WAITING:  # while it is on its way the time is not its own to set
                task.due = task.anchor = parse_time(answer.json["updated_at"]) + 9_000

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
            assert answer.json["in_flight"] is task.in_flight
            task.cancelled()
        assert answer.json["version"] == task.version

    @rule(tag=st.sampled_from(["p1", "p2"]), limit=st.integers(1, 3), dry_run=st.booleans())
    def cancel_matching(self, tag: str, limit: int, dry_run: bool) -> None:
        matching = self.newest(lambda task: tag in task.body["tags"] and task.status in ACTIVE)
        answer = self.call("DELETE", f"/tasks?tag={tag}&limit={limit}&dry_run={str(dry_run).lower()}")
        done = [] if dry_run else matching[:limit]
        assert answer.json == {
            "matched": min(len(matching), limit), "cancelled": len(done), "more": len(matching) > limit,
            "in_flight": sum(task.in_flight for task in done),
        }  # fmt: skip
        for task in done:
            task.cancelled()
        self.touched += matching

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def run_now(self, data: st.DataObject) -> None:
        task = self.pick(data)
        answer = self.call("POST", f"/tasks/{task.id}/run")
        if task.status in WAITING:
            assert answer.status == 200, answer
            task.asked_for(parse_time(answer.json["updated_at"]))
        else:
            assert (answer.status, answer.code) == (409, "not_runnable")

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def redeliver(self, data: st.DataObject) -> None:
        task = self.pick(data)
        answer = self.call("POST", f"/tasks/{task.id}/redeliver")
        if task.status in ACTIVE:
            assert (answer.status, answer.code) == (409, "not_redeliverable")
        elif not self.room:
            assert (answer.status, answer.code) == (429, "quota_exceeded")
        else:
            assert answer.status == 200, answer
            task.again()
            task.due = task.anchor = parse_time(answer.json["updated_at"])

    @rule(status=st.sampled_from(ENDS), limit=st.integers(1, 3), dry_run=st.booleans())
    def redeliver_matching(self, status: str, limit: int, dry_run: bool) -> None:
        matching = self.newest(lambda task: task.status == status)
        room = self.room
        answer = self.call("POST", "/tasks/redeliver", {"status": status, "limit": limit, "dry_run": dry_run})
        if matching and not dry_run and not room:
            assert (answer.status, answer.code) == (429, "quota_exceeded")
            return
        done = [] if dry_run else matching[: min(limit, room)]
        full = not dry_run and len(done) < min(len(matching), limit)
        assert answer.json == {
            "matched": min(len(matching), limit), "redelivered": len(done), "more": full or len(matching) > limit,
        }  # fmt: skip
        for task in done:
            task.again()
            task.anchor = parse_time(self.call("GET", f"/tasks/{task.id}").json["next_execute_at"])
        self.touched += matching

    @rule(status=st.sampled_from(sorted(Status)))
    def list_them(self, status: str) -> None:
        listed = [item["id"] for item in self.call("GET", f"/tasks?status={status}").json["items"]]
        assert listed == [task.id for task in self.newest(lambda task: task.status == status)]

    # --- what the engine does -----------------------------------------------------------------------------------

    @precondition(lambda self: any(task.status in WAITING for task in self.tasks.values()))
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        task = self.pick(data, WAITING)
        task.claimed(self.loop.do(lambda: self.loop.api.claim(task.id, self.code)))
        assert task.sent is not None
        assert task.sent.doubtful is task.doubtful

    @precondition(lambda self: any(task.sent for task in self.tasks.values()))
    @rule(data=st.data(), name=st.sampled_from(sorted(ANSWERS)))
    def answer(self, data: st.DataObject, name: str) -> None:
        names = sorted(name for name, task in self.tasks.items() if task.sent)
        task = self.tasks[data.draw(st.sampled_from(names))]
        self.touched.append(task)
        assert task.sent is not None
        exchange, meaning, status = ANSWERS[name]
        claimed, task.sent = task.sent, None
        at = self.loop.do(self.now)
        recorded = self.loop.do(lambda: self.record(claimed, exchange, at))
        if isinstance(recorded, Stale):  # updated while it was on its way: decided again, as the engine does
            assert (task.status, recorded.task.version) == ("running", task.version)
            fresh = recorded.task
            recorded = self.loop.do(lambda: self.record(fresh, exchange, at))
        if task.status == "running":
            assert isinstance(recorded, Applied)
            task.over(meaning, claimed.scheduled_at, at)
        else:
            assert isinstance(recorded, Superseded), "cancelled or taken over meanwhile"
        task.told(claimed.sends, status)

    async def now(self) -> int:
        return self.loop.api.clock.now_ms()

    async def record(self, task: Task, exchange: Exchange, at: int) -> Applied | Stale | Superseded:
        decision = decide(exchange, now_ms=at)
        execution = execution_of(Ended(task, exchange, decision, {}, at, at), None, at)
        move = move_after(task, decision, at, at)
        outcome = Outcome(task.id, task.business_id, task.version, task.term, task.sends, execution, move)
        (recorded,) = await self.loop.api.store.engine.record([outcome], at)
        return recorded

    @precondition(lambda self: any(task.status == "running" or task.cancelled_with for task in self.tasks.values()))
    @rule()
    def take_over(self) -> None:
        lost = self.newest(lambda task: task.status == "running")
        cancelled = self.newest(lambda task: bool(task.cancelled_with))
        found, told = self.loop.do(self.loop.api.take_over)
        assert {task.id for task in found} == {task.id for task in lost}
        mine = {(one.task_id, one.number) for one in told if one.business_code == self.code}  # former machines' beside
        assert mine == {(task.id, number) for task in cancelled for number in task.cancelled_with}
        for task in lost:
            task.interrupted()
        for task in cancelled:
            task.lost()
        self.touched += lost + cancelled

    # --- the comparison -----------------------------------------------------------------------------------------

    @invariant()
    def the_touched_tasks_are_as_the_model_says(self) -> None:
        touched, self.touched = self.touched, []
        for task in {task.id: task for task in touched}.values():
            found = self.call("GET", f"/tasks/{task.id}").json
            assert {name: found[name] for name in task.seen} == task.seen
            assert (found["next_execute_at"] is not None) == (task.status in WAITING)
            assert (found["finished_at"] is not None) == (task.status not in ACTIVE)
            assert task.due in (None, found["next_execute_at"] and parse_time(found["next_execute_at"]))
            told = {int(one["id"].rpartition("-")[2]): one["status"] for one in found["executions"]}
            assert told == dict(sorted(task.history.items())[-SHOWN:])
            assert list(told) == sorted(told, reverse=True), "newest first"

    def teardown(self) -> None:
        items = self.call("GET", "/tasks").json["items"]
        assert {item["business_id"]: item["version"] for item in items} == {
            name: task.version for name, task in self.tasks.items()
        }
        for task in self.tasks.values():
            if task.status in ACTIVE:
                assert self.call("DELETE", f"/tasks/{task.id}").status == 200


@pytest.fixture
def examples(database_url: str) -> int:
    """Most of them where they cost least; the servers' part is that their statements agree."""
    return 60 if database_url.startswith("sqlite") else 8


def test_the_api_and_the_model_live_the_same_life(database_url: str, examples: int) -> None:
    with looping(database_url) as loop:
        Life.loop = loop
        run_state_machine_as_test(
            Life,
            settings=settings(
                max_examples=examples, stateful_step_count=30, deadline=None, derandomize=True,
                suppress_health_check=list(HealthCheck),
            ),
        )  # fmt: skip
