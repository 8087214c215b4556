"""Who should own what: one look at the store's rows, and what follows from it for one instance. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.task import SHARDS


@dataclass(frozen=True, slots=True)
class Shares:
    """What the rows ask of this instance."""

    lost: frozenset[int]  # it thinks it holds them, and does not
    unknown: dict[int, int]  # it holds them at these terms, and does not know
    wanted: list[int]  # free or orphaned, up to its share
    orphaned: frozenset[int]  # their owner is dead or forgotten
    surplus: int  # how many it holds beyond its share and is not giving up already; 0 when it is alone
    expecting: bool  # it has less than its share, and others have more than theirs or are leaving


def _in_my_order(free: Sequence[int], own_id: str, staying: AbstractSet[str]) -> Sequence[int]:
    """The others look at the same rows at the same time: each begins elsewhere, and takes what no other does."""
    rank = sum(other < own_id for other in staying)
    first = rank * len(free) // max(1, len(staying))
    return [*free[first:], *free[:first]]


def shares_of(
    instances: Sequence[Instance],
    leases: Sequence[ShardLease],
    own_id: str,
    terms: Mapping[int, int],
    leaving: AbstractSet[int],
) -> Shares:
    """`terms`: what the instance holds, to its knowledge. `leaving`: what it is, or was lately, giving up.

    Nothing is said of what is leaving: whether its release came before or after these rows were read is not known.
    """
    alive = {instance.id for instance in instances if not instance.dead}
    staying = {instance.id for instance in instances if not instance.dead and not instance.leaving}
    share = math.ceil(SHARDS / max(1, len(staying)))
    rows = {lease.shard: (lease.owner, lease.term) for lease in leases}
    lost = frozenset(s for s, term in terms.items() if s not in leaving and rows.get(s) != (own_id, term))
    unknown = {
        lease.shard: lease.term
        for lease in leases
        if lease.owner == own_id and lease.shard not in leaving and (lease.shard not in terms or lease.shard in lost)
    }
    held = (terms.keys() - lost) | unknown.keys()
    free = _in_my_order([lease.shard for lease in leases if lease.owner not in alive], own_id, staying)
    others = Counter(lease.owner for lease in leases if lease.owner in alive and lease.owner != own_id)
    return Shares(
        lost=lost,
        unknown=unknown,
        wanted=sorted(free[: max(0, share - len(held))]),
        orphaned=frozenset(lease.shard for lease in leases if lease.owner is not None and lease.owner not in alive),
        surplus=max(0, len(held - leaving) - share) if len(alive) > 1 else 0,
        expecting=len(held) < share
        and any(count > (share if owner in staying else 0) for owner, count in others.items()),
    )
