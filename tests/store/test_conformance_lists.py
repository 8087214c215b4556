"""Lists, counts and histories: the right rows, newest first, stable under inserts; the same on every store."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.store.store_kit import (
    BUSINESS,
    NOW,
    add_business,
    audit_entry,
    claim,
    create,
    execution,
    move,
    new_task,
    outcome,
    own_shards,
)

from taskcenter.store.records import Execution, ExecutionStatus, Task, TaskFilter
from taskcenter.store.sql_store import SqlStore
from taskcenter.task import ACTIVE, TERMINAL, Status

OTHER = 8


async def mixed(store: SqlStore) -> list[Task]:
    """Forty tasks over 40 s, in several states, on several hosts, with and without tags; as they are now."""
    rng = random.Random(3)
    await own_shards(store)
    await add_business(store, OTHER, "other")
    made = await create(
        store,
        *[
            new_task(
                f"t{number}", at=NOW + number * 1000, due_at=NOW + rng.randrange(60_000),
                callback_host=rng.choice(["a.example", "b.example", "A.example"]),
                tags=("odd",) if number % 2 else ("x",),
            )
            for number in range(40)
        ],
        *[new_task(f"t{number}", business_id=OTHER, business_code="other", tags=("odd",)) for number in range(5)],
    )  # fmt: skip
    for number, task in enumerate(made[:40]):
        if number % 5 == 0:
            claimed = await claim(store, task)
            to = rng.choice([Status.SUCCEEDED, Status.FAILED, Status.RETRYING])
            next_at = NOW + 70_000 if to is Status.RETRYING else None
            await store.engine.record([outcome(claimed, move(claimed, to, next_execute_at=next_at))], NOW + number)
        elif number % 7 == 0:
            await store.tasks.cancel(BUSINESS, task.id, NOW + 500 + number, audit_entry())
        elif number == 11:
            await claim(store, task)
    found = [await store.tasks.get(BUSINESS, task.id) for task in made[:40]]
    return [task for task in found if task is not None]


def due(task: Task) -> int:
    return -1 if task.next_execute_at is None else task.next_execute_at


def finished(task: Task) -> int:
    return -1 if task.finished_at is None else task.finished_at


CASES: dict[str, tuple[TaskFilter, Callable[[Task], bool]]] = {
    "all": (TaskFilter(), lambda _: True),
    "every status": (TaskFilter(statuses=frozenset(Status)), lambda _: True),
    "cancelled": (TaskFilter(statuses=frozenset({Status.CANCELLED})), lambda t: t.status is Status.CANCELLED),
    "active": (TaskFilter(statuses=ACTIVE), lambda t: t.status in ACTIVE),
    "ended": (TaskFilter(statuses=TERMINAL), lambda t: t.status in TERMINAL),
    "host": (TaskFilter(callback_host="a.example"), lambda t: t.callback_host == "a.example"),
    "tag": (TaskFilter(tag="odd"), lambda t: "odd" in t.tags),
    "no such tag": (TaskFilter(tag="ODD"), lambda _: False),
    "created": (
        TaskFilter(created_after=NOW + 5_000, created_before=NOW + 9_500),
        lambda t: NOW + 5_000 <= t.created_at < NOW + 9_500,
    ),
    "created after": (TaskFilter(created_after=NOW + 30_001), lambda t: t.created_at >= NOW + 30_001),
    "due": (
        TaskFilter(due_after=NOW + 20_000, due_before=NOW + 40_000), lambda t: NOW + 20_000 <= due(t) < NOW + 40_000
    ),
    "due before": (TaskFilter(due_before=NOW + 40_000), lambda t: 0 <= due(t) < NOW + 40_000),
    "finished": (
        TaskFilter(finished_after=NOW + 10, finished_before=NOW + 520), lambda t: NOW + 10 <= finished(t) < NOW + 520
    ),
    "all together": (
        TaskFilter(
            statuses=ACTIVE, callback_host="b.example", tag="x", created_after=NOW, created_before=NOW + 35_000,
            due_after=NOW + 1, due_before=NOW + 60_000,
        ),
        lambda t: t.status in ACTIVE and t.callback_host == "b.example" and "x" in t.tags
        and t.created_at < NOW + 35_000 and NOW + 1 <= due(t) < NOW + 60_000,
    ),
}  # fmt: skip


async def test_filters(store: SqlStore) -> None:
    everything = sorted(await mixed(store), key=lambda task: task.id, reverse=True)
    for name, (where, matches) in CASES.items():
        wanted = [task for task in everything if matches(task)]
        assert len(wanted) > 0 or name == "no such tag", name
        assert await store.tasks.page(BUSINESS, where, None, 100) == wanted, name
        assert await store.tasks.count(BUSINESS, where, 100) == len(wanted), name
        paged: list[Task] = []
        while page := await store.tasks.page(BUSINESS, where, paged[-1].id if paged else None, 3):
            assert len(page) <= 3
            paged += page
        assert paged == wanted, name
    assert await store.tasks.count(BUSINESS, TaskFilter(), 7) == 7


async def test_page_is_stable_under_inserts(store: SqlStore) -> None:
    made = await create(store, *[new_task(at=NOW + number) for number in range(6)])
    first = await store.tasks.page(BUSINESS, TaskFilter(), None, 3)
    await create(store, *[new_task(at=NOW + 100 + number) for number in range(4)])
    second = await store.tasks.page(BUSINESS, TaskFilter(), first[-1].id, 3)
    assert [task.id for task in first + second] == [task.id for task in reversed(made)]


async def test_status_counts_and_totals(store: SqlStore) -> None:
    tasks = await mixed(store)
    wanted = {status: sum(task.status is status for task in tasks) for status in Status}
    assert await store.tasks.status_counts(BUSINESS) == wanted
    totals = await store.maintenance.totals()
    assert totals == wanted | {Status.PENDING: wanted[Status.PENDING] + 5}
    assert sum((await store.tasks.status_counts(999)).values()) == 0


async def test_executions_newest_first(store: SqlStore) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    sent: list[Execution] = []
    for number in range(5):
        claimed = await claim(store, task)
        attempt = execution(claimed, ExecutionStatus.HTTP_ERROR, response_status=500 + number, error_message="é'")
        again = move(claimed, Status.RETRYING, next_execute_at=NOW, current_retry=number + 1, last_error="HTTP 500")
        await store.engine.record([outcome(claimed, again, execution=attempt)], NOW)
        sent.insert(0, attempt)
        found = await store.tasks.get(BUSINESS, task.id)
        assert found is not None
        task = found
    assert await store.tasks.executions(BUSINESS, task.id, None, 20) == sent
    assert await store.tasks.executions(BUSINESS, task.id, None, 2) == sent[:2]
    assert await store.tasks.executions(BUSINESS, task.id, sent[1].number, 2) == sent[2:4]
    assert await store.tasks.executions(OTHER, task.id, None, 20) == []


@pytest.mark.parametrize(
    "given",
    [
        {"response_status": None, "response_headers": {}, "response_body": None, "request_headers": {}},
        {"response_body": b""},
        {"response_headers": {}, "response_body": b"\n\n\x00\xff" * 1024},
        {"error_message": "x" * 1024, "wait_reason": None, "duration_ms": 30_000.125, "lateness_ms": 0.0},
    ],
    ids=["no answer", "empty body", "only a body", "long error"],
)
async def test_an_execution_reads_back_as_it_was(store: SqlStore, given: dict[str, Any]) -> None:
    (task,) = await create(store, new_task())
    await own_shards(store)
    claimed = await claim(store, task)
    attempt = execution(claimed, **given)
    await store.engine.record([outcome(claimed, execution=attempt)], NOW)
    assert await store.tasks.executions(BUSINESS, task.id, None, 1) == [attempt]
