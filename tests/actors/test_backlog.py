"""The pace of a backlog: a model over hours of virtual time, and one business held and let go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.actors.actor_kit import NOW, changed, world
from tests.actors.scripted import Call, answered
from tests.actors.test_limiter import most_in_any_window

from taskcenter.actors.backlog import BURST_MS, LATE_MS, WHOLE, Backlog
from taskcenter.actors.egress.exchange import Exchange, Faulted
from taskcenter.store.records import BusinessStatus
from taskcenter.task import Status, TaskRef

REFUSED = Faulted("connection_error", "connection refused", sent=False)


def ref(due_at: int, host: str = "a.test") -> TaskRef:
    return TaskRef("t", 7, 3, due_at, 1, host)


@given(
    per_minute=st.integers(1, 60_000),
    pace=st.sampled_from([0.1, 0.5, 1.0, 4.0]),
    plan=st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 40)), min_size=1, max_size=60),
)
def test_in_no_window_does_a_backlog_start_faster_than_its_pace_and_it_is_used_to_the_full(
    per_minute: int, pace: float, plan: list[tuple[int, int]]
) -> None:
    backlog, now, starts = Backlog(per_minute, pace), 0, []
    interval_ms = 60_000 / (per_minute * pace)
    for pause_ms, wanted in plan:
        now += pause_ms
        for _ in range(wanted):
            now = backlog.available_at(now)
            assert backlog.available_at(now) == now, "what it names is enough"
            backlog.take(now)
            starts.append(now)
    for window_ms in (1, 100, 1_000, 60_000):
        assert most_in_any_window(starts, window_ms) <= 1 + (window_ms + BURST_MS) / interval_ms
    at, saturated = 0, Backlog(per_minute, pace)
    for _ in range(50):
        at = saturated.available_at(at)
        saturated.take(at)
    assert 49 * interval_ms - BURST_MS <= at <= 49 * interval_ms + 1


def test_what_is_on_time_is_never_paced_and_ends_the_release() -> None:
    backlog = Backlog(60, 1.0)
    assert backlog.scope_of(ref(0), LATE_MS + 1) == WHOLE, "a new owner does not know what came before"
    assert backlog.scope_of(ref(1), LATE_MS + 1) is None
    assert backlog.scope_of(ref(0), LATE_MS + 1) is None, "it has caught up"
    backlog.held("a.test")
    assert backlog.scope_of(ref(0, "b.test"), 10_000) is None, "another host was not held"
    assert backlog.scope_of(ref(0), 10_000) == "a.test"
    backlog.held(WHOLE)
    assert backlog.scope_of(ref(0, "b.test"), 10_000) == WHOLE


def test_it_can_be_switched_off_and_follows_the_rate_limit() -> None:
    off = Backlog(60, 0)
    for _ in range(5):
        assert off.available_at(7) == 7
        off.take(7)
    backlog = Backlog(60, 0.5)
    backlog.take(0)
    assert backlog.available_at(0) == 2_000 - BURST_MS
    backlog.reconfigure(600)
    backlog.take(2_000)
    assert backlog.available_at(2_000) == 2_200 - BURST_MS


def test_its_scopes_are_bounded() -> None:
    backlog = Backlog(60, 1.0)
    backlog.scope_of(ref(0), 0)
    for number in range(5_000):
        backlog.held(f"{number}.test")
    assert len(backlog._scopes) <= 1_024
    assert backlog.scope_of(ref(0, "0.test"), 10_000) == WHOLE, "what it forgets stays paced"


async def test_what_waited_out_a_pause_is_let_go_in_due_order_at_the_pace(autojump_clock: object) -> None:
    async with world(rate_limit=600, pace=0.5) as the:
        shop = the.businesses[7]
        await the.settled(*await the.run(20))
        assert the.receivers.calls[-1].at - NOW < 200, "what is on time is not paced"
        the.registry.business_changed(changed(shop, status=BusinessStatus.PAUSED))
        tasks = [task for number in range(50) for task in await the.run(due_at=NOW + 1_000 + (49 - number) * 20)]
        await the.settled(await_for := (await the.run(deadline_at=NOW + 3_000))[0])
        assert (await the.row(await_for)).last_error == (
            "the deadline 2027-01-15T08:00:03.000Z passed while it waited for its business to be resumed"
        )
        resumed_at = the.clock.now_ms()
        the.registry.business_changed(changed(changed(shop)))
        await the.settled(*tasks)
        calls = the.receivers.calls[20:]
        assert [call.due_at for call in calls] == sorted(call.due_at for call in calls)
        assert most_in_any_window([call.at for call in calls], 1_000) <= 1 + (1_000 + BURST_MS) / 200
        assert 9_000 <= calls[-1].at - resumed_at <= 11_000  # 50 at five a second
        assert {attempt.wait_reason for task in tasks[:40] for attempt in await the.history(task)} == {"backlog"}
        after = await the.run(30)
        await the.settled(*after, within_s=1)


async def test_a_host_that_is_back_is_not_run_over_and_holds_up_no_other(autojump_clock: object) -> None:
    breaker = {"failure_threshold": 3, "open_seconds": 10, "max_open_seconds": 10}
    async with world(breaker=breaker, rate_limit=600, pace=1.0) as the:

        async def mood(call: Call) -> Exchange:
            return REFUSED if call.url == "http://back.test/" and call.at < NOW + 30_000 else answered()

        the.receivers.mood = mood
        back = await the.run(
            100, callback_url="http://back.test/", callback_host="back.test", retry_intervals_ms=(1_000,) * 10
        )
        await the.receivers.wait_for(5, within_s=60)
        other = await the.run(50, callback_url="http://other.test/", callback_host="other.test")
        await the.settled(*other, within_s=1)
        rows = await the.settled(*back)
        assert {row.status for row in rows} == {Status.SUCCEEDED}
        well = [call.at for call in the.receivers.calls if call.url == "http://back.test/" and call.at >= NOW + 30_000]
        assert well[0] - NOW <= 40_000
        assert most_in_any_window(well, 1_000) <= 1 + (1_000 + BURST_MS) / 100
