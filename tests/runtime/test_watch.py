"""Who has stopped living, and a store's clock that is set: back, forward, both."""

from __future__ import annotations

from dataclasses import replace

from taskcenter.runtime.watch import STALL_MARGIN_S, Watch
from taskcenter.store.engine_records import Instance

TTL_S = 10.0
ONE = Instance("one", None, "", seq=1, dead=False, expires_in_ms=10_000, started_at=0)
HOUR_MS = 3_600_000


def test_a_row_that_moves_is_never_stalled() -> None:
    watch = Watch(TTL_S)
    for beat in range(40):
        assert watch.stalled([replace(ONE, seq=beat)], 2.5 * beat) == []


def test_a_row_that_stands_still_is_stalled_after_a_lease_and_a_margin() -> None:
    watch = Watch(TTL_S)
    assert watch.stalled([ONE], 100.0) == []
    assert watch.stalled([ONE], 100.0 + TTL_S + STALL_MARGIN_S) == []
    assert watch.stalled([ONE], 100.1 + TTL_S + STALL_MARGIN_S) == [("one", 1)]


def test_the_dead_and_the_forgotten_are_not_watched() -> None:
    watch = Watch(TTL_S)
    watch.stalled([ONE], 0)
    assert watch.stalled([replace(ONE, dead=True)], 100) == []
    assert watch.stalled([ONE], 101) == [], "it is seen anew"


def test_a_clock_that_goes_like_ours_is_believed() -> None:
    watch = Watch(TTL_S)
    for beat in range(40):
        watch.heard(1_000_000 + 2_500 * beat, 2.5 * beat)
        assert watch.believed_ms(2.5 * beat + 1) == 1_000_000 + 2_500 * beat + 1_000


def test_a_clock_set_back_is_believed_at_once() -> None:
    watch = Watch(TTL_S)
    watch.heard(10 * HOUR_MS, 0)
    watch.heard(9 * HOUR_MS, 2.5)
    assert watch.believed_ms(2.5) == 9 * HOUR_MS


def test_a_clock_set_forward_is_believed_when_all_have_beaten_by_it() -> None:
    watch = Watch(TTL_S)
    watch.heard(0, 0)
    for beat in range(1, 5):
        watch.heard(HOUR_MS + 2_500 * beat, 2.5 * beat)
        assert watch.believed_ms(2.5 * beat) == 2_500 * beat
    watch.heard(HOUR_MS + 12_600, 12.6)
    assert watch.believed_ms(12.6) == HOUR_MS + 12_600


def test_after_a_long_silence_the_latest_reading_counts() -> None:
    watch = Watch(TTL_S)
    watch.heard(0, 0)
    assert watch.believed_ms(100) == 100_000
    watch.heard(HOUR_MS, 100)
    assert watch.believed_ms(100) == HOUR_MS


def test_after_a_silence_of_the_store_the_others_are_forgiven_for_half_a_lease() -> None:
    watch = Watch(TTL_S)
    for beat in range(5):
        watch.heard(1_000_000 + 2_500 * beat, 90.0 + 2.5 * beat)
    assert not watch.forgiving(100.0)
    watch.heard(1_005_000, 105.0)
    assert not watch.forgiving(105.0), "two beats that failed are no silence"
    watch.heard(1_020_000, 120.0)
    assert watch.forgiving(120.0)
    watch.heard(1_022_500, 122.5)
    assert watch.forgiving(124.9)
    assert not watch.forgiving(125.0)


def test_who_has_not_watched_for_a_lease_lets_none_run_out() -> None:
    """The clock may have been set forward a moment before."""
    watch = Watch(TTL_S)
    assert watch.forgiving(99.0), "nothing is known of the store's clock"
    for beat in range(4):
        watch.heard(HOUR_MS + 2_500 * beat, 100.0 + 2.5 * beat)
    assert watch.forgiving(109.9)
    assert not watch.forgiving(110.0)
