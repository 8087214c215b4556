"""Shards on their way out of an instance: nothing new starts for them, and each goes when its own callbacks have ended.

Those for which nothing is on its way go together and at once; one with a callback of thirty seconds holds up itself
alone. A shard is in `leaving` from the moment it was withdrawn until its row was released, or the release failed: then
the next look finds that the row is still ours.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import trio

from taskcenter import log
from taskcenter.errors import StoreUnavailable
from taskcenter.store.interface import LeaseStore

SETTLE_S: Final = 35.0  # a callback's time-out at most, and its record


@dataclass(frozen=True, slots=True)
class Hooks:
    """How the engine and the lease keeper take part."""

    withdraw: Callable[[frozenset[int]], None]  # start nothing more for these
    busy: Callable[[frozenset[int]], frozenset[int]]  # those of them with something on its way
    settled: Callable[[frozenset[int]], Awaitable[None]]  # when nothing is any more
    gone: Callable[[Mapping[int, int]], None]  # they are not held at these terms any more


class Parting:
    """Owner of `leaving`."""

    def __init__(self, store: LeaseStore, hooks: Hooks) -> None:
        self._store = store
        self._hooks = hooks
        self._log = log.get("leases")
        self.leaving: frozenset[int] = frozenset()

    def begin(self, instance_id: str, terms: Mapping[int, int], nursery: trio.Nursery) -> None:
        """Withdraw these shards, and let them go from tasks in `nursery`."""
        chosen = frozenset(terms)
        self.leaving |= chosen
        self._hooks.withdraw(chosen)
        busy = self._hooks.busy(chosen)
        for shards in (chosen - busy, *(frozenset({shard}) for shard in sorted(busy))):
            if shards:
                nursery.start_soon(self._give, instance_id, {shard: terms[shard] for shard in shards})

    def break_off(self) -> None:
        """Nothing is ours any more."""
        self.leaving = frozenset()

    async def _give(self, instance_id: str, terms: dict[int, int]) -> None:
        shards = frozenset(terms)
        with trio.move_on_after(SETTLE_S):
            await self._hooks.settled(shards)
        try:
            await self._store.release(instance_id, terms)
            self._log.info("shards released", shards=len(terms))
        except StoreUnavailable as error:  # whatever became of it, the next look sees and begins with what is ours
            self._log.warning("shards not released", error=str(error))
        finally:
            self.leaving -= shards
            self._hooks.gone(terms)

    def __repr__(self) -> str:
        return f"<Parting with {len(self.leaving)} shards>"
