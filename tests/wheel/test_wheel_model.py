"""The wheel against a heap, by Hypothesis: whatever is done to both, the same timers come out in the same order."""

from __future__ import annotations

import heapq

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from taskcenter.wheel.wheel import TimingWheel

GEOMETRIES = [
    {},  # the real one
    {"tick_bits": 0, "radix_bits": 1, "slot_bits": 3, "levels": 1},  # reaches 8 ms: all else is `far`
    {"tick_bits": 1, "radix_bits": 1, "slot_bits": 3, "levels": 3},
    {"tick_bits": 2, "radix_bits": 2, "slot_bits": 4, "levels": 2},
]
KEYS = st.integers(0, 30)
DELAYS = st.one_of(
    st.integers(0, 9), st.integers(-20, 60), st.integers(-2000, 5000), st.integers(0, 10**6), st.integers(0, 10**9)
)
BUDGETS = st.one_of(st.integers(1, 6), st.just(10**6))
STEPS = st.one_of(st.integers(0, 5), st.integers(0, 300), st.integers(-100_000, -1), st.integers(0, 10**9))


class WheelAgainstHeap(RuleBasedStateMachine):
    @initialize(geometry=st.sampled_from(GEOMETRIES), now_ms=st.integers(0, 10**12))
    def begin(self, geometry: dict[str, int], now_ms: int) -> None:
        self.now_ms = now_ms
        self.wheel: TimingWheel[int] = TimingWheel(now_ms, **geometry)
        self.heap: list[tuple[int, int, int]] = []  # (time, serial, key); an entry counts if `known` says the same
        self.known: dict[int, tuple[int, int]] = {}  # key → (time, serial); the serial is the item
        self.serial = 0

    def earliest(self) -> int | None:
        while self.heap and self.known.get(self.heap[0][2]) != self.heap[0][:2]:
            heapq.heappop(self.heap)
        return self.heap[0][0] if self.heap else None

    @rule(key=KEYS, delay_ms=DELAYS)
    def insert(self, key: int, delay_ms: int) -> None:
        self.serial += 1
        at_ms = self.now_ms + delay_ms
        assert self.wheel.insert(key, at_ms, self.serial) == (key not in self.known)
        self.known[key] = (at_ms, self.serial)
        heapq.heappush(self.heap, (at_ms, self.serial, key))

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        known = self.known.pop(key, None)
        assert self.wheel.cancel(key) == (None if known is None else known[1])

    @rule(key=KEYS, delay_ms=DELAYS)
    def reschedule(self, key: int, delay_ms: int) -> None:
        at_ms = self.now_ms + delay_ms
        assert self.wheel.reschedule(key, at_ms) == (key in self.known)
        if key in self.known:
            self.known[key] = (at_ms, self.known[key][1])
            heapq.heappush(self.heap, (*self.known[key], key))

    @rule(step_ms=STEPS, budget=BUDGETS)
    def one_slice(self, step_ms: int, budget: int) -> None:
        self.now_ms += step_ms
        self.advance(budget)

    @rule(step_ms=STEPS, budget=BUDGETS)
    def all_that_is_due(self, step_ms: int, budget: int) -> None:
        self.now_ms += step_ms
        while (deadline := self.wheel.next_deadline()) is not None and deadline <= self.now_ms:
            self.advance(budget)
        earliest = self.earliest()
        assert earliest is None or earliest > self.now_ms, "due, but not given out"

    @rule(budget=BUDGETS)
    def sleep_to_the_next(self, budget: int) -> None:
        """As the driver does: from deadline to deadline, so the next timer fires in exactly its millisecond."""
        earliest = self.earliest()
        if earliest is None:
            return
        due = 0
        while not due:
            deadline = self.wheel.next_deadline()
            assert deadline is not None
            assert deadline <= max(earliest, self.now_ms), "would have slept past it"
            self.now_ms = max(self.now_ms, deadline)
            due = self.advance(budget)

    def advance(self, budget: int) -> int:
        before = self.wheel.statistics()
        due = self.wheel.advance(self.now_ms, budget)
        after = self.wheel.statistics()
        assert after.fired - before.fired == len(due)
        assert after.fired + after.moved - before.fired - before.moved <= budget
        for item in due:
            earliest = self.earliest()
            at_ms, key = next((at, key) for key, (at, serial) in self.known.items() if serial == item)
            assert at_ms <= self.now_ms, "early"
            assert at_ms == earliest, "not in due order"
            del self.known[key]
        return len(due)

    @invariant()
    def same_timers(self) -> None:
        if not hasattr(self, "wheel"):
            return
        assert len(self.wheel) == len(self.known)
        for key, (at_ms, serial) in self.known.items():
            assert (self.wheel.at(key), self.wheel.get(key)) == (at_ms, serial)
        statistics = self.wheel.statistics()
        assert statistics.timers == statistics.ready + sum(statistics.levels) + statistics.far

    def teardown(self) -> None:
        """Nothing is lost: everything comes out in the end."""
        if hasattr(self, "wheel"):
            self.all_that_is_due(10**13, 10**6)
            assert not self.known and len(self.wheel) == 0


TestWheelAgainstHeap = WheelAgainstHeap.TestCase
TestWheelAgainstHeap.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
