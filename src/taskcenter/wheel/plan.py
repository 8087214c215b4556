"""What the loader reads next: a state machine without clock, loop or store. `loader.py` does what it says.

The store holds every waiting task; the wheel holds those due within a window, of the shards this instance owns. Four
kinds of *walk* keep it so: a range of due times, read in pages in (due, id) order, with the key of the last row as its
cursor. A page that failed has moved nothing, so asking again gives the same page. In order of precedence:

 1. NEAR, every second: what is due from a little before now (or before the last such scan, if that was longer ago) to a
    little after. What a lost nudge, another instance's change or a refusing mailbox left out is found here.
 2. OVERDUE, then SOON, of shards that were just taken over: all that is due already, then the next half minute. While
    any group of shards is in one of these the plan is not `loaded`.
 3. SAFETY, every minute: everything overdue that lies too far back for NEAR.
 4. WINDOW: from where a group of shards has been read to, up to a window from now. This alone waits while the wheel has
    no room; NEAR then is the window.

Shards taken over together form a group with a position of its own. Groups are read up to a common point and merged
there, so however shards come and go, soon a sweep is one query a second again.

`covers` is the promise to whoever makes a task: what is due before `reach` lies in a range that was or is being read,
and the reader may have passed it, so its maker puts it on the wheel itself. What is due later will be found by a
read that begins after the row was committed. `reach` is therefore raised before a page is asked for, never after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from taskcenter.task import SHARDS, TaskRef

BEGINNING: Final = 0  # ms: nothing is due before 1970


@dataclass(frozen=True, slots=True)
class Spans:
    """How far and how often, all in ms but `page` (rows)."""

    window_ms: int = 600_000
    soon_ms: int = 30_000
    step_ms: int = 1_000  # the window is extended by no less
    near_every_ms: int = 1_000
    near_back_ms: int = 10_000
    near_ahead_ms: int = 2_000
    safety_every_ms: int = 60_000
    page: int = 500


class Kind(IntEnum):
    NEAR = 0
    OVERDUE = 1
    SOON = 2
    SAFETY = 3
    WINDOW = 4


@dataclass(frozen=True, slots=True)
class Read:
    """One page to ask the store for: the arguments of `DueSource.due_refs`."""

    kind: Kind
    shards: frozenset[int] | None  # None: all there are
    due_from_ms: int
    due_to_ms: int
    after: tuple[int, str] | None
    limit: int


@dataclass(slots=True, eq=False)
class _Walk:
    kind: Kind
    due_from_ms: int
    due_to_ms: int
    began_at: int
    after: tuple[int, str] | None = None


@dataclass(slots=True, eq=False)
class _Group:
    """Shards that have been read together, up to `until_ms`."""

    shards: set[int]
    kind: Kind = Kind.OVERDUE  # of its walk, or of the next one
    until_ms: int = BEGINNING
    walk: _Walk | None = None

    def ends(self) -> tuple[int, ...]:
        """Where another group may meet this one."""
        return (self.until_ms,) if self.walk is None else (self.until_ms, self.walk.due_to_ms)


@dataclass(slots=True, eq=False)
class _Scan:
    """A walk over all groups that is begun anew some time after it ended."""

    every_ms: int
    next_at: int
    walk: _Walk | None = None


class LoadPlan:
    """One reader only: `next`, then `done` with what it read, or `next` again if the read failed."""

    def __init__(self, now_ms: int, spans: Spans) -> None:
        self._spans = spans
        self._groups: list[_Group] = []  # no shard is in two, none is empty
        self._near = _Scan(spans.near_every_ms, now_ms + spans.near_every_ms)
        self._safety = _Scan(spans.safety_every_ms, now_ms + spans.safety_every_ms)
        self._near_began_at: int | None = None  # when the last NEAR that came to its end began
        self._reach_ms = BEGINNING
        self._asked: tuple[Read, _Walk, _Group | _Scan] | None = None

    def add(self, shards: Iterable[int]) -> None:
        """These shards are owned now; those that were already are left alone."""
        new = set(shards) - self.shards
        if not new:
            return
        last = self._groups[-1] if self._groups else None
        if last is not None and last.kind is Kind.OVERDUE and last.walk is None:
            last.shards |= new
        else:
            self._groups.append(_Group(new))

    def remove(self, shards: Iterable[int]) -> None:
        """These shards are owned no longer."""
        gone = set(shards)
        for group in self._groups:
            group.shards -= gone
        self._groups = [group for group in self._groups if group.shards]
        if not self._groups:
            self._near.walk = self._safety.walk = self._near_began_at = None

    def next(self, now_ms: int, room: int) -> Read | None:
        """The page to read now, None if there is none before `next_at`. `room`: timers the wheel can take."""
        if not self._groups:
            return None
        found = self._near_scan(now_ms) or self._takeover(now_ms) or self._safety_scan(now_ms)
        if found is None and room >= self._spans.page:
            found = self._window(now_ms)
        if found is None:
            return None
        walk, owner = found
        shards = owner.shards if isinstance(owner, _Group) else self.shards
        if isinstance(owner, _Group):
            self._reach_ms = max(self._reach_ms, walk.due_to_ms)
        everything = None if len(shards) == SHARDS else frozenset(shards)
        read = Read(walk.kind, everything, walk.due_from_ms, walk.due_to_ms, walk.after, self._spans.page)
        self._asked = (read, walk, owner)
        return read

    def done(self, read: Read, rows: Sequence[TaskRef], now_ms: int) -> None:
        """The page was read and its rows are dealt with. A page with fewer rows than asked for ends its walk."""
        if self._asked is None or self._asked[0] is not read:
            raise ValueError("a page that was not asked for last")
        _, walk, owner = self._asked
        self._asked = None
        if len(rows) >= read.limit:
            walk.after = (rows[-1].due_at, rows[-1].task_id)
            return
        owner.walk = None
        if isinstance(owner, _Scan):
            owner.next_at = now_ms + owner.every_ms
            if owner is self._near and self._groups:
                self._near_began_at = walk.began_at
        else:
            owner.until_ms = walk.due_to_ms
            owner.kind = Kind.SOON if walk.kind is Kind.OVERDUE else Kind.WINDOW
            self._merge()

    def next_at(self) -> int | None:
        """When to ask again after `next` gave None; None: not before shards are added. In ms."""
        return self._near.next_at if self._groups else None

    def owns(self, shard: int) -> bool:
        return any(shard in group.shards for group in self._groups)

    @property
    def shards(self) -> frozenset[int]:
        return frozenset().union(*(group.shards for group in self._groups))

    @property
    def loading(self) -> frozenset[int]:
        """The shards whose overdue and soon due tasks have not all been read yet."""
        return frozenset().union(*(group.shards for group in self._groups if group.kind is not Kind.WINDOW))

    @property
    def loaded_until(self) -> int | None:
        """Up to where all shards have been read, in ms; None without shards."""
        return min((group.until_ms for group in self._groups), default=None)

    def covers(self, due_at: int, now_ms: int) -> bool:
        """Whether a task committed now, due then, may be passed over by the reading and so belongs on the wheel now."""
        return due_at < max(self._reach_ms, now_ms + self._spans.near_ahead_ms)

    def _near_scan(self, now_ms: int) -> tuple[_Walk, _Scan] | None:
        scan, spans = self._near, self._spans
        if scan.walk is None:
            if now_ms < scan.next_at:
                return None
            since = now_ms if self._near_began_at is None else min(now_ms, self._near_began_at)
            scan.walk = _Walk(Kind.NEAR, since - spans.near_back_ms, now_ms + spans.near_ahead_ms, now_ms)
        return scan.walk, scan

    def _safety_scan(self, now_ms: int) -> tuple[_Walk, _Scan] | None:
        scan = self._safety
        if scan.walk is None:
            if now_ms < scan.next_at:
                return None
            scan.walk = _Walk(Kind.SAFETY, BEGINNING, now_ms - self._spans.near_back_ms, now_ms)
        return scan.walk, scan

    def _takeover(self, now_ms: int) -> tuple[_Walk, _Group] | None:
        waiting = [group for group in self._groups if group.kind is not Kind.WINDOW]
        if not waiting:
            return None
        group = waiting[0]
        if group.walk is None:
            to_ms = now_ms + 1 if group.kind is Kind.OVERDUE else now_ms + self._spans.soon_ms
            group.walk = _Walk(group.kind, group.until_ms, to_ms, now_ms)
        return group.walk, group

    def _window(self, now_ms: int) -> tuple[_Walk, _Group] | None:
        """Extend the group that is furthest behind: to where the next one is, or to the window's end."""
        group = min(self._groups, key=lambda group: group.until_ms)
        if group.walk is None:
            to_ms = now_ms + self._spans.window_ms
            ahead = [end for other in self._groups for end in other.ends() if end > group.until_ms]
            if ahead:
                to_ms = min(ahead)
            elif to_ms - group.until_ms < self._spans.step_ms:
                return None
            group.walk = _Walk(Kind.WINDOW, group.until_ms, to_ms, now_ms)
        return group.walk, group

    def _merge(self) -> None:
        """Make one group of those that have been read to the same point and are not being read further."""
        merged: list[_Group] = []
        meeting: dict[int, _Group] = {}
        for group in self._groups:
            resting = group.kind is Kind.WINDOW and group.walk is None
            if resting and group.until_ms in meeting:
                meeting[group.until_ms].shards |= group.shards
                continue
            if resting:
                meeting[group.until_ms] = group
            merged.append(group)
        self._groups = merged
