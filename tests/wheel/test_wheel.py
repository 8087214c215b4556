"""The timing wheel: exact, in order, bounded, whatever time does."""

from __future__ import annotations

import pytest

from taskcenter.wheel.wheel import TOMBSTONES, TimingWheel

NOW = 1_700_000_000_001
HOUR = 3_600_000
DAY = 24 * HOUR
PLENTY = 1_000_000


def follow(wheel: TimingWheel[int], until_ms: int) -> tuple[list[tuple[int, int]], int]:
    """Sleep from deadline to deadline as the driver does: (when, item) of all that fired, and the wake-ups it took."""
    fired: list[tuple[int, int]] = []
    wakes = 0
    now_ms = NOW
    while True:
        fired += [(now_ms, item) for item in wheel.advance(now_ms, PLENTY)]
        deadline = wheel.next_deadline()
        if deadline is None or deadline > until_ms:
            return fired, wakes
        assert deadline > now_ms, "there was work left to do at a moment that is over"
        now_ms = deadline
        wakes += 1


@pytest.mark.parametrize("delay_ms", [1, 3, 4, 5, 255, 256, 1023, 1025, 65_537, HOUR, DAY, 4 * DAY, 400 * DAY])
def test_fires_at_its_millisecond_however_far_away(delay_ms: int) -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    wheel.insert("a", NOW + delay_ms, 1)
    fired, _ = follow(wheel, NOW + delay_ms)
    assert fired == [(NOW + delay_ms, 1)]
    assert len(wheel) == 0 and wheel.next_deadline() is None


def test_neighbouring_milliseconds_fire_apart() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    for delay_ms in range(2000, 0, -1):
        wheel.insert(delay_ms, NOW + delay_ms, delay_ms)
    fired, _ = follow(wheel, NOW + 2000)
    assert fired == [(NOW + delay_ms, delay_ms) for delay_ms in range(1, 2001)]


def test_a_far_timer_costs_few_wake_ups() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    wheel.insert("a", NOW + DAY, 1)
    fired, wakes = follow(wheel, NOW + DAY)
    assert fired == [(NOW + DAY, 1)]
    assert wakes <= 4


def test_the_past_and_the_present_fire_at_once_earliest_first() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    for item, at_ms in enumerate([NOW, NOW - HOUR, NOW - 1, 0, NOW + 1]):
        wheel.insert(item, at_ms, item)
    assert wheel.advance(NOW, PLENTY) == [3, 1, 2, 0]
    assert wheel.next_deadline() == NOW + 1


def test_a_key_has_one_timer() -> None:
    wheel: TimingWheel[str] = TimingWheel(NOW)
    assert wheel.insert("a", NOW + 10, "old")
    assert not wheel.insert("a", NOW + HOUR, "new")
    assert not wheel.insert("a", NOW + 20, "newest")
    assert (len(wheel), wheel.get("a"), wheel.at("a")) == (1, "newest", NOW + 20)
    assert wheel.advance(NOW + 10, PLENTY) == []
    assert wheel.advance(NOW + 2 * HOUR, PLENTY) == ["newest"]
    assert wheel.get("a") is None and wheel.at("a") is None


@pytest.mark.parametrize("delay_ms", [-5, 2, 700, 30_000, HOUR, 2 * DAY, 10 * DAY])
def test_cancel_and_reschedule_find_it_wherever_it_is(delay_ms: int) -> None:
    wheel: TimingWheel[str] = TimingWheel(NOW)
    wheel.insert("stays", NOW + delay_ms, "stays")
    wheel.insert("goes", NOW + delay_ms, "goes")
    wheel.insert("moves", NOW + delay_ms, "moves")
    assert wheel.cancel("goes") == "goes"
    assert wheel.cancel("goes") is None and not wheel.reschedule("goes", NOW)
    assert wheel.reschedule("moves", NOW + 50 * DAY)
    assert "goes" not in wheel and "stays" in wheel and "moves" in wheel
    assert wheel.advance(NOW + 11 * DAY, PLENTY) == ["stays"]
    assert wheel.advance(NOW + 50 * DAY - 1, PLENTY) == []
    assert wheel.advance(NOW + 50 * DAY, PLENTY) == ["moves"]


@pytest.mark.parametrize("jump_ms", [8_000, HOUR, DAY, 30 * DAY])
@pytest.mark.parametrize("budget", [1, 7, PLENTY])
def test_a_jump_gives_out_everything_in_due_order(jump_ms: int, budget: int) -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    times = [NOW + (number * 7919) % (2 * jump_ms) for number in range(1, 2001)]
    for at_ms in times:
        wheel.insert(at_ms, at_ms, at_ms)
    fired: list[int] = []
    while (deadline := wheel.next_deadline()) is not None and deadline <= NOW + jump_ms:
        fired += wheel.advance(NOW + jump_ms, budget)
    assert fired == sorted({at_ms for at_ms in times if at_ms <= NOW + jump_ms})


@pytest.mark.parametrize("back_ms", [1, 1000, DAY])
def test_time_that_goes_back_fires_nothing_early_and_loses_nothing(back_ms: int) -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    wheel.insert("before", NOW + 5, 1)
    assert wheel.advance(NOW + 1, PLENTY) == []
    past = NOW - back_ms
    wheel.insert("after", past + 100, 2)
    assert wheel.advance(past, PLENTY) == []
    assert wheel.advance(past + 99, PLENTY) == ([1] if past + 99 >= NOW + 5 else [])
    assert wheel.advance(NOW + 200, PLENTY)[-1] == (2 if past + 100 > NOW + 5 else 1)
    assert len(wheel) == 0


def test_no_step_does_more_than_its_budget() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    for number in range(5000):
        wheel.insert(number, NOW + 20_000, number)  # all in one slot, two levels up
        wheel.insert(-1 - number, NOW + 20 * DAY, number)  # all in `far`
    for now_ms, given_out in ((NOW + 20_000, 5000), (NOW + 20 * DAY, 10_000)):
        done = before = wheel.statistics().moved + wheel.statistics().fired
        while wheel.statistics().fired < given_out:
            wheel.advance(now_ms, 100)
            statistics = wheel.statistics()
            before, done = done, statistics.moved + statistics.fired
            assert 0 < done - before <= 100


def test_a_coarse_slot_is_poured_before_it_begins() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    for number in range(1000):
        wheel.insert(number, NOW + 60_000 + number % 100, number)
    wheel.insert("heartbeat", NOW + 50_000, -1)
    assert wheel.statistics().levels[2:] == (0, 0), "60 s lies in level 1, of 256 ms slots"
    wheel.advance(NOW + 59_800, PLENTY)
    assert wheel.statistics().levels[1] == 0, "so nothing is left to be done in the millisecond they are due"


def test_with_a_timer_near_the_next_deadline_is_exact() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    wheel.insert("a", NOW + 203, 1)
    wheel.insert("b", NOW + 202, 1)
    wheel.advance(NOW, PLENTY)
    assert wheel.next_deadline() == NOW + 202
    wheel.cancel("b")
    assert wheel.next_deadline() == NOW + 203


def test_a_half_poured_slot_hides_no_earlier_timer() -> None:
    wheel: TimingWheel[int] = TimingWheel(0)
    wheel.insert("late", 1003, 1003)
    wheel.insert("early", 1001, 1001)
    assert wheel.advance(0, 1) == [], "one unit: the later one is in the heap, the earlier one still in the slot"
    deadline = wheel.next_deadline()
    assert deadline is not None and deadline <= 1001
    fired: list[int] = []
    while len(wheel):
        fired += wheel.advance(2000, 1)
    assert fired == [1001, 1003]


def test_a_coarse_slot_that_begins_with_a_fine_one_goes_first() -> None:
    wheel: TimingWheel[int] = TimingWheel(0)
    wheel.insert("from afar", 2049, 2049)  # to level 1, in the slot that begins at 2048
    assert wheel.advance(1100, PLENTY) == []
    wheel.insert("from near", 2050, 2050)  # to level 0, in the slot that begins at 2048
    assert wheel.advance(1100, PLENTY) == []
    assert wheel.statistics().levels[:2] == (1, 1)
    assert wheel.advance(3000, PLENTY) == [2049, 2050]


def test_cancelled_timers_leave_the_heap_before_their_time() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    wheel.insert("first", NOW + 900, 0)
    wheel.advance(NOW, PLENTY)  # the wheel now stands at 900 ms: all that is earlier goes to the heap
    for number in range(10_000):
        wheel.insert("x", NOW + 100 + number % 700, number)
    statistics = wheel.statistics()
    assert (statistics.timers, statistics.ready) == (2, 2)
    assert statistics.tombstones <= TOMBSTONES + 2
    assert wheel.advance(NOW + 899, PLENTY) == [9999]


def test_statistics_and_repr_tell_where_timers_are() -> None:
    wheel: TimingWheel[int] = TimingWheel(NOW)
    for key, delay_ms in enumerate([-5, 100, 30_000, HOUR, DAY, 9 * DAY]):
        wheel.insert(key, NOW + delay_ms, key)
    statistics = wheel.statistics()
    assert (statistics.timers, statistics.ready, statistics.levels, statistics.far) == (6, 1, (1, 1, 1, 1), 1)
    assert repr(wheel) == f"<TimingWheel at {NOW - 1} ms, 6 timers, 1 ready>"


def test_an_impossible_geometry_is_refused() -> None:
    with pytest.raises(ValueError, match="four slots"):
        TimingWheel(0, radix_bits=6, slot_bits=7)
