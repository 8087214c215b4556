"""Leases on shards: which of the 256 shards this instance may send for, under which fencing term (RELIABILITY.md §2).

Theory. One heartbeat row an instance, 256 shard rows `(shard, owner, term)`. The store's clock alone judges whether
an instance lives. Taking a shard makes its term one greater; every claim is a statement that joins the shard row on
the term, so an owner that has lost a shard without knowing it claims nothing. That is the fence. The local deadline
is the courtesy before it: monotonic time before the heartbeat was sent, plus the TTL, less a margin; past it nothing
is claimed or sent.

Invariants. `term_of(shard)` is None unless this instance holds the shard and its own clock says that nobody can have
taken it. A shard is announced (`gained`) only after what its former owner left running was recovered. A shard is
given up only after it was withdrawn (`lost`), so nothing new starts for it here. Each is let go as soon as its own
callbacks have ended, and who waits for shards looks often: between two owners a shard's tasks wait a fraction of a
second, not a beat.

Failure. A heartbeat that fails is repeated at the next beat; when the deadline passes sends stop by themselves, and
go on with the first heartbeat that succeeds, for nobody took the shards meanwhile. A heartbeat that finds its row
dead drops everything and begins anew under a new identity. An instance whose row stands still for longer than the TTL
by our monotonic clock is declared dead even if the store's clock was set back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter import log
from taskcenter.actors.finish import finish_of
from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.runtime.identity import surely_dead
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.store.interface import EngineStore, LeaseStore
from taskcenter.store.records import Task
from taskcenter.task import SHARDS

MARGIN_S: Final = 1.5
STALL_MARGIN_S: Final = 2.0
MOVED_AT_ONCE: Final = 32  # shards given up in one round of balancing
LOOK_S: Final = 0.25  # between two looks for shards that others are giving up in my favour
RECOVER_PAGE: Final = 500
SETTLE_S: Final = 35.0  # a callback's time-out at most, and its record


@dataclass(frozen=True, slots=True)
class LeaseStatistics:
    instance_id: str
    owned: int
    valid_for_s: float  # until the local deadline; negative when it has passed


class LeaseKeeper:
    """Owner of `_terms` and `_deadline`: this object's own task."""

    def __init__(
        self,
        store: LeaseStore,
        engine_store: EngineStore,
        *,
        new_id: Callable[[], str],
        identity: str,
        address: str | None,
        observed: Callable[[Sequence[Instance], Sequence[ShardLease]], None],
        ttl_s: float,
        now_ms: Callable[[], int],
        metrics: Metrics,
        gained: Callable[[frozenset[int]], None],
        lost: Callable[[frozenset[int]], None],
        busy: Callable[[frozenset[int]], frozenset[int]],
        settled: Callable[[frozenset[int]], Awaitable[None]],
        recovered: Callable[[list[Task]], None],
    ) -> None:
        self._store = store
        self._engine_store = engine_store
        self._new_id = new_id
        self._identity = identity
        self._address = address
        self._observed = observed
        self._ttl_s = ttl_s
        self._now_ms = now_ms
        self._metrics = metrics
        self._gained = gained
        self._lost = lost
        self._busy = busy
        self._settled = settled
        self._recovered = recovered
        self._terms: dict[int, int] = {}
        self._leaving: frozenset[int] = frozenset()  # being given up: what is on its way may end, nothing new starts
        self._deadline = -math.inf
        self._last_seen: dict[str, tuple[int, float]] = {}  # instance → (seq, our time when it last moved)
        self._log = log.get("leases")
        self._beating = trio.CancelScope()  # cancelled by `retire`
        self.instance_id = new_id()

    # --- what others ask ----------------------------------------------------------------------------------------

    def term_of(self, shard: int) -> int | None:
        """The term under which we may send for `shard` now."""
        if trio.current_time() >= self._deadline:
            return None
        return self._terms.get(shard)

    def owns(self, shard: int) -> bool:
        """Whether new work for `shard` belongs here."""
        return shard in self._terms and shard not in self._leaving

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(self._terms)

    @property
    def valid(self) -> bool:
        return trio.current_time() < self._deadline

    def statistics(self) -> LeaseStatistics:
        return LeaseStatistics(self.instance_id, len(self._terms), self._deadline - trio.current_time())

    # --- the loop -----------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, then beat until retired. Reports started after the first round that reached the store."""
        with self._beating:
            await self._register()
            async with trio.open_nursery() as giving:
                await self._beat_for_ever(giving, task_status)

    async def _beat_for_ever(self, giving: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        started = False
        while True:
            next_at = trio.current_time() + self._ttl_s / 4
            try:
                await self._beat()
                await self._reap()
                expecting = await self._balance(giving)
                if not started:
                    started = True
                    task_status.started()
                while expecting and trio.current_time() + LOOK_S < next_at:
                    await trio.sleep(LOOK_S)
                    expecting = await self._balance(giving)
            except StoreUnavailable as error:
                self._log.warning("heartbeat failed", error=str(error), valid_for_s=self.statistics().valid_for_s)
            self._metrics.shards_owned.set(len(self._terms))
            await trio.sleep_until(next_at)

    async def retire(self) -> None:
        """Give everything up at once: a clean end, so that the next owner need not wait. Raises `StoreUnavailable`."""
        self._beating.cancel()  # one more beat would find its row dead, and begin anew
        self._lost(self.shards)
        self._terms.clear()
        self._deadline = -math.inf
        await self._store.retire(self.instance_id)
        self._metrics.shards_owned.set(0)

    async def _register(self) -> None:
        while True:
            sent_at = trio.current_time()
            try:
                await self._store.register(
                    self.instance_id, address=self._address, host_identity=self._identity, ttl_ms=self._ttl_ms
                )
            except StoreUnavailable as error:
                self._log.warning("not registered", error=str(error))
                await trio.sleep(0.5)
                continue
            self._deadline = sent_at + self._ttl_s - MARGIN_S
            return

    async def _beat(self) -> None:
        sent_at = trio.current_time()
        if await self._store.heartbeat(self.instance_id, ttl_ms=self._ttl_ms) is not None:
            self._deadline = sent_at + self._ttl_s - MARGIN_S
            return
        self._log.error("declared dead by another instance", instance=self.instance_id)
        shards = self.shards
        self._terms.clear()
        self._leaving = frozenset()
        self._deadline = -math.inf
        self._lost(shards)
        self.instance_id = self._new_id()
        await self._register()

    async def _reap(self) -> None:
        """Declare dead whose lease ran out, whose process has ended on this machine, or whose row stands still."""
        now = trio.current_time()
        stalled = []
        for instance in await self._store.instances():
            if instance.dead or instance.id == self.instance_id:
                continue
            seq, moved_at = self._last_seen.get(instance.id, (-1, now))
            if instance.seq != seq:
                self._last_seen[instance.id] = (instance.seq, now)
                moved_at = now
            if now - moved_at > self._ttl_s + STALL_MARGIN_S or surely_dead(instance.host_identity):
                stalled.append((instance.id, instance.seq))
        for dead in await self._store.reap(stalled):
            self._last_seen.pop(dead, None)
            self._log.warning("instance declared dead", instance=dead)

    async def _balance(self, giving: trio.Nursery) -> bool:
        """Take up to my share of what is free or orphaned; give up a few when I hold more than it.

        Whether others hold more than their share while I hold less: they will let go of some at any moment.
        """
        instances = await self._store.instances()
        leases = await self._store.shards()
        self._observed(instances, leases)
        alive = {instance.id for instance in instances if not instance.dead}
        share = math.ceil(SHARDS / max(1, len(alive)))
        await self._check(leases_of={lease.shard: (lease.owner, lease.term) for lease in leases})
        mine = {lease.shard: lease.term for lease in leases if lease.owner == self.instance_id}
        await self._begin({shard: term for shard, term in mine.items() if shard not in self._terms})
        free = [lease.shard for lease in leases if lease.owner not in alive]
        orphaned = {lease.shard for lease in leases if lease.owner is not None and lease.owner not in alive}
        room = share - len(self._terms)
        if room > 0 and free:
            await self._take(free[:room], orphaned)
        elif len(alive) > 1:
            self._give_up(len(self._terms) - len(self._leaving) - share, giving)
        held = Counter(lease.owner for lease in leases if lease.owner in alive and lease.owner != self.instance_id)
        return len(self._terms) < share and any(count > share for count in held.values())

    def _give_up(self, surplus: int, giving: trio.Nursery) -> None:
        """Begin to give up so many, a few at a time; each that has callbacks on their way waits for its own alone."""
        at_once = min(surplus, MOVED_AT_ONCE - len(self._leaving))
        if at_once <= 0:
            return
        chosen = frozenset(sorted(self._terms.keys() - self._leaving)[-surplus:][:at_once])
        self._leaving |= chosen
        self._lost(chosen)
        busy = self._busy(chosen)
        for shards in (chosen - busy, *(frozenset({shard}) for shard in sorted(busy))):
            giving.start_soon(self._give, {shard: self._terms[shard] for shard in shards})

    async def _check(self, leases_of: dict[int, tuple[str | None, int]]) -> None:
        """Drop what the store says is not ours any more."""
        gone = frozenset(
            shard
            for shard, term in self._terms.items()
            if shard not in self._leaving and leases_of.get(shard) != (self.instance_id, term)
        )
        if gone:
            self._forget(gone)
            self._log.error("shards lost", shards=len(gone))
            self._lost(gone)

    async def _take(self, shards: list[int], orphaned: set[int]) -> None:
        terms = await self._store.acquire(self.instance_id, shards)
        taken_over = len(orphaned & terms.keys())
        if taken_over:
            self._metrics.lease_takeovers.inc(taken_over)
        await self._begin(terms)

    async def _begin(self, terms: dict[int, int]) -> None:
        """Make owned shards this instance's own: first what their former owner left running, then the announcement.

        Also for those that the store already gives to us and we do not know of: an acquire or a release whose answer
        was lost, a recovery that was cut off.
        """
        if not terms:
            return
        while tasks := await self._recover(terms):
            self._recovered(tasks)
        self._terms.update(terms)
        self._log.info("shards taken", shards=len(terms))
        self._gained(frozenset(terms))

    async def _recover(self, terms: dict[int, int]) -> list[Task]:
        now = self._now_ms()
        return await self._engine_store.recover(terms, now, RECOVER_PAGE, finish=finish_of(now))

    async def _give(self, terms: dict[int, int]) -> None:
        """What is on its way for shards that are lost ends, within a callback's longest time; then their rows go."""
        shards = frozenset(terms)
        with trio.move_on_after(SETTLE_S):
            await self._settled(shards)
        try:
            await self._store.release(self.instance_id, terms)
            self._log.info("shards released", shards=len(terms))
        except StoreUnavailable as error:  # whatever became of it, the next round sees and begins with what is ours
            self._log.warning("shards not released", error=str(error))
        finally:
            self._leaving -= shards
            self._forget(shard for shard, term in terms.items() if self._terms.get(shard) == term)

    def _forget(self, shards: Iterable[int]) -> None:
        for shard in list(shards):
            del self._terms[shard]

    @property
    def _ttl_ms(self) -> int:
        return int(self._ttl_s * 1000)

    def __repr__(self) -> str:
        return f"<LeaseKeeper {self.instance_id} owns {len(self._terms)}>"
