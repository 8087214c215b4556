"""A receiver dead for ten minutes with 5,000 tasks waiting: how it is probed, found well again, and not run over."""

from __future__ import annotations

import trio
from tests.actors.actor_kit import NOW, world
from tests.actors.scripted import Call, answered

from taskcenter.actors.backlog import BURST_MS
from taskcenter.actors.breaker import BreakerState
from taskcenter.actors.egress.exchange import Exchange, Faulted
from taskcenter.task import Status

REFUSED = Faulted("connection_error", "connection refused", sent=False)
TASKS = 5_000
DEAD_MS = 600_000
RATE = 6_000  # a minute
OPEN_S, MOST_OPEN_S, THRESHOLD = 30, 120, 5


async def test_all_within_what_the_settings_say(autojump_clock: object) -> None:
    breaker = {"failure_threshold": THRESHOLD, "open_seconds": OPEN_S, "max_open_seconds": MOST_OPEN_S}
    async with world(rate_limit=RATE, max_concurrent_tasks=THRESHOLD, breaker=breaker, pace=1.0) as the:
        well_at = NOW + DEAD_MS

        async def mood(call: Call) -> Exchange:
            await trio.sleep(0.02)
            return answered() if call.at >= well_at else REFUSED

        the.receivers.mood = mood
        await the.run(TASKS, retry_intervals_ms=(1_000,) * 10)
        await trio.sleep(DEAD_MS / 1000 - 1)
        dead = [call.at for call in the.receivers.calls]
        # 5 failures open it; then one probe each after 30, 60, 120, 120, … s, a tenth less at most by jitter
        assert THRESHOLD < len(dead) <= THRESHOLD + 2 + (DEAD_MS - 90_000 * 0.9) / (MOST_OPEN_S * 1000 * 0.9) + 1
        assert all(
            later - at >= OPEN_S * 900 for at, later in zip(dead[THRESHOLD:], dead[THRESHOLD + 1 :], strict=False)
        )
        worst = the.actor().admission.breakers.worst
        assert worst is not None and worst.next_probe_at is not None
        assert worst.state is BreakerState.OPEN and worst.next_probe_at - NOW <= DEAD_MS + MOST_OPEN_S * 1000
        assert [rule for rule, _ in the.alerts] == ["breaker_open"], "once, not with every probe"

        await the.receivers.wait_for(len(dead) + TASKS, within_s=MOST_OPEN_S + TASKS * 60 / RATE + 30)
        await trio.sleep(1)
        assert (await the.store.tasks.status_counts(7))[Status.SUCCEEDED] == TASKS
        retries = [outcome for outcome in the.tries if outcome.move.status is Status.RETRYING]
        assert len(retries) == len(dead), "waiting used no attempt"
        well = [call.at for call in the.receivers.calls[len(dead) :]]
        assert well[0] - well_at <= MOST_OPEN_S * 1000, "found within one probe interval"
        assert the.actor().admission.breakers.all_closed
        assert well[1] - well[0] <= 100, "and closed with the first answer"
        a_second = 1 + (1_000 + BURST_MS) * RATE // 60_000
        assert all(later - at >= 1_000 for at, later in zip(well, well[a_second:], strict=False)), "not run over"
        assert well[-1] - well[0] <= TASKS * 60_000 / RATE + 2_000, "and no slower than it may"
        assert the.receivers.most_at_once <= THRESHOLD
