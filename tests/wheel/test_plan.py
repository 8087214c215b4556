"""What is read next, and the promise that nothing is passed over: without clock, loop or store."""

from __future__ import annotations

import pytest

from taskcenter.task import SHARDS, TaskRef
from taskcenter.wheel.plan import Kind, LoadPlan, Read, Spans

NOW = 1_700_000_000_000
ROOM = 10**9
SPANS = Spans()


def full_page(due_at: int) -> list[TaskRef]:
    return [TaskRef(f"{number:04}", 1, 0, due_at, 1) for number in range(SPANS.page)]


def ask(plan: LoadPlan, now_ms: int, room: int = ROOM) -> Read:
    read = plan.next(now_ms, room)
    assert read is not None
    return read


def run_out(plan: LoadPlan, now_ms: int, room: int = ROOM) -> list[Read]:
    """Every read there is at this moment, of a store that holds nothing."""
    reads = []
    while (read := plan.next(now_ms, room)) is not None:
        reads.append(read)
        plan.done(read, [], now_ms)
        assert len(reads) < 1000
    return reads


def test_without_shards_there_is_nothing_to_read() -> None:
    plan = LoadPlan(NOW, SPANS)
    assert plan.next(NOW + 10**6, ROOM) is None
    assert plan.next_at() is None and plan.loaded_until is None and not plan.loading


def test_a_takeover_reads_overdue_then_soon_then_the_window() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1, 2})
    assert plan.loading == {1, 2}
    reads = run_out(plan, NOW)
    assert [(read.kind, read.due_from_ms - NOW, read.due_to_ms - NOW) for read in reads] == [
        (Kind.OVERDUE, -NOW, 1),
        (Kind.SOON, 1, 30_000),
        (Kind.WINDOW, 30_000, 600_000),
    ]
    assert all(read.shards == frozenset({1, 2}) and read.limit == 500 and read.after is None for read in reads)
    assert not plan.loading and plan.loaded_until == NOW + 600_000


def test_loading_ends_when_overdue_and_soon_of_all_shards_are_read() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    read = ask(plan, NOW)
    plan.add({2})  # while the first page of the other is on its way
    plan.done(read, [], NOW)
    kinds = []
    while plan.loading:
        read = ask(plan, NOW)
        kinds.append((read.kind, read.shards))
        plan.done(read, [], NOW)
    one, two = frozenset({1}), frozenset({2})
    assert kinds == [(Kind.SOON, one), (Kind.OVERDUE, two), (Kind.SOON, two)]


def test_a_full_page_is_continued_after_its_last_row_and_a_failed_one_is_asked_for_again() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    first = ask(plan, NOW)
    assert ask(plan, NOW + 700) == first, "it failed: nothing has moved"
    again = ask(plan, NOW + 700)
    plan.done(again, full_page(NOW - 5), NOW)
    second = ask(plan, NOW)
    assert (second.kind, second.after) == (Kind.OVERDUE, (NOW - 5, "0499"))
    assert (second.due_from_ms, second.due_to_ms) == (first.due_from_ms, first.due_to_ms)
    with pytest.raises(ValueError, match="not asked for"):
        plan.done(first, [], NOW)


def test_every_second_a_near_scan_and_a_second_more_of_the_window() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    run_out(plan, NOW)
    assert run_out(plan, NOW + 999) == [] and plan.next_at() == NOW + 1_000
    now_ms = NOW + 1_000
    reads = run_out(plan, now_ms)
    assert [(read.kind, read.due_from_ms - now_ms, read.due_to_ms - now_ms) for read in reads] == [
        (Kind.NEAR, -10_000, 2_000),
        (Kind.WINDOW, 599_000, 600_000),
    ]
    assert plan.next_at() == NOW + 2_000


def test_every_minute_all_that_is_overdue() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    run_out(plan, NOW)
    kinds = {second: [read.kind for read in run_out(plan, NOW + second * 1_000)] for second in range(1, 125)}
    assert [second for second, read in kinds.items() if Kind.SAFETY in read] == [60, 120]
    assert kinds[60] == [Kind.NEAR, Kind.SAFETY, Kind.WINDOW]


def test_what_is_near_goes_before_a_long_load_of_overdue_tasks() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    kinds = []
    for page in range(40):  # 100 ms a page
        now_ms = NOW + page * 100
        read = ask(plan, now_ms)
        kinds.append(read.kind)
        plan.done(read, [] if read.kind is Kind.NEAR else full_page(page), now_ms)
    assert [page for page, kind in enumerate(kinds) if kind is Kind.NEAR] == [10, 20, 30]
    assert set(kinds) == {Kind.NEAR, Kind.OVERDUE}


def test_after_an_outage_the_near_scan_looks_back_to_its_last_success() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    run_out(plan, NOW)
    run_out(plan, NOW + 1_000)
    lost = ask(plan, NOW + 2_000)  # does not come back for 50 s
    assert ask(plan, NOW + 52_000) == lost
    run_out(plan, NOW + 52_000)
    later = ask(plan, NOW + 53_000)
    assert (later.kind, later.due_from_ms) == (Kind.NEAR, NOW + 2_000 - 10_000)
    run_out(plan, NOW + 53_000)
    assert ask(plan, NOW + 54_000).due_from_ms == NOW + 53_000 - 10_000


def test_all_shards_are_asked_for_without_a_list() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add(range(SHARDS))
    assert all(read.shards is None for read in run_out(plan, NOW))
    plan.remove({7})
    assert all(read.shards == frozenset(range(SHARDS)) - {7} for read in run_out(plan, NOW + 1_000))


def test_groups_meet_and_become_one() -> None:
    plan = LoadPlan(NOW, SPANS)
    now_ms = NOW
    for number in range(40):  # every read takes 37 ms; now and then a shard is taken over
        if number % 8 == 0:
            plan.add({number})
        if (read := plan.next(now_ms, ROOM)) is not None:
            plan.done(read, [], now_ms)
        now_ms += 37
    while (read := plan.next(now_ms, ROOM)) is not None:
        plan.done(read, [], now_ms)
        now_ms += 37
    reads = run_out(plan, now_ms + 5_000)
    assert [read.kind for read in reads] == [Kind.NEAR, Kind.WINDOW]
    assert all(read.shards == frozenset({0, 8, 16, 24, 32}) for read in reads)


def test_a_group_does_not_join_a_walk_that_has_begun() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    while (read := ask(plan, NOW)).kind is not Kind.WINDOW:
        plan.done(read, [], NOW)
    plan.done(read, full_page(NOW + 90_000), NOW)  # the rest of the window of shard 1 is yet to be read
    plan.add({2})
    reads = [read for read in run_out(plan, NOW) if read.shards is not None and 2 in read.shards]
    assert all(read.after is None for read in reads), "the other's cursor is not theirs"
    spans = [(read.due_from_ms - NOW, read.due_to_ms - NOW) for read in reads]
    assert spans == [(-NOW, 1), (1, 30_000), (30_000, 600_000)]


def test_shards_taken_over_together_are_read_together() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    plan.add({2, 3})
    plan.add({3})
    assert ask(plan, NOW).shards == frozenset({1, 2, 3})
    plan.remove({1, 2})
    assert ask(plan, NOW).shards == frozenset({3}) and plan.owns(3) and not plan.owns(1)
    plan.remove({3})
    assert plan.next(NOW, ROOM) is None


def test_without_room_only_the_window_waits() -> None:
    plan = LoadPlan(NOW, SPANS)
    plan.add({1})
    assert [read.kind for read in run_out(plan, NOW, room=499)] == [Kind.OVERDUE, Kind.SOON]
    assert plan.loaded_until == NOW + 30_000 and not plan.loading
    kinds = [read.kind for second in range(1, 61) for read in run_out(plan, NOW + second * 1_000, room=0)]
    assert kinds == [Kind.NEAR] * 60 + [Kind.SAFETY]
    assert plan.loaded_until == NOW + 30_000, "not moved past what was read"
    last = run_out(plan, NOW + 61_000, room=500)[-1]
    assert (last.kind, last.due_from_ms, last.due_to_ms) == (Kind.WINDOW, NOW + 30_000, NOW + 661_000)


def test_covers_whatever_a_read_may_have_passed() -> None:
    plan = LoadPlan(NOW, SPANS)
    assert plan.covers(NOW + 1_999, NOW) and not plan.covers(NOW + 2_000, NOW)
    plan.add({1})
    read = ask(plan, NOW)
    plan.done(read, [], NOW)
    assert not plan.covers(NOW + 10_000, NOW)
    soon = ask(plan, NOW)
    assert plan.covers(NOW + 29_999, NOW), "from the moment the page is asked for, not when it has come"
    assert not plan.covers(NOW + 30_000, NOW)
    plan.done(soon, [], NOW)
    ask(plan, NOW)
    assert plan.covers(NOW + 599_999, NOW) and not plan.covers(NOW + 600_000, NOW)
