"""The fair gate: the cap holds, nobody is passed by, nobody starves."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

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


@given(seed=st.integers(0, 10_000), capacity=st.integers(1, 6), businesses=st.integers(1, 6))
def test_the_cap_holds_and_every_business_with_work_gets_its_turns(seed: int, capacity: int, businesses: int) -> None:
    rng = random.Random(seed)
    gate = FairGate(capacity)
    flying: list[int] = []
    served = dict.fromkeys(range(businesses), 0)
    woken: set[int] = set(range(businesses))
    for _ in range(300):
        for business in sorted(woken, key=lambda _: rng.random()):
            while gate.take(business, lambda business=business: woken.add(business)):  # type: ignore[misc]  # the loop's value is bound on purpose
                woken.discard(business)
                flying.append(business)
                served[business] += 1
            woken.discard(business)
        assert len(flying) <= capacity
        assert gate.statistics().taken == len(flying)
        flying.pop(rng.randrange(len(flying)))
        gate.release()
    assert max(served.values()) - min(served.values()) <= capacity + businesses + 300 // businesses // 5
