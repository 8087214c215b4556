"""The fair gate: the cap holds, nobody is passed by, nobody starves."""

from __future__ import annotations

import heapq
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from taskcenter.actors.gate import FairGate


def test_a_business_with_much_work_does_not_starve_one_with_little() -> None:
    gate, woken = FairGate(10), []
    while gate.take(1, lambda: woken.append(1)):
        pass
    assert not gate.take(2, lambda: woken.append(2))
    gate.release()
    assert woken == [1], "business 1 queued first"
    gate.release()
    assert woken == [1, 2]
    assert gate.take(2, lambda: None)
    assert gate.take(1, lambda: None)
    assert not gate.take(1, lambda: None), "full again"


def test_a_declined_reservation_goes_to_the_next() -> None:
    gate, woken = FairGate(1), []
    assert gate.take(1, lambda: None)
    assert not gate.take(2, lambda: woken.append(2))
    assert not gate.take(3, lambda: woken.append(3))
    gate.release()
    gate.decline(2)
    assert woken == [2, 3]
    assert gate.take(3, lambda: None)


def test_slots_that_come_free_at_once_are_shared_out_by_turns() -> None:
    """Even if one of the two is slow to take what is kept for it."""
    gate, woken = FairGate(6), Counter[int]()
    while gate.take(1, lambda: woken.update([1])):
        pass
    assert not gate.take(2, lambda: woken.update([2]))
    for _ in range(6):
        gate.release()
    assert woken == {1: 3, 2: 3}
    assert [gate.take(2, lambda: None) for _ in range(4)] == [True, True, True, False]
    gate.decline(1)
    assert woken == {1: 3, 2: 6}, "what one does not want is the other's"


class FairGateMachine(RuleBasedStateMachine):
    """Businesses with any amount of work, slow receivers, ends in any order: the cap holds, no slot idles while anybody
    waits, and whoever waits has its turn before anybody has a second one.
    """

    CAPACITY, BUSINESSES = 4, 5

    def __init__(self) -> None:
        super().__init__()
        self.gate = FairGate(self.CAPACITY)
        self.work = dict.fromkeys(range(self.BUSINESSES), 0)
        self.flying: list[int] = []
        self.kept: Counter[int] = Counter()
        self.passed: dict[int, dict[int, int]] = {}  # who waits → how often each other had its turn since

    def _round(self, business: int) -> None:
        """A round of the business's actor: start what the gate lets start, then say that nothing is left, or wait."""
        while self.work[business]:
            if not self.gate.take(business, lambda: self._turn(business)):
                assert not self.kept[business]
                self.passed.setdefault(business, dict.fromkeys(self.work, 0))
                return
            self.work[business] -= 1
            self.flying.append(business)
            self.kept[business] = max(0, self.kept[business] - 1)
        self.kept[business] = 0
        self.passed.pop(business, None)
        self.gate.decline(business)

    def _turn(self, business: int) -> None:
        self.kept[business] += 1
        self.passed[business] = dict.fromkeys(self.work, 0)
        for waiting, others in self.passed.items():
            if waiting != business:
                others[business] += 1

    @rule(business=st.integers(0, BUSINESSES - 1), tasks=st.integers(1, 50))
    def offer(self, business: int, tasks: int) -> None:
        self.work[business] += tasks
        self._round(business)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.gate.release()

    @precondition(lambda self: self.kept.total())
    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        self._round(data.draw(st.sampled_from(sorted(+self.kept))))

    @rule(business=st.integers(0, BUSINESSES - 1))
    def give_up(self, business: int) -> None:
        """Paused, or over its rate: it has work and may not start it."""
        self.work[business] = 0
        self._round(business)

    @invariant()
    def the_cap_holds(self) -> None:
        assert len(self.flying) == self.gate.statistics().taken <= self.CAPACITY

    @invariant()
    def nobody_starves(self) -> None:
        for others in self.passed.values():
            assert max(others.values()) <= 1, "a turn each, and then its own"

    @invariant()
    def no_slot_idles(self) -> None:
        now = self.gate.statistics()
        assert now.kept == self.kept.total()
        assert not now.waiting or now.taken + now.kept == self.CAPACITY


FairGateMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
TestFairGateMachine = FairGateMachine.TestCase


@given(takes=st.lists(st.integers(1, 30), min_size=2, max_size=6), capacity=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_over_hours_each_business_gets_its_turns_whatever_its_receivers_take(takes: list[int], capacity: int) -> None:
    """Each with endless work, its callbacks taking `takes` s: with every slot that comes free the next one starts."""
    gate, now, starts = FairGate(capacity), 0, dict.fromkeys(range(len(takes)), 0)
    ends: list[tuple[int, int]] = []
    woken = set(starts)
    while now < 4 * 3600:
        for business in sorted(woken):
            woken.discard(business)
            while gate.take(business, lambda business=business: woken.add(business)):  # type: ignore[misc]  # the loop's value is bound on purpose
                starts[business] += 1
                heapq.heappush(ends, (now + takes[business], business))
        if not woken:
            now, _ = heapq.heappop(ends)
            gate.release()
    assert max(starts.values()) - min(starts.values()) <= capacity + 1
