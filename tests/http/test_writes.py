"""The nursery of writes and the group committer of creates: order, bounds, ends, and a store that is out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from tests.http.api_kit import URL, Api
from tests.http.gate import Gate
from trio.testing import MockClock, wait_all_tasks_blocked

from taskcenter.errors import CommitUnknown, Overloaded, StoreUnavailable
from taskcenter.service.creator import Create, Creator
from taskcenter.service.shielded import PATIENCE_S, Writes
from taskcenter.service.task_input import read_task
from taskcenter.store.connection import LockConflict
from taskcenter.store.records import NewTask

BODY = {"business_id": "a", "callback_url": URL}


async def test_writes_end_before_the_service_does(autojump_clock: object) -> None:
    writes, gate, done = Writes(), trio.Event(), []

    async def work() -> None:
        await gate.wait()
        done.append(1)

    async with trio.open_nursery() as nursery:
        await nursery.start(writes.run)
        nursery.start_soon(writes.call, work)
        await wait_all_tasks_blocked()
        assert repr(writes) == "<Writes 1 of 512 under way>"
        writes.close()
        with pytest.raises(Overloaded):
            await writes.call(work)
        gate.set()
    assert done == [1]


async def test_writes_of_one_business_go_two_abreast_and_hold_up_nobody_else(autojump_clock: object) -> None:
    writes, gate, at_work = Writes(), trio.Event(), list[int]()

    async def work(business_id: int) -> None:
        at_work.append(business_id)
        await gate.wait()

    async with trio.open_nursery() as nursery:
        await nursery.start(writes.run)
        for business_id in (1, 1, 1, 1, 1, 2):
            nursery.start_soon(writes.call, partial(work, business_id), business_id)
        await wait_all_tasks_blocked()
        assert sorted(at_work) == [1, 1, 2]
        gate.set()
        await wait_all_tasks_blocked()
        assert sorted(at_work) == [1, 1, 1, 1, 1, 2]
        assert repr(writes) == "<Writes 0 of 512 under way>"
        writes.close()


async def test_a_write_cut_off_by_the_end_is_unknown(autojump_clock: object) -> None:
    writes = Writes()
    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as nursery:
            await nursery.start(writes.run)

            async def ask() -> None:
                with pytest.raises(CommitUnknown):
                    await writes.call(trio.sleep_forever)

            callers.start_soon(ask)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_writes_are_bounded_and_errors_are_the_callers(autojump_clock: object) -> None:
    writes = Writes(most=1)

    async def fail() -> None:
        raise StoreUnavailable("out")

    async with trio.open_nursery() as nursery:
        await nursery.start(writes.run)
        with pytest.raises(StoreUnavailable):
            await writes.call(fail)
        nursery.start_soon(writes.call, trio.Event().wait)
        await wait_all_tasks_blocked()
        with pytest.raises(Overloaded):
            await writes.call(fail)
        nursery.cancel_scope.cancel()


async def test_creates_that_wait_when_the_service_is_cut_off_are_unknown(
    api: Api, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    """Both the one in the commit and the one behind it; and none is taken afterwards."""
    monkeypatch.setattr(api.store.tasks, "create", Gate(api.store.tasks.create, hold="before"))
    tools = api.services.tasks.tasks.tools
    business = await api.store.businesses.get("orders")
    assert business is not None
    task = read_task(BODY, business, "01JA8Z3N4V7Q2M6K9T5R1X8C0B", api.clock.now_ms(), tools.check_url)
    assert isinstance(task, NewTask)
    creator, create = Creator(tools), Create(task, 10, None)
    unknown: list[int] = []

    async def ask() -> None:
        with pytest.raises(CommitUnknown):
            await creator.create(create)
        unknown.append(1)

    async with trio.open_nursery() as callers:
        async with trio.open_nursery() as nursery:
            await nursery.start(creator.run)
            callers.start_soon(ask)
            await wait_all_tasks_blocked()
            callers.start_soon(ask)
            await wait_all_tasks_blocked()
            assert repr(creator) == "<Creator 1 waiting>"
            nursery.cancel_scope.cancel()
    assert unknown == [1, 1]
    with pytest.raises(Overloaded):
        await creator.create(create)


# --- the store is out ----------------------------------------------------------------------------------------------


async def test_who_has_waited_behind_a_write_that_the_store_refused_is_refused_with_it(
    autojump_clock: MockClock,
) -> None:
    """1.7 s are what a server that has fallen silent costs the first; nobody pays it twice."""
    writes, tried, refused_at = Writes(), list[float](), list[float]()

    async def silent() -> None:
        tried.append(trio.current_time())
        await trio.sleep(1.7)
        raise StoreUnavailable("no answer")

    async def ask(after_s: float) -> None:
        await trio.sleep(after_s)
        with pytest.raises(StoreUnavailable):
            await writes.call(silent, 1)
        refused_at.append(trio.current_time())

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(writes.run)
        async with trio.open_nursery() as callers:
            for after_s in (0, 0, 0.1, 1.0):
                callers.start_soon(ask, after_s)
            callers.start_soon(ask, 1.7 - PATIENCE_S / 2)  # came so late that it may try itself
        writes.close()
    assert [at - began for at in tried] == pytest.approx([0, 0, 1.7])
    assert [at - began for at in refused_at] == pytest.approx([1.7] * 4 + [3.4])


async def test_a_business_whose_writes_succeed_again_refuses_nobody(autojump_clock: MockClock) -> None:
    writes = Writes()

    async def work(fails: bool) -> bool:
        await trio.sleep(1)
        if fails:
            raise StoreUnavailable("no answer")
        return True

    async with trio.open_nursery() as nursery:
        await nursery.start(writes.run)
        with pytest.raises(StoreUnavailable):
            await writes.call(partial(work, True), 1)
        assert await writes.call(partial(work, False), 1)
        writes.close()


@pytest.mark.parametrize("fault,behind", [(StoreUnavailable("out"), 503), (LockConflict("deadlock"), 201)])
async def test_creates_behind_a_group_that_met_an_outage_are_refused_with_it(
    api: Api, monkeypatch: pytest.MonkeyPatch, fault: StoreUnavailable, behind: int, autojump_clock: object
) -> None:
    real, gate, groups = api.store.tasks.create, trio.Event(), list[int]()

    async def create(tasks: list[NewTask], *rest: Any) -> Any:
        groups.append(len(tasks))
        if len(groups) == 1:
            await gate.wait()
            raise fault
        return await real(tasks, *rest)

    monkeypatch.setattr(api.store.tasks, "create", create)
    statuses: dict[str, int] = {}

    async def ask(name: str) -> None:
        answer = await api.call("POST", "/tasks", BODY | {"business_id": name})
        statuses[name] = answer.status
        if answer.status == 503:
            assert (answer.code, answer.headers["Retry-After"]) == ("store_unavailable", "2")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        await wait_all_tasks_blocked()
        nursery.start_soon(ask, "second")
        await wait_all_tasks_blocked()
        gate.set()
    assert statuses == {"first": 503, "second": behind}
    assert len(groups) == (1 if behind == 503 else 2)


async def test_a_commit_that_was_not_confirmed_stays_unknown_when_its_repeat_is_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ "Nothing was changed" would be untrue: the first may have landed."""
    real = api.store.tasks.create
    answers: list[Exception] = [CommitUnknown("no answer"), StoreUnavailable("out")]

    async def create(*args: Any) -> Any:
        if not answers:
            return await real(*args)
        error = answers.pop(0)
        if isinstance(error, CommitUnknown):
            await real(*args)
        raise error

    monkeypatch.setattr(api.store.tasks, "create", create)
    answer = await api.call("POST", "/tasks", BODY)
    assert (answer.status, answer.code) == (503, "commit_unknown")
    again = await api.call("POST", "/tasks", BODY)
    assert (again.status, again.headers["Idempotent-Replayed"]) == (200, "true")
