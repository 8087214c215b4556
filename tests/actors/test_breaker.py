"""The circuit breaker: its rules one by one, then a Hypothesis machine over hours of virtual traffic."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskcenter.actors.breaker import (
    GRAINS,
    JITTER,
    Breaker,
    BreakerSettings,
    BreakerState,
    CallWindow,
    Ticket,
    Transition,
)
from taskcenter.actors.breakers import MAX_BREAKERS, Breakers


def no_jitter() -> float:
    return 0.0


def call(breaker: Breaker, now: int, *, ok: bool) -> None:
    assert breaker.admits(now)
    ticket = breaker.start()
    if ok:
        breaker.succeed(ticket, now)
    else:
        breaker.fail(ticket, now, "503")


def opened(settings: BreakerSettings, seen: list[Transition] | None = None) -> Breaker:
    breaker = Breaker(settings, no_jitter, (seen if seen is not None else []).append)
    for _ in range(settings.failure_threshold):
        call(breaker, 0, ok=False)
    return breaker


def test_it_opens_on_failures_in_a_row_and_a_success_between_starts_the_count_anew() -> None:
    breaker = Breaker(BreakerSettings(failure_threshold=3), no_jitter)
    for ok in (False, False, True, False, False):
        call(breaker, 0, ok=ok)
    assert breaker.state is BreakerState.CLOSED
    call(breaker, 0, ok=False)
    assert breaker.state is BreakerState.OPEN
    assert not breaker.admits(0)


def test_it_opens_on_the_failure_rate_only_with_enough_calls_in_the_window() -> None:
    breaker = Breaker(
        BreakerSettings(failure_threshold=99, failure_rate=0.5, min_calls=4, window_seconds=10), no_jitter
    )
    for now, ok in ((0, False), (100, False), (20_000, True), (20_100, False), (20_200, True)):
        call(breaker, now, ok=ok)
    assert breaker.state is BreakerState.CLOSED, "the first two have left the window"
    call(breaker, 20_300, ok=False)
    assert breaker.state is BreakerState.OPEN


def test_one_probe_at_a_time_and_its_success_closes() -> None:
    seen: list[Transition] = []
    breaker = opened(BreakerSettings(open_seconds=30), seen)
    assert not breaker.admits(29_999)
    assert breaker.admits(30_000)
    probe = breaker.start()
    assert not breaker.admits(30_001), "a second probe would be a stampede"
    breaker.succeed(probe, 30_500)
    assert [transition.to for transition in seen] == ["open", "half_open", "closed"]


def test_the_open_time_doubles_with_each_failed_probe_up_to_the_cap_and_starts_anew_after_a_recovery() -> None:
    breaker = opened(BreakerSettings(open_seconds=30, max_open_seconds=100))
    waits, now = [], 0
    for _ in range(4):
        assert breaker.next_probe_at is not None
        waits.append(breaker.next_probe_at - now)
        now = breaker.next_probe_at
        call(breaker, now, ok=False)
    assert waits == [30_000, 60_000, 100_000, 100_000]
    assert breaker.next_probe_at is not None
    call(breaker, breaker.next_probe_at, ok=True)
    assert breaker.state is BreakerState.CLOSED


def test_it_ramps_up_after_a_recovery_and_one_failure_on_the_ramp_opens_again() -> None:
    breaker = opened(BreakerSettings())
    call(breaker, 30_000, ok=True)
    first, second = breaker.start(), breaker.start()
    assert not breaker.admits(30_001), "two at once, no more, right after closing"
    breaker.succeed(first, 30_002)
    assert breaker.admits(30_003)
    breaker.fail(second, 30_004, "timeout")
    assert breaker.state is BreakerState.OPEN


def test_a_call_from_before_the_last_move_no_longer_counts() -> None:
    breaker = Breaker(BreakerSettings(failure_threshold=1), no_jitter)
    slow = breaker.start()
    call(breaker, 0, ok=False)
    call(breaker, 30_000, ok=True)
    breaker.fail(slow, 30_001, "timeout")
    assert breaker.state is BreakerState.CLOSED


def test_switched_off_it_admits_everything() -> None:
    breaker = Breaker(BreakerSettings(enabled=False, failure_threshold=1), no_jitter)
    for _ in range(5):
        call(breaker, 0, ok=False)
    assert breaker.state is BreakerState.CLOSED


def test_the_window_of_the_failure_rate_costs_the_same_whatever_the_traffic() -> None:
    window = CallWindow(60)
    for number in range(20_000):
        window.add(number * 7, failed=number % 4 == 0)
    assert len(window) <= GRAINS + 1
    assert window.count == pytest.approx(60_000 / 7, rel=2 / GRAINS)
    assert window.failed == pytest.approx(window.count / 4, rel=0.01)


def test_a_businesss_breakers_are_bounded_and_those_that_say_something_stay() -> None:
    breakers = Breakers(BreakerSettings(failure_threshold=1), no_jitter)
    for number in range(20):
        call(breakers.of(f"dead-{number}"), number, ok=False)
    for number in range(5_000):
        call(breakers.of(f"well-{number}"), 100, ok=True)
        breakers.of("often")
    assert len(list(breakers)) <= MAX_BREAKERS
    assert [host for host, _ in breakers.unwell] == [f"dead-{number}" for number in range(20)]
    assert breakers.closed_since is None
    for number in range(5_000):
        call(breakers.of(f"ill-{number}"), 200, ok=False)
    assert len(list(breakers)) <= MAX_BREAKERS, "even if all are open"


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, ends, lost ends and pauses: bounds on probes and on open time hold, and it never sticks."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.settings = BreakerSettings(open_seconds=10, max_open_seconds=40, half_open_probes=2)
        self.breaker = Breaker(self.settings, lambda: 0.5)
        self.flying: list[tuple[Ticket, BreakerState]] = []

    @rule(pause_ms=st.integers(0, 50_000))
    def wait(self, pause_ms: int) -> None:
        self.now += pause_ms

    @rule()
    def begin(self) -> None:
        if self.breaker.admits(self.now):
            self.flying.append((self.breaker.start(), self.breaker.state))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), end=st.sampled_from(["succeed", "fail", "cancel"]))
    def end(self, data: st.DataObject, end: str) -> None:
        ticket, _ = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if end == "succeed":
            self.breaker.succeed(ticket, self.now)
        elif end == "fail":
            self.breaker.fail(ticket, self.now, "500")
        else:
            self.breaker.cancel(ticket)

    @invariant()
    def probes_are_bounded(self) -> None:
        if self.breaker.state is BreakerState.HALF_OPEN:
            current = sum(ticket == Ticket(self.breaker._epoch) for ticket, _ in self.flying)
            assert current <= self.settings.half_open_probes

    @invariant()
    def an_open_breaker_names_its_next_probe_and_it_is_soon(self) -> None:
        if self.breaker.state is BreakerState.OPEN:
            assert self.breaker.next_probe_at is not None
            assert self.breaker.since is not None
            open_ms = self.breaker.next_probe_at - self.breaker.since
            assert self.settings.open_seconds * 1000 * (1 - JITTER) <= open_ms <= self.settings.max_open_seconds * 1000

    @invariant()
    def it_never_sticks(self) -> None:
        if not self.flying:
            later = self.now if self.breaker.next_probe_at is None else max(self.now, self.breaker.next_probe_at)
            assert self.breaker.admits(later) or self.breaker.state is BreakerState.OPEN
            self.now = later


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestBreakerMachine = BreakerMachine.TestCase
