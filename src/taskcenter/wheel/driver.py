"""The wheel's driver: sleeps until the next deadline, gives out what is due, never early.

A reference is given to `deliver` when engine time reaches `due_at - lead`, so that admission and the claim are behind
it when the task is due (DESIGN.md §3.2). `deliver` is a plain function that offers to a mailbox, which may refuse; it
neither awaits nor raises. The wheel is kept by due time and turned to `now + lead`.

Ownership. `_live` (shard → task id → reference) says what counts; the wheel only says when. Losing a shard drops its
part of `_live`, which takes no longer for many timers than for one. What that leaves on the wheel is passed over when
its time comes (a window later at most), or replaced when the shard comes back and is loaded again.

Sleeping. The sleeper lies in a cancel scope whose deadline `schedule` moves when something earlier arrives; a later
timer wakes nobody. `Clock.observe` may slew engine time while it sleeps, so a sleep of more than a second ends one
slew's share early and the rest is planned anew. What is left to be late by is 1 % of that second and of the time
between two observations: 35 ms if the clock is observed at every heartbeat, which the lead covers.

Failure. An exception of `deliver` ends `run`; the one reference it was raised for is the loader's scans' to bring back,
the others of its slice are put back. Everything else that can go wrong here is time, and `wheel.py` deals with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter.clock import SLEW, Clock
from taskcenter.task import TaskRef
from taskcenter.wheel.wheel import TimingWheel

LEAD_MS: Final = 50
BUDGET: Final = 256  # units a slice: about 1 ms with what `deliver` adds
SHORT_SLEEP_S: Final = 1.0  # a slew changes it by less than 10 ms
LEAST_SLEEP_S: Final = 0.0001  # above the rounding of UTC milliseconds as floats, so that time does move


@dataclass(frozen=True, slots=True)
class DriverStatistics:
    timers: int  # that wait and are owned
    abandoned: int  # left on the wheel by shards that were lost
    next_deadline_at: int | None  # ms: when the driver has something to do next, None if never
    tick_lag_s: float  # actual minus planned time of the latest wake-up
    worst_tick_lag_s: float  # the largest so far
    delivered: int  # so far


def _ignore(_: float) -> None:
    """A metric nobody asked for."""


class WheelDriver:
    """Owns a `TimingWheel` of task references, keyed by task id. All but `run` is synchronous; one trio loop only."""

    def __init__(
        self,
        clock: Clock,
        deliver: Callable[[TaskRef], None],
        *,
        lead_ms: int = LEAD_MS,
        budget: int = BUDGET,
        on_tick_lag: Callable[[float], None] = _ignore,
        on_timers: Callable[[float], None] = _ignore,
    ) -> None:
        """`on_tick_lag` gets seconds at each planned wake-up, `on_timers` the number of timers after each slice.

        Raises ValueError for a budget that does nothing.
        """
        if budget < 1:
            raise ValueError("a slice must do at least one unit of work")
        self._clock = clock
        self._deliver = deliver
        self._lead_ms = lead_ms
        self._budget = budget
        self._on_tick_lag = on_tick_lag
        self._on_timers = on_timers
        self._wheel: TimingWheel[TaskRef] = TimingWheel(clock.now_ms() + lead_ms)
        self._live: dict[int, dict[str, TaskRef]] = {}  # changed by the methods below only
        self._timers = 0  # in `_live`
        self._sleep: trio.CancelScope | None = None  # while `run` sleeps
        self._asleep_until_ms: float = 0  # the wheel time that sleep is for
        self._running = False
        self._tick_lag_s = 0.0
        self._worst_tick_lag_s = 0.0
        self._delivered = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver for ever, in slices of `budget`, others running in between. Raises what `deliver` raises."""
        if self._running:
            raise RuntimeError("the driver runs already")
        self._running = True
        try:
            task_status.started()
            while True:
                now_ms = self._clock.now_ms() + self._lead_ms
                self._deliver_due(now_ms)
                self._on_timers(self._timers)
                next_ms = self._wheel.next_deadline()
                if next_ms is not None and next_ms <= now_ms:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._sleep_until(next_ms)
        finally:
            self._running = False

    def schedule(self, ref: TaskRef) -> bool:
        """Deliver `ref` at its due time less the lead, at once if that is past. True if this changed anything.

        Of two references to one task the newer version counts; of one version the later call.
        """
        live = self._live.get(ref.shard)
        if live is None:
            live = self._live[ref.shard] = {}
        known = live.get(ref.task_id)
        if known is None:
            self._timers += 1
        elif known.version > ref.version or known == ref:
            return False
        live[ref.task_id] = ref
        self._wheel.insert(ref.task_id, ref.due_at, ref)
        if self._sleep is not None and ref.due_at < self._asleep_until_ms:
            self._asleep_until_ms = ref.due_at
            self._sleep.deadline = self._wake_at(ref.due_at)
        return True

    def forget(self, task_id: str) -> bool:
        """Deliver the task no more. False if it was not on the wheel."""
        ref = self._wheel.cancel(task_id)
        return ref is not None and self._discard(ref)

    def drop_shard(self, shard: int) -> int:
        """Forget all tasks of a shard that was lost; their number. What it costs does not depend on that number."""
        dropped = len(self._live.pop(shard, ()))
        self._timers -= dropped
        return dropped

    def drop_shards(self, shards: Iterable[int]) -> int:
        """As `drop_shard`, for each."""
        return sum(map(self.drop_shard, shards))

    def wake(self) -> None:
        """The clock has jumped: look again at what is due."""
        if self._sleep is not None:
            self._sleep.deadline = trio.current_time()

    def statistics(self) -> DriverStatistics:
        next_ms = self._wheel.next_deadline()
        return DriverStatistics(
            timers=self._timers,
            abandoned=len(self._wheel) - self._timers,
            next_deadline_at=None if next_ms is None else next_ms - self._lead_ms,
            tick_lag_s=self._tick_lag_s,
            worst_tick_lag_s=self._worst_tick_lag_s,
            delivered=self._delivered,
        )

    def holds(self, ref: TaskRef) -> bool:
        """Whether the task is on the wheel in this version or a newer one."""
        known = self._live.get(ref.shard, {}).get(ref.task_id)
        return known is not None and known.version >= ref.version

    def __contains__(self, task_id: str) -> bool:
        ref = self._wheel.get(task_id)
        return ref is not None and self._live.get(ref.shard, {}).get(task_id) is ref

    def __len__(self) -> int:
        return self._timers

    def __repr__(self) -> str:
        state = "asleep" if self._sleep is not None else "awake" if self._running else "stopped"
        return f"<WheelDriver {state}, {self._timers} timers, {self._delivered} delivered>"

    def _deliver_due(self, now_ms: int) -> None:
        """One slice. Should `deliver` raise, what was not offered yet goes back on the wheel."""
        due = self._wheel.advance(now_ms, self._budget)
        tried = 0
        try:
            for ref in due:
                tried += 1
                if self._discard(ref):
                    self._delivered += 1
                    self._deliver(ref)
        finally:
            for ref in due[tried:]:
                if self._live.get(ref.shard, {}).get(ref.task_id) is ref:
                    self._wheel.insert(ref.task_id, ref.due_at, ref)

    def _discard(self, ref: TaskRef) -> bool:
        """Take a reference that left the wheel out of the live ones. False if its shard was lost meanwhile."""
        live = self._live.get(ref.shard)
        if live is None or live.get(ref.task_id) is not ref:
            return False
        del live[ref.task_id]
        self._timers -= 1
        return True

    def _wake_at(self, wheel_ms: int) -> float:
        """The `trio.current_time()` to wake at for the wheel time: shortened by what a slew may take, if it is far."""
        now = trio.current_time()
        rest_s = self._clock.deadline_for(wheel_ms - self._lead_ms) - now
        if rest_s > SHORT_SLEEP_S:
            rest_s = max(SHORT_SLEEP_S, rest_s * (1 - SLEW))
        return now + max(rest_s, LEAST_SLEEP_S)

    async def _sleep_until(self, wheel_ms: int | None) -> None:
        """Sleep until then, or until what `schedule` puts before it; note how late the wake-up was."""
        self._asleep_until_ms = math.inf if wheel_ms is None else wheel_ms
        sleep = trio.CancelScope(deadline=math.inf if wheel_ms is None else self._wake_at(wheel_ms))
        self._sleep = sleep
        try:
            with sleep:
                await trio.sleep_forever()
        finally:
            self._sleep = None
        self._tick_lag_s = max(0.0, trio.current_time() - sleep.deadline)
        self._worst_tick_lag_s = max(self._worst_tick_lag_s, self._tick_lag_s)
        self._on_tick_lag(self._tick_lag_s)
