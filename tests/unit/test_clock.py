"""Engine time: drift is followed, a clock that is set alone is not, and time that was slept through is made up for."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from taskcenter.clock import AHEAD, ALL_APART, FRESH_S, MACHINE_SET, READING_S, SLEW, STORE_SET, Clock, believed

ANCHOR = 1_800_000_000_000
HOUR_MS = 3_600_000.0


@pytest.mark.parametrize(
    ("machine_ms", "store_ms", "expected"),
    [
        (0.0, None, (0.0, None)),
        (-4_000.0, None, (-4_000.0, None)),
        (HOUR_MS, None, (0.0, MACHINE_SET)),
        (3.0, 4_000.0, (3.0, None)),
        (3.0, HOUR_MS, (3.0, STORE_SET)),
        (HOUR_MS, -20.0, (-20.0, MACHINE_SET)),
        (HOUR_MS, -HOUR_MS, (0.0, ALL_APART)),
        (HOUR_MS, HOUR_MS + 100, (HOUR_MS, None)),
        (-HOUR_MS, -HOUR_MS + 100, (-HOUR_MS, AHEAD)),
    ],
)
def test_whom_to_believe(machine_ms: float, store_ms: float | None, expected: tuple[float, str | None]) -> None:
    assert believed(machine_ms, store_ms) == expected


async def observed(clock: Clock, seconds: int, machine_ms: float, store_ms: float | None = None) -> list[bool]:
    """Once a second, with the other clocks so far off the true time (trio's); whether it jumped."""
    jumped = []
    for _ in range(seconds):
        await trio.sleep(1)
        true_ms = ANCHOR + trio.current_time() * 1000
        if store_ms is not None:
            clock.hear_store(true_ms + store_ms, trio.current_time())
        jumped.append(clock.observe(true_ms + machine_ms))
    return jumped


def off(clock: Clock) -> float:
    return clock.now_ms_exact() - ANCHOR - trio.current_time() * 1000


async def test_drift_is_followed_gently(autojump_clock: object) -> None:
    clock = Clock(ANCHOR + trio.current_time() * 1000)
    assert not any(await observed(clock, 100, 500))
    assert off(clock) == pytest.approx(500)
    await observed(clock, 10, 4_500)
    assert off(clock) == pytest.approx(500 + 10_000 * SLEW)


async def test_a_pause_between_two_looks_at_clocks_is_no_difference_of_theirs(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process stands still while it looks: before, after or between, all but once."""
    pauses_ms = iter([40, 25, 0, 60, 30] * 3)

    def wall() -> float:
        stood_s = next(pauses_ms) / 1000
        autojump_clock.jump(stood_s / 2)
        read = ANCHOR / 1000 + trio.current_time()
        autojump_clock.jump(stood_s / 2)
        return read

    monkeypatch.setattr("taskcenter.clock.time.time", wall)
    clock = Clock()
    assert off(clock) == pytest.approx(0, abs=0.001)
    for _ in range(2):
        await trio.sleep(1)
        clock.observe_wall()
        assert off(clock) == pytest.approx(0, abs=0.001)
        assert clock.statistics().error_ms == pytest.approx(0, abs=0.001)


@pytest.mark.parametrize("step_ms", [-24 * HOUR_MS, -HOUR_MS, -60_000, 60_000, HOUR_MS, 24 * HOUR_MS])
async def test_one_clock_that_is_set_is_not_followed(autojump_clock: object, step_ms: float) -> None:
    clock = Clock(ANCHOR + trio.current_time() * 1000)
    cases = ((step_ms, None, MACHINE_SET), (step_ms, 0, MACHINE_SET), (0, step_ms, STORE_SET))
    for machine_ms, store_ms, fault in cases:
        assert not any(await observed(clock, 200, machine_ms, store_ms))
        assert (off(clock), clock.fault) == (pytest.approx(0, abs=0.01), fault)
        await observed(clock, int(FRESH_S) + 2, 0)
        assert clock.fault is None


async def test_time_that_both_others_say_has_gone_by_is_made_up_for_at_once(autojump_clock: object) -> None:
    clock = Clock(ANCHOR + trio.current_time() * 1000)
    assert await observed(clock, 5, HOUR_MS, HOUR_MS + 20) == [False, False, True, False, False]
    assert off(clock) == pytest.approx(HOUR_MS)
    assert clock.fault is None


async def test_ahead_of_both_others_it_is_led_back_and_never_runs_backwards(autojump_clock: object) -> None:
    clock = Clock(ANCHOR + trio.current_time() * 1000)
    before = clock.now_ms_exact()
    assert not any(await observed(clock, 100, -HOUR_MS, -HOUR_MS))
    assert clock.now_ms_exact() - before == pytest.approx(100_000 * (1 - SLEW), abs=30)
    assert clock.fault == AHEAD


async def test_a_suspended_machines_sleep_is_added_without_asking(autojump_clock: object) -> None:
    slept = [12.0]
    clock = Clock(ANCHOR + trio.current_time() * 1000, lambda: slept[0])
    assert not any(await observed(clock, 3, 0))
    slept[0] += 90.0
    await trio.sleep(1)
    true_ms = ANCHOR + trio.current_time() * 1000 + 90_000
    assert clock.observe(true_ms)
    assert clock.now_ms_exact() == pytest.approx(true_ms)
    assert not clock.observe(true_ms)


async def test_at_the_start_the_servers_clock_decides(autojump_clock: object) -> None:
    clock = Clock(ANCHOR)
    clock.begin_with(ANCHOR + 4_000)
    assert clock.now_ms() == ANCHOR, "that is drift"
    for there in (ANCHOR + HOUR_MS, ANCHOR - 24 * HOUR_MS):
        clock.begin_with(there)
        assert clock.now_ms_exact() == pytest.approx(there)
    clock.hear_store(ANCHOR + HOUR_MS, trio.current_time())
    assert clock.now_ms_exact() == pytest.approx(ANCHOR - 24 * HOUR_MS), "at the start alone"


async def test_a_slow_or_an_old_reading_says_nothing(autojump_clock: object) -> None:
    clock = Clock(ANCHOR)
    asked_at = trio.current_time()
    await trio.sleep(READING_S + 0.1)
    clock.hear_store(ANCHOR + HOUR_MS, asked_at)
    assert clock.statistics().store_error_ms is None
    clock.hear_store(clock.now_ms_exact() + 7, trio.current_time())
    assert clock.statistics().store_error_ms == pytest.approx(7)
    await trio.sleep(FRESH_S + 1)
    assert clock.statistics().store_error_ms is None
