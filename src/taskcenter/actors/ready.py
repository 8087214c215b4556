"""What a business has due and not yet sent: references by host, each host's in order of due time. Pure.

By host, because one destination behind an open breaker must not hold up the business's others; by due within a host,
because that is the promise. A task that its flow holds back is parked beside its host's queue, for the same reason:
`unpark` puts the earliest of the flow back. Whoever takes a reference out that might have been the flow's next one
puts the following one back, so a flow never stands still with nobody to wake it.

A reference is held once: a newer version replaces an older one. Bounded: beyond `capacity` the latest due is refused
and the queue says that it `overflowed`, so that the actor re-reads the store when there is room again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from taskcenter.task import TaskRef


class ReadyQueue:
    """Owner: the business actor. Stale heap entries are dropped when they come to the top."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.overflowed = False
        self._refs: dict[str, TaskRef] = {}
        self._lanes: dict[str, list[tuple[int, str, int]]] = {}  # host → heap of (due_at, task_id, version)
        self._parked: dict[str, list[tuple[int, str, int, TaskRef]]] = {}  # flow key → heap
        self._parked_ids: set[str] = set()
        self._deadlines: list[tuple[int, str]] = []  # heap of (deadline_at, task_id)

    def push(self, ref: TaskRef) -> bool:
        """Hold `ref` unless a version as new is held already, or there is no room (then `overflowed`)."""
        held = self._refs.get(ref.task_id)
        if held is not None and held.version >= ref.version:
            return True
        if held is None and len(self._refs) >= self.capacity:
            self.overflowed = True
            return False
        self._refs[ref.task_id] = ref
        self._parked_ids.discard(ref.task_id)
        heapq.heappush(self._lanes.setdefault(ref.host, []), (ref.due_at, ref.task_id, ref.version))
        if ref.deadline_at is not None:
            heapq.heappush(self._deadlines, (ref.deadline_at, ref.task_id))
        return True

    def discard(self, task_id: str) -> TaskRef | None:
        """Take it out, wherever it stands."""
        ref = self._refs.pop(task_id, None)
        if ref is not None:
            self._parked_ids.discard(task_id)
            self.unpark(ref.flow_key)
        return ref

    def heads(self) -> list[TaskRef]:
        """The earliest of every host, earliest first."""
        found = []
        for host in list(self._lanes):
            head = self._head(host)
            if head is not None:
                found.append(head)
        found.sort(key=_by_due)
        return found

    def pop(self, ref: TaskRef) -> TaskRef | None:
        """Take `ref`, a head, out. Returns its host's next head."""
        self._refs.pop(ref.task_id, None)
        return self._head(ref.host)

    def park(self, ref: TaskRef) -> TaskRef | None:
        """Set `ref`, a head with a flow key, aside until `unpark`. Returns its host's next head."""
        assert ref.flow_key is not None
        self._parked_ids.add(ref.task_id)
        heapq.heappush(self._parked.setdefault(ref.flow_key, []), (ref.due_at, ref.task_id, ref.version, ref))
        return self._head(ref.host)

    def unpark(self, flow_key: str | None) -> TaskRef | None:
        """Put the flow's earliest back into its host's queue."""
        heap = self._parked.get(flow_key) if flow_key is not None else None
        while heap:
            _, task_id, _, ref = heapq.heappop(heap)
            if task_id in self._parked_ids and self._refs.get(task_id) is ref:
                self._parked_ids.discard(task_id)
                heapq.heappush(self._lanes.setdefault(ref.host, []), (ref.due_at, task_id, ref.version))
                return ref
        if flow_key is not None:
            self._parked.pop(flow_key, None)
        return None

    def unpark_each(self) -> None:
        """One of every flow: what holds it is looked at anew."""
        for flow_key in list(self._parked):
            self.unpark(flow_key)

    def is_parked(self, task_id: str) -> bool:
        return task_id in self._parked_ids

    def has_parked(self, flow_key: str) -> bool:
        return bool(self._parked.get(flow_key))

    def take_expired(self, now_ms: int) -> list[TaskRef]:
        """Take out those whose deadline has passed while they waited."""
        expired = []
        while (at := self.next_deadline()) is not None and at < now_ms:
            _, task_id = heapq.heappop(self._deadlines)
            ref = self.discard(task_id)
            assert ref is not None
            expired.append(ref)
        return expired

    def next_deadline(self) -> int | None:
        """The earliest deadline of what is held, ms."""
        while self._deadlines:
            deadline_at, task_id = self._deadlines[0]
            ref = self._refs.get(task_id)
            if ref is not None and ref.deadline_at == deadline_at:
                return deadline_at
            heapq.heappop(self._deadlines)
        return None

    def position(self, task_id: str) -> int | None:
        """How many are due before it, or None if it is not held."""
        mine = self._refs.get(task_id)
        if mine is None:
            return None
        return sum(_by_due(ref) < _by_due(mine) for ref in self._refs.values())

    def get(self, task_id: str) -> TaskRef | None:
        return self._refs.get(task_id)

    def _head(self, host: str) -> TaskRef | None:
        heap = self._lanes.get(host)
        while heap:
            due_at, task_id, version = heap[0]
            ref = self._refs.get(task_id)
            if ref is not None and ref.version == version and ref.due_at == due_at and not self.is_parked(task_id):
                return ref
            heapq.heappop(heap)
        self._lanes.pop(host, None)
        return None

    def clear(self) -> None:
        self._refs.clear()
        self._lanes.clear()
        self._parked.clear()
        self._parked_ids.clear()
        self._deadlines.clear()
        self.overflowed = False

    def __len__(self) -> int:
        return len(self._refs)

    def __iter__(self) -> Iterator[TaskRef]:
        return iter(list(self._refs.values()))

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._refs

    def __repr__(self) -> str:
        return f"<ReadyQueue {len(self._refs)}/{self.capacity}{' overflowed' if self.overflowed else ''}>"


def _by_due(ref: TaskRef) -> tuple[int, str]:
    return ref.due_at, ref.task_id
