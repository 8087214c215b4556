"""Who should own what, from one look at the rows."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from taskcenter.runtime.shares import Shares, shares_of
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.task import SHARDS

NAMES = ("me", "two", "three")
OWNERS = st.sampled_from([None, "me", "two", "three", "forgotten"])


def instance(name: str, *, dead: bool = False, leaving: bool = False) -> Instance:
    return Instance(name, None, "", 1, dead, 10_000, 0, leaving)


def look(
    owners: Mapping[int, str | None], terms: dict[int, int], leaving: set[int] | None = None, dead: str = ""
) -> Shares:
    """Rows at term 1; the shards not named are two's."""
    instances = [instance(name, dead=name in dead) for name in NAMES]
    leases = [ShardLease(shard, owners.get(shard, "two"), 1) for shard in range(SHARDS)]
    return shares_of(instances, leases, "me", terms, leaving or set())


def test_what_is_mine_at_another_term_is_lost_and_found() -> None:
    said = look({7: "me"}, {7: 5})
    assert (said.lost, said.unknown) == ({7}, {7: 1})


def test_what_went_to_another_is_lost() -> None:
    assert look({7: "two"}, {7: 1}).lost == {7}


def test_a_row_that_is_missing_is_lost() -> None:
    assert shares_of([instance("me")], [], "me", {7: 1}, set()).lost == {7}


def test_what_is_leaving_is_neither_lost_nor_found() -> None:
    """Its release may have come after the rows were read, or before."""
    for owner in ("me", None, "two"):
        said = look({7: owner}, {7: 1}, leaving={7})
        assert (said.lost, said.unknown) == (frozenset(), {})
        said = look({7: owner}, {}, leaving={7})
        assert (said.lost, said.unknown) == (frozenset(), {})


def test_the_dead_and_the_forgotten_leave_orphans() -> None:
    said = look({1: "three", 2: "forgotten", 3: None}, {}, dead="three")
    assert (said.orphaned, said.wanted) == ({1, 2}, [1, 2, 3])


def test_the_only_one_gives_nothing_up() -> None:
    mine = dict.fromkeys(range(SHARDS), "me")
    assert look(mine, dict.fromkeys(range(SHARDS), 1), dead="two three").surplus == 0
    assert look(mine, dict.fromkeys(range(SHARDS), 1)).surplus == SHARDS - 86
    assert look(mine, dict.fromkeys(range(SHARDS), 1), leaving=set(range(100))).surplus == SHARDS - 100 - 86


def test_who_leaves_has_no_share_and_what_it_holds_is_expected() -> None:
    rows = [instance("me"), instance("two", leaving=True), instance("three")]
    owners = ["me"] * 86 + ["three"] * 86 + [None] * 28 + ["two"] * 56
    leases = [ShardLease(shard, owner, 1) for shard, owner in enumerate(owners)]
    said = shares_of(rows, leases, "me", dict.fromkeys(range(86), 1), set())
    assert (said.wanted, said.surplus, said.expecting) == (list(range(172, 200)), 0, True)
    assert shares_of(rows[:2], leases, "me", dict.fromkeys(range(86), 1), set()).wanted == list(range(86, 200))


def test_who_has_less_expects_of_who_has_more() -> None:
    assert look({}, {}).expecting
    assert not look({}, {}, dead="two").expecting


@given(owners=st.lists(OWNERS, min_size=SHARDS, max_size=SHARDS))
def test_nobody_takes_and_gives_at_once_and_all_that_is_free_is_wanted_by_somebody(owners: list[str | None]) -> None:
    leases = [ShardLease(shard, owner, 1) for shard, owner in enumerate(owners)]
    free = {lease.shard for lease in leases if lease.owner not in NAMES}
    room = 0
    for name in NAMES:
        terms = {lease.shard: 1 for lease in leases if lease.owner == name}
        said = shares_of([instance(one) for one in NAMES], leases, name, terms, set())
        assert not (said.wanted and said.surplus)
        assert set(said.wanted) <= free
        assert len(terms) + len(said.wanted) - said.surplus <= 86
        room += len(said.wanted)
    assert room >= len(free)


@given(count=st.integers(1, 9), held=st.integers(0, 20), free=st.integers(0, 90))
def test_those_who_look_together_take_what_no_other_takes(count: int, held: int, free: int) -> None:
    """All as they hold the same: but for what is left over when they share, each free shard has one taker."""
    names = [f"i{number}" for number in range(count)]
    free = max(free, SHARDS - count * held)
    owners = [names[number % count] for number in range(SHARDS - free)] + [None] * free
    leases = [ShardLease(shard, owner, 1) for shard, owner in enumerate(owners)]
    taken: list[int] = []
    for name in names:
        terms = {lease.shard: 1 for lease in leases if lease.owner == name}
        taken += shares_of([instance(one) for one in names], leases, name, terms, set()).wanted
    assert set(taken) == set(range(SHARDS - free, SHARDS))
    assert len(taken) - len(set(taken)) <= count
