"""The rate limit against a brute-force model, over hours of virtual traffic."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taskcenter.actors.limiter import GUARD_MS, WINDOW_MS, SlidingWindowLimiter

steps = st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), min_size=1, max_size=300)


def most_in_any_window(starts: list[int], window_ms: int) -> int:
    """The largest number of starts in any half-open window of that length, by comparing each with each."""
    return max((sum(begin <= at < begin + window_ms for at in starts) for begin in starts), default=0)


@given(limit=st.integers(1, 7), plan=steps)
def test_no_sliding_minute_sees_more_than_the_limit(limit: int, plan: list[tuple[int, bool]]) -> None:
    limiter = SlidingWindowLimiter(limit)
    now, starts = 0, []
    for pause_ms, wait in plan:
        now += pause_ms
        at = limiter.available_at(now)
        if at > now and not wait:
            continue
        now = max(now, at)
        limiter.take(now)
        starts.append(now)
    assert most_in_any_window(starts, WINDOW_MS + GUARD_MS) <= limit


@given(limit=st.integers(1, 50))
def test_a_burst_up_to_the_limit_passes_at_once_and_the_next_waits_the_whole_window(limit: int) -> None:
    limiter = SlidingWindowLimiter(limit)
    for _ in range(limit):
        assert limiter.available_at(1000) == 1000
        limiter.take(1000)
    assert limiter.available_at(1000) == 1000 + WINDOW_MS + GUARD_MS


def test_a_start_that_did_not_happen_is_given_back() -> None:
    limiter = SlidingWindowLimiter(1)
    entry = limiter.take(1000)
    assert limiter.available_at(1001) > 1001
    limiter.give_back(entry)
    assert limiter.available_at(1001) == 1001


def test_a_start_later_than_planned_counts_from_when_it_happened() -> None:
    limiter = SlidingWindowLimiter(1)
    entry = limiter.take(1000)
    limiter.restate(entry, 3000)
    assert limiter.available_at(3000) == 3000 + WINDOW_MS + GUARD_MS


def test_a_raised_limit_is_in_force_at_once_and_a_lowered_one_too() -> None:
    limiter = SlidingWindowLimiter(2)
    limiter.take(0)
    limiter.take(10)
    limiter.limit = 3
    assert limiter.available_at(20) == 20
    limiter.limit = 1
    assert limiter.available_at(20) == 10 + WINDOW_MS + GUARD_MS


def test_a_new_owner_goes_on_from_the_history() -> None:
    limiter = SlidingWindowLimiter(3)
    limiter.rebuild([50, 10, 30])
    assert limiter.used(60) == 3
    assert limiter.available_at(60) == 10 + WINDOW_MS + GUARD_MS


@given(limit=st.integers(1, 5), taken=st.lists(st.integers(0, 3_000), max_size=7), ahead=st.integers(0, 20))
def test_the_expected_start_is_when_it_starts_if_all_before_it_start_as_early_as_they_may(
    limit: int, taken: list[int], ahead: int
) -> None:
    limiter = SlidingWindowLimiter(limit)
    now = 0
    for pause_ms in taken:
        now = limiter.available_at(now + pause_ms)
        limiter.take(now)
    expected = limiter.expected_at(ahead, now)
    for _ in range(ahead):
        now = limiter.available_at(now)
        limiter.take(now)
    assert limiter.available_at(now) == expected
