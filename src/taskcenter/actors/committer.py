"""Group commit: what has gathered goes to the store as one transaction (DESIGN.md §3.1).

Theory. A durable commit costs a flush whatever it holds, so throughput is the number of items in it. Producers
`submit` one item and wait for *its* result; one consumer takes what has gathered in at most `gather_s`, or while the
former commit was on its way, at most `max_items`, and commits. Waiting is bounded by the number of producers, each of
which holds one item.

Invariants. Results come in the order of the items. An item is answered exactly once. Items are committed in the order
of their arrival. A producer that was cancelled does not withdraw its item: it is committed, its result dropped.

Failure. Every batch given here is safe to repeat (guarded by version, term and sends), so a `CommitUnknown` is
repeated as it is, for as long as it takes: a claim whose end nobody knows must not be let go, for its row may be ours
and running, and nobody else would ever look at it. A plain `StoreUnavailable` is given back to the producers at once
(claims: then nothing is sent; those that wait behind it are refused with it), or kept and repeated until the store is
back (outcomes: the receiver's answer must land, exactly once). Any other error is a fault of one item or of ours: the
batch is split in halves until the culprit stands alone, and only its producer gets the error.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

from taskcenter import log
from taskcenter.errors import CommitUnknown, StoreUnavailable
from taskcenter.metrics import Metrics

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_ITEMS: Final = 256
FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CommitterStatistics:
    waiting: int
    batches: int
    items: int
    repeats: int


class _Ticket(Generic[Item, Result]):
    """One item and where its result goes. Owner of the fields: the committer, until `done` is set."""

    __slots__ = ("done", "error", "item", "result")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = trio.Event()
        self.result: Result | None = None
        self.error: BaseException | None = None


class Committer(Generic[Item, Result]):
    """One consumer of one kind of item. `commit` takes a batch and returns one result an item."""

    def __init__(
        self,
        kind: str,
        commit: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        metrics: Metrics,
        rng: random.Random,
        gather_s: float,
        keep_until_stored: bool,
        max_items: int = MAX_ITEMS,
    ) -> None:
        self.kind = kind
        self._commit = commit
        self._gather_s = gather_s
        self._keep = keep_until_stored
        self._max_items = max_items
        self._rng = rng
        self._waiting: deque[_Ticket[Item, Result]] = deque()
        self._arrived = trio.Event()
        self._batches = self._items = self._repeats = 0
        self._size = metrics.commit_batch_size.labels(kind)
        self._duration = metrics.commit_duration.labels(kind)
        self._log = log.get("committer")

    async def submit(self, item: Item) -> Result:
        """Wait until `item` is durable and return its result. Raises what the store raised for it."""
        ticket: _Ticket[Item, Result] = _Ticket(item)
        self._waiting.append(ticket)
        if len(self._waiting) == 1:
            self._arrived.set()
        await ticket.done.wait()
        if ticket.error is not None:
            raise ticket.error
        return ticket.result  # type: ignore[return-value]  # Result may be Optional itself; set when there is no error

    async def run(self) -> None:
        """Consume for ever. Cancel it only when the producers have ended."""
        while True:
            if not self._waiting:
                self._arrived = trio.Event()
                await self._arrived.wait()
                await trio.sleep(self._gather_s)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_items))]
            await self._commit_batch(batch)

    async def _commit_batch(self, batch: list[_Ticket[Item, Result]]) -> None:
        began = trio.current_time()
        try:
            results = await self._commit_until_known([ticket.item for ticket in batch])
        except StoreUnavailable as error:
            self._settle(batch, error)
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, it goes to the producer whose item it is
            await self._isolate(batch, error)
            return
        self._batches += 1
        self._items += len(batch)
        self._size.observe(len(batch))
        self._duration.observe(trio.current_time() - began)
        for ticket, result in zip(batch, results, strict=True):
            ticket.result = result
            ticket.done.set()

    async def _commit_until_known(self, items: Sequence[Item]) -> Sequence[Result]:
        backoff_s = FIRST_BACKOFF_S
        unknown = False
        while True:
            try:
                return await self._commit(items)
            except StoreUnavailable as error:
                unknown = unknown or isinstance(error, CommitUnknown)
                if not self._keep:
                    self._refuse_waiting(error)
                    if not unknown:
                        raise
                self._repeats += 1
                self._log.warning("commit repeated", kind=self.kind, items=len(items), error=str(error))
            await trio.sleep(backoff_s * (0.5 + self._rng.random()))
            backoff_s = min(backoff_s * 2, MAX_BACKOFF_S)

    async def _isolate(self, batch: list[_Ticket[Item, Result]], error: Exception) -> None:
        if len(batch) == 1:
            self._log.error("commit refused", kind=self.kind, exc_info=error)
            self._settle(batch, error)
            return
        middle = len(batch) // 2
        await self._commit_batch(batch[:middle])
        await self._commit_batch(batch[middle:])

    def _refuse_waiting(self, error: StoreUnavailable) -> None:
        """Nothing of theirs was sent; they would only wait for the same store."""
        if not isinstance(error, CommitUnknown):
            self._settle(list(self._waiting), error)
            self._waiting.clear()

    @staticmethod
    def _settle(batch: list[_Ticket[Item, Result]], error: Exception) -> None:
        for ticket in batch:
            ticket.error = error
            ticket.done.set()

    def statistics(self) -> CommitterStatistics:
        return CommitterStatistics(len(self._waiting), self._batches, self._items, self._repeats)

    def __repr__(self) -> str:
        return f"<Committer {self.kind} waiting={len(self._waiting)} items={self._items}>"
