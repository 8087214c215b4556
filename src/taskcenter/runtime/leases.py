"""Leases on shards: which of the 256 shards this instance may send for, under which fencing term (RELIABILITY.md §2).

Theory. One heartbeat row an instance, 256 shard rows `(shard, owner, term)`. The store's clock alone judges whether
an instance lives. Taking a shard makes its term one greater; every claim is a statement that joins the shard row on
the term, so an owner that has lost a shard without knowing it claims nothing. That is the fence. The local deadline
is the courtesy before it: monotonic time before the heartbeat was sent, plus the TTL, less a margin; past it nothing
is claimed or sent.

Two loops. The heart beats every quarter of the TTL, on a connection of its own, and waits for nothing else: neither
for a shard whose rows a frozen instance holds, nor for the recovery of what thousands of tasks left behind. The look,
once a second, does all the rest: who has died, which shards are free, which are too many here.

Invariants. `term_of(shard)` is None unless this instance holds the shard and its own clock says that nobody can have
taken it. A shard is announced (`gained`) only after what its former owner left running was recovered. A shard is
given up only after it was withdrawn (`lost`), so nothing new starts for it here. Each is let go as soon as its own
callbacks have ended, and who waits for shards looks often: between two owners a shard's tasks wait a fraction of a
second, not a beat. An instance that is told to end says so in its row first, so that the others' shares have room for
what it lets go, and tells its peers when some are free.

Failure. A heartbeat that fails is repeated a second later; when the deadline passes sends stop by themselves, and
go on with the first heartbeat that succeeds, for nobody took the shards meanwhile. A heartbeat that finds its row
dead ends this life: all is dropped, what was being taken or given up is broken off, and another life begins under a new
identity. Against a store's clock that is set back or forward: `watch`.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter import log
from taskcenter.errors import StoreUnavailable
from taskcenter.metrics import Metrics
from taskcenter.runtime.identity import surely_dead
from taskcenter.runtime.parting import Hooks, Parting
from taskcenter.runtime.shares import shares_of
from taskcenter.runtime.watch import Watch
from taskcenter.store.engine_records import Instance, ShardLease
from taskcenter.store.interface import LeaseStore

MARGIN_S: Final = 1.5
RETRY_S: Final = 1.0  # after a heartbeat or a look that failed
MOVED_AT_ONCE: Final = 32  # shards given up in one round of balancing
LOOK_S: Final = 1.0  # between two looks
EXPECTING_S: Final = 0.25  # between two looks for shards that may be had soon
LEAST_S: Final = 0.02  # between two looks, however often I am told to look


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
        *,
        new_id: Callable[[], str],
        identity: str,
        address: str | None,
        observed: Callable[[Sequence[Instance], Sequence[ShardLease]], None],
        heard: Callable[[int, float], None],
        ttl_s: float,
        metrics: Metrics,
        gained: Callable[[frozenset[int]], None],
        lost: Callable[[frozenset[int]], None],
        busy: Callable[[frozenset[int]], frozenset[int]],
        settled: Callable[[frozenset[int]], Awaitable[None]],
        released: Callable[[], None],
        recover: Callable[[Mapping[int, int]], Awaitable[None]],
    ) -> None:
        self._store = store
        self._new_id = new_id
        self._identity = identity
        self._address = address
        self._observed = observed
        self._heard = heard  # the store's clock, and when it was asked
        self._ttl_s, self._ttl_ms = ttl_s, int(ttl_s * 1000)
        self._metrics = metrics
        self._gained = gained
        self._lost = lost
        self._released = released
        self._recover = recover  # what the former owners of shards left running, before they are announced
        self._terms: dict[int, int] = {}
        self._parting = Parting(store, Hooks(lost, busy, settled, self._given))
        self._deadline = -math.inf
        self._watch = Watch(ttl_s)
        self._log = log.get("leases")
        self._looked = trio.Event()  # at the store, once
        self._hurry = trio.Event()  # set by `look_soon`; replaced by the look
        self._looking = trio.Lock()
        self._going = False  # set by `hand_over`: no more looks
        self._living = trio.CancelScope()  # cancelled by `retire`
        self.instance_id = new_id()

    # --- what others ask ----------------------------------------------------------------------------------------

    def term_of(self, shard: int) -> int | None:
        """The term under which we may send for `shard` now."""
        if trio.current_time() >= self._deadline:
            return None
        return self._terms.get(shard)

    def owns(self, shard: int) -> bool:
        """Whether new work for `shard` belongs here."""
        return shard in self._terms and shard not in self._parting.leaving

    @property
    def shards(self) -> frozenset[int]:
        return frozenset(self._terms)

    @property
    def valid(self) -> bool:
        return trio.current_time() < self._deadline

    def statistics(self) -> LeaseStatistics:
        return LeaseStatistics(self.instance_id, len(self._terms), self._deadline - trio.current_time())

    # --- a life -------------------------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One life after another until retired. Reports started after the first look that reached the store."""
        with self._living:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._live_for_ever)
                await self._looked.wait()
                task_status.started()

    async def _live_for_ever(self) -> None:
        while True:
            await self._register()
            async with trio.open_nursery() as life:
                life.start_soon(self._look_for_ever, life)
                await self._beat_until_dead()
                life.cancel_scope.cancel()  # an acquire that ends after this would be a dead instance's
                self._begin_anew()

    async def _beat_until_dead(self) -> None:
        """Renew the lease; return when the store has this instance for dead."""
        next_at = trio.current_time() + self._ttl_s / 4
        while True:
            await trio.sleep_until(next_at)
            sent_at = trio.current_time()
            try:
                store_ms = await self._store.heartbeat(self.instance_id, ttl_ms=self._ttl_ms)
            except StoreUnavailable as error:
                self._log.warning("heartbeat failed", error=str(error), valid_for_s=self.statistics().valid_for_s)
                next_at = trio.current_time() + RETRY_S
                continue
            if store_ms is None:
                return
            self._renewed(sent_at, store_ms)
            next_at = sent_at + self._ttl_s / 4

    async def _look_for_ever(self, life: trio.Nursery) -> None:
        while not self._going:
            self._hurry = trio.Event()
            pause_s = LOOK_S
            try:
                if self.valid:
                    async with self._looking:
                        pause_s = EXPECTING_S if await self._look(life) else LOOK_S
                    self._looked.set()
            except StoreUnavailable as error:
                self._log.warning("look failed", error=str(error))
                pause_s = RETRY_S
            self._metrics.shards_owned.set(len(self._terms))
            await trio.sleep(LEAST_S)
            with trio.move_on_after(pause_s - LEAST_S):
                await self._hurry.wait()

    def look_soon(self) -> None:
        """Shards may have become free."""
        self._hurry.set()

    async def hand_over(self) -> None:
        """Take nothing more, and let each shard go as soon as its callbacks have ended. `retire` is to follow."""
        self._going = True
        self._hurry.set()
        with trio.move_on_after(LOOK_S):
            async with self._looking:  # what is just being taken is let go with the rest
                pass
        try:
            await self._store.leave(self.instance_id)
        except StoreUnavailable as error:
            self._log.warning("not told that this instance leaves", error=str(error))
        async with trio.open_nursery() as nursery:
            self._parting.begin(self.instance_id, self._staying(), nursery)

    async def retire(self) -> None:
        """Give everything up at once: a clean end, so that the next owner need not wait. Raises `StoreUnavailable`."""
        self._living.cancel()  # one more beat would find its row dead, and begin anew
        self._lost(self.shards)
        self._terms.clear()
        self._deadline = -math.inf
        await self._store.retire(self.instance_id)
        self._released()
        self._metrics.shards_owned.set(0)

    async def _register(self) -> None:
        while True:
            sent_at = trio.current_time()
            try:
                store_ms = await self._store.register(
                    self.instance_id, address=self._address, host_identity=self._identity, ttl_ms=self._ttl_ms
                )
            except StoreUnavailable as error:
                self._log.warning("not registered", error=str(error))
                await trio.sleep(0.5)
                continue
            self._renewed(sent_at, store_ms)
            return

    def _renewed(self, sent_at: float, store_ms: int) -> None:
        self._deadline = sent_at + self._ttl_s - MARGIN_S
        self._watch.heard(store_ms, trio.current_time())
        self._heard(store_ms, sent_at)

    def _begin_anew(self) -> None:
        self._log.error("declared dead by another instance", instance=self.instance_id)
        shards = self.shards
        self._terms.clear()
        self._parting.break_off()
        self._deadline = -math.inf
        self._lost(shards)
        self.instance_id = self._new_id()

    # --- a look -------------------------------------------------------------------------------------------------

    async def _look(self, life: trio.Nursery) -> bool:
        """Bury the dead; take up to my share of what is free or orphaned; give up a few when I hold more than it.

        Whether there may soon be more: others are to let go of some in my favour, or some that were free were not had,
        for another was first or holds their rows.
        """
        leaving = self._parting.leaving  # what is released from now on may still be mine in what is read below
        instances = await self._store.instances()
        if await self._bury(instances):
            instances = await self._store.instances()
        leases = await self._store.shards()
        self._observed(instances, leases)
        shares = shares_of(instances, leases, self.instance_id, self._terms, leaving | self._parting.leaving)
        self._drop(shares.lost)
        await self._begin(shares.unknown)
        if shares.wanted:
            return not await self._take(shares.wanted, shares.orphaned) or shares.expecting
        self._give_up(shares.surplus, life)
        return shares.expecting

    async def _bury(self, instances: Sequence[Instance]) -> bool:
        """Declare dead whose lease ran out, whose process has ended on this machine, or whose row stands still."""
        now = trio.current_time()
        others = [one for one in instances if not one.dead and one.id != self.instance_id]
        gone = [(one.id, one.seq) for one in others if surely_dead(one.host_identity)]
        believed_ms = 0  # as long as we forgive, no lease has run out
        if not self._watch.forgiving(now):
            gone += self._watch.stalled(others, now)
            believed_ms = self._watch.believed_ms(now)
        if not gone and (not believed_ms or all(one.expires_in_ms >= 0 for one in others)):
            return False
        buried = await self._store.reap(gone, not_after=believed_ms)
        for dead in buried:
            self._log.warning("instance declared dead", instance=dead)
        return bool(buried)

    def _give_up(self, surplus: int, life: trio.Nursery) -> None:
        """Begin to give up so many, a few at a time."""
        at_once = min(surplus, MOVED_AT_ONCE - len(self._parting.leaving))
        if at_once > 0:
            staying = self._staying()
            chosen = sorted(staying)[-surplus:][:at_once]
            self._parting.begin(self.instance_id, {shard: staying[shard] for shard in chosen}, life)

    def _staying(self) -> dict[int, int]:
        """What is held and not being given up."""
        return {shard: term for shard, term in self._terms.items() if shard not in self._parting.leaving}

    def _drop(self, gone: frozenset[int]) -> None:
        """They are not ours any more, says the store."""
        if gone:
            self._forget(gone)
            self._log.error("shards lost", shards=len(gone))
            self._lost(gone)

    async def _take(self, shards: list[int], orphaned: frozenset[int]) -> bool:
        """Whether all of them could be had."""
        terms = await self._store.acquire(self.instance_id, shards)
        taken_over = len(orphaned & terms.keys())
        if taken_over:
            self._metrics.lease_takeovers.inc(taken_over)
        await self._begin(terms)
        return terms.keys() >= set(shards)

    async def _begin(self, terms: dict[int, int]) -> None:
        """Make owned shards this instance's own: first what their former owner left running, then the announcement.

        Also for those that the store already gives to us and we do not know of: an acquire or a release whose answer
        was lost, a recovery that was cut off.
        """
        if not terms:
            return
        await self._recover(terms)
        self._terms.update(terms)
        self._log.info("shards taken", shards=len(terms))
        self._gained(frozenset(terms))

    def _given(self, terms: Mapping[int, int]) -> None:
        if self._going:  # else the others expect some, and look often
            self._released()
        self._forget(shard for shard, term in terms.items() if self._terms.get(shard) == term)

    def _forget(self, shards: Iterable[int]) -> None:
        for shard in list(shards):
            del self._terms[shard]

    def __repr__(self) -> str:
        return f"<LeaseKeeper {self.instance_id} owns {len(self._terms)}>"
