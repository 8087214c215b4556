"""Keeps the wheel filled from the store: the I/O around `plan.py`, which decides what is read.

One trio task reads one page at a time, so no more than a page is ever held and the store has one query of ours at once.
A page's references are accepted before the next page is asked for, with a checkpoint between, so firing goes on while
loading.

Failure. `StoreUnavailable` is counted, told to `on_error` and waited out, longer each time up to a cap, with jitter so
that the instances do not come back in step; then the same page is asked for again, and NEAR looks back to its last
success. Anything else is a bug or a lost lease and ends `run`; run again, it goes on where it was, for that is in the
plan.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.task import TaskRef
from taskcenter.wheel.plan import LoadPlan, Read, Spans

MAX_TIMERS: Final = 200_000
BACKOFF_S: Final = 0.2  # after the first failure, doubled with each further one
MAX_BACKOFF_S: Final = 5.0


class DueSource(Protocol):
    """The one question the loader has; `store/` answers it."""

    async def due_refs(
        self,
        shards: frozenset[int] | None,
        due_from_ms: int,
        due_to_ms: int,
        after: tuple[int, str] | None,
        limit: int,
    ) -> list[TaskRef]:
        """Waiting tasks with `due_from_ms <= due_at < due_to_ms` of these shards, None meaning all.

        Ordered by (due_at, task_id), strictly after the key `after`, at most `limit`; fewer mean there are no more.
        Raises `StoreUnavailable`.
        """
        ...


@dataclass(frozen=True, slots=True)
class LoaderStatistics:
    shards: int  # owned
    loading: int  # of them, those whose overdue and soon due tasks are not all read yet
    loaded_until_at: int | None  # ms: up to where all of them were read; None without shards
    pages: int  # read so far
    refs: int  # in them
    accepted: int  # of those, not known before
    errors: int  # StoreUnavailable so far
    full: bool  # whether the window waits for room on the wheel


def _no_timers() -> int:
    return 0


def _ignore(_: StoreUnavailable) -> None:
    """A hook nobody asked for."""


class Loader:
    """Reads what is due of the owned shards and offers it to `accept`. One trio loop only."""

    def __init__(
        self,
        source: DueSource,
        clock: Clock,
        accept: Callable[[TaskRef], bool],
        *,
        rng: random.Random,
        timers: Callable[[], int] = _no_timers,
        max_timers: int = MAX_TIMERS,
        window_s: float = 600,
        page: int = 500,
        sweep_interval_s: float = 1.0,
        soon_s: float = 30,
        safety_interval_s: float = 60,
        on_error: Callable[[StoreUnavailable], None] = _ignore,
    ) -> None:
        """`accept` takes a reference or says False if it was known. `timers` says how many are on the wheel.

        At `max_timers` the window is extended no further; what is overdue or due within seconds is read all the same.
        """
        sweep_ms = round(sweep_interval_s * 1000)
        self._plan = LoadPlan(
            clock.now_ms(),
            Spans(
                window_ms=round(window_s * 1000),
                soon_ms=min(round(soon_s * 1000), round(window_s * 1000)),
                step_ms=sweep_ms,
                near_every_ms=sweep_ms,
                near_ahead_ms=2 * sweep_ms,
                safety_every_ms=round(safety_interval_s * 1000),
                page=page,
            ),
        )
        self._source = source
        self._clock = clock
        self._accept = accept
        self._timers = timers
        self._max_timers = max_timers
        self._page = page
        self._on_error = on_error
        self._rng = rng
        self._changed = trio.Event()  # set when shards are added; replaced by `run`
        self._loaded = trio.Event()  # replaced when shards are added
        self._loaded.set()
        self._pages = self._refs = self._accepted = self._errors = 0
        self._failures = 0  # in a row

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load and sweep for ever. Raises what the source raises, `StoreUnavailable` excepted."""
        task_status.started()
        while True:
            self._changed = trio.Event()
            room = self._max_timers - self._timers()
            read = self._plan.next(self._clock.now_ms(), room)
            if read is None:
                await self._rest()
                continue
            try:
                rows = await self._read(read)
            except StoreUnavailable as error:
                self._errors += 1
                self._failures += 1
                self._on_error(error)
                await trio.sleep(self._backoff_s())
                continue
            self._failures = 0
            self._take(read, rows)
            await trio.lowlevel.checkpoint()

    def add_shards(self, shards: Iterable[int]) -> None:
        """These shards were taken over: load them, overdue tasks first."""
        self._plan.add(shards)
        self._tell()
        self._changed.set()

    def remove_shards(self, shards: Iterable[int]) -> None:
        """These shards were lost: read them no more, and accept nothing of theirs from a page that is under way."""
        self._plan.remove(shards)
        self._tell()

    @property
    def loaded(self) -> bool:
        """Whether the owned shards' overdue tasks and those of the next `soon_s` were read; true without shards."""
        return not self._plan.loading

    async def wait_loaded(self) -> None:
        """Return when `loaded`."""
        while not self.loaded:
            await self._loaded.wait()
        await trio.lowlevel.checkpoint()

    def covers(self, due_at: int) -> bool:
        """Whether whoever just committed a task that is due then must put it on the wheel himself.

        If not, the window has not come near it and will find it. Ask after the commit, not before.
        """
        return self._plan.covers(due_at, self._clock.now_ms())

    def statistics(self) -> LoaderStatistics:
        return LoaderStatistics(
            shards=len(self._plan.shards),
            loading=len(self._plan.loading),
            loaded_until_at=self._plan.loaded_until,
            pages=self._pages,
            refs=self._refs,
            accepted=self._accepted,
            errors=self._errors,
            full=self._max_timers - self._timers() < self._page,
        )

    def __repr__(self) -> str:
        state = "loaded" if self.loaded else "loading"
        return f"<Loader {state}, {len(self._plan.shards)} shards, {self._pages} pages, {self._errors} errors>"

    async def _read(self, read: Read) -> list[TaskRef]:
        return await self._source.due_refs(read.shards, read.due_from_ms, read.due_to_ms, read.after, read.limit)

    def _take(self, read: Read, rows: list[TaskRef]) -> None:
        """Offer a page's references, those of shards lost meanwhile excepted, and move on."""
        self._pages += 1
        self._refs += len(rows)
        owned = self._plan.shards
        for ref in rows:
            if ref.shard in owned and self._accept(ref):
                self._accepted += 1
        self._plan.done(read, rows, self._clock.now_ms())
        self._tell()

    def _tell(self) -> None:
        """Keep the event in step with `loaded`."""
        if self.loaded:
            self._loaded.set()
        elif self._loaded.is_set():
            self._loaded = trio.Event()

    def _backoff_s(self) -> float:
        """Half to all of a wait that doubles with each failure in a row."""
        longest = min(MAX_BACKOFF_S, BACKOFF_S * 2.0 ** min(self._failures - 1, 16))
        return longest * self._rng.uniform(0.5, 1.0)

    async def _rest(self) -> None:
        """Sleep until the plan has something to read, or shards are added."""
        next_at = self._plan.next_at()
        rest_s = math.inf if next_at is None else (next_at - self._clock.now_ms_exact()) / 1000
        with trio.move_on_after(max(rest_s, 0.0001)):
            await self._changed.wait()
