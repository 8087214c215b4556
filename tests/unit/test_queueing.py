"""Whether a queue stands: rules one by one, and a queue under virtual hours of offered load."""

from __future__ import annotations

import random
from collections import deque
from math import sqrt

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from taskcenter.queueing import INTERVAL_MS, QUICKER, StandingQueue

TARGET_MS = 100


def test_a_burst_is_taken_up_and_a_queue_that_stands_for_an_interval_is_not() -> None:
    queue = StandingQueue(TARGET_MS)
    for now in range(0, INTERVAL_MS, 10):
        queue.waited(TARGET_MS + 200, now)
        assert not queue.refuses(TARGET_MS + 200, now)
    queue.waited(TARGET_MS + 1, INTERVAL_MS)
    assert queue.refuses(TARGET_MS + 1, INTERVAL_MS)
    assert not queue.refuses(TARGET_MS, INTERVAL_MS), "whoever would wait no longer than the target passes"
    queue.waited(TARGET_MS, INTERVAL_MS + 1)
    assert not queue.stands(INTERVAL_MS + 1), "one short wait, and it was a burst after all"


def test_one_that_stood_a_moment_ago_is_seen_sooner() -> None:
    queue = StandingQueue(TARGET_MS)
    queue.waited(500, 0)
    queue.waited(500, INTERVAL_MS)
    queue.waited(1, INTERVAL_MS + 10)
    queue.waited(500, INTERVAL_MS + 20)
    assert queue.stands(INTERVAL_MS + 20 + INTERVAL_MS / 10)
    much_later = 100 * INTERVAL_MS
    queue.waited(1, much_later)
    queue.waited(500, much_later + 1)
    assert not queue.stands(much_later + 1 + INTERVAL_MS / 10)


def test_a_queue_out_of_which_nothing_is_taken_refuses() -> None:
    assert StandingQueue(TARGET_MS).refuses(2 * INTERVAL_MS + 1, 0)


@settings(max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate], deadline=None)
@given(factor=st.floats(0.2, 4), seed=st.integers(0, 1000), commit_ms=st.integers(5, 60), group=st.integers(1, 16))
def test_whatever_is_offered_waits_stay_bounded_and_no_capacity_is_wasted(
    factor: float, seed: int, commit_ms: int, group: int
) -> None:
    """A group committer as `service.creator` is one: `group` creates in `commit_ms`; arrivals by a Poisson process."""
    rng = random.Random(seed)
    capacity = group / commit_ms  # creates a ms
    queue, waiting = StandingQueue(TARGET_MS), deque[float]()
    now, free_at, taken, refused, waits = 0.0, 0.0, 0, 0, list[float]()
    total_ms = 10_000
    while now < total_ms:
        now += rng.expovariate(factor * capacity)
        while waiting and max(free_at, waiting[0]) <= now:
            start = max(free_at, waiting[0])
            queue.waited(start - waiting[0], start)
            for _ in range(group):
                if waiting and waiting[0] <= start:
                    waits.append(start - waiting.popleft())
                    taken += 1
            free_at = start + commit_ms
        if queue.refuses(now - waiting[0] if waiting else 0.0, now):
            refused += 1
        else:
            waiting.append(now)
    late = sorted(waits[len(waits) // 2 :])  # what was inside before the queue was seen to stand has gone
    if late:
        # Once the queue has stood, the door stays open while the first in it waits for the target, the next take is
        # due, a tenth of an interval passes and one more take comes; whoever came in meanwhile is waited for.
        open_ms = TARGET_MS + INTERVAL_MS / QUICKER + 2 * commit_ms
        came_in = max(1, factor) * open_ms * capacity
        assert late[int(0.95 * (len(late) - 1))] <= (came_in + 3 * sqrt(came_in)) / capacity
    if factor >= 1.5:
        assert taken >= 0.8 * capacity * total_ms - 2 * group, "goodput"
        assert refused > 0
    if factor <= 0.5 and group >= 4:
        assert refused <= 0.02 * (taken + refused), "what it can take is taken"
