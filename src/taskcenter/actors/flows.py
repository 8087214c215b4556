"""The limits that tasks themselves bring along: at most `rate` starts a `period`, and `parallelism` at once, for each
flow key of a business. Pure; `now` is passed in.

A flow is what the caller says belongs together: one customer, one device, one account at the receiver. Tasks with the
same `flow_key` share one limit; of several that differ the one on the newest task wins (ids sort by time of creation).
A key for which no limit was ever seen is not limited.

The window slides: no period sees more than `rate` starts. Starts are kept in at most `GRAINS` groups, and a group
counts until its latest start has left the window: coarse on the strict side, so a flow costs the same memory whatever
its rate. Beyond `MAX_FLOWS` the flow that was used least recently and has nothing waiting or on its way is forgotten:
its window starts anew, as it does when the business moves to another instance.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from taskcenter.actors.hold import Hold
from taskcenter.task import FlowLimit, TaskRef
from taskcenter.times import spell_duration

MAX_FLOWS: Final = 5_000
GRAINS: Final = 64
GUARD_MS: Final = 250  # what the network may take out of the distance between two starts; at most a twentieth
EVICT_LOOK: Final = 16


class FlowWindow:
    """Starts in any period: at most `limit`."""

    def __init__(self, limit: int, period_ms: int) -> None:
        self.limit = limit
        self._span_ms = period_ms + min(GUARD_MS, period_ms // 20)
        self._groups: deque[list[int]] = deque()  # [leaves the window at ms, starts], in order
        self._used = 0

    def available_at(self, at_ms: int) -> int:
        """The earliest time, `at_ms` or later, at which one more start is allowed."""
        excess = self.used(at_ms) - self.limit
        for leaves_at, starts in self._groups:
            if excess < 0:
                break
            excess -= starts
            at_ms = max(at_ms, leaves_at)
        return at_ms

    def take(self, at_ms: int) -> int:
        """Note a start. Returns the entry for `give_back`."""
        grain_ms = 1 if self.limit <= GRAINS else -(-self._span_ms // GRAINS)
        leaves_at = -(-(at_ms + self._span_ms) // grain_ms) * grain_ms
        self._used += 1
        if self._groups and self._groups[-1][0] >= leaves_at:
            self._groups[-1][1] += 1
        else:
            self._groups.append([leaves_at, 1])
        return self._groups[-1][0]

    def give_back(self, entry: int) -> None:
        """The start did not happen."""
        for group in self._groups:
            if group[0] == entry:
                group[1] -= 1
                self._used -= 1
                if not group[1]:
                    self._groups.remove(group)
                return

    def used(self, now_ms: int) -> int:
        while self._groups and self._groups[0][0] <= now_ms:
            self._used -= self._groups.popleft()[1]
        return self._used

    def __len__(self) -> int:
        return len(self._groups)


class Flow:
    """One flow key's state. Owner: the business actor."""

    def __init__(self, limit: FlowLimit, stated_by: str) -> None:
        self.limit = limit
        self.stated_by = stated_by  # id of the task the limit is from
        self.in_flight = 0
        self.holding = False  # something was held back since the flow last had nothing waiting
        self._window: FlowWindow | None = None
        self._reset_window()

    def adopt(self, limit: FlowLimit, stated_by: str) -> None:
        """A task's limit: in force if the task is as new as the one that set the present limit."""
        if stated_by < self.stated_by:
            return
        self.stated_by = stated_by
        if limit == self.limit:
            return
        same_window = limit.period_ms == self.limit.period_ms and limit.rate is not None
        self.limit = limit
        if same_window and self._window is not None and limit.rate is not None:
            self._window.limit = limit.rate
        else:
            self._reset_window()

    def _reset_window(self) -> None:
        rate = self.limit.rate
        self._window = None if rate is None else FlowWindow(rate, self.limit.period_ms)

    def hold(self, start_at: int, now_ms: int, lead_ms: int) -> Hold | None:
        """Why an attempt may not start, or None: then at `available_at`."""
        most = self.limit.parallelism
        if most is not None and self.in_flight >= most:
            return Hold("flow", None, f"{self.in_flight} callbacks of its flow are on their way, of at most {most}")
        at = self.available_at(start_at)
        if self._window is None or at <= now_ms + lead_ms:
            return None
        used, period = self._window.used(now_ms), spell_duration(self.limit.period_ms)
        return Hold("flow", at - lead_ms, f"{used} of {self.limit.rate} used by its flow in the last {period}")

    def available_at(self, at_ms: int) -> int:
        return at_ms if self._window is None else self._window.available_at(at_ms)

    def start(self, at_ms: int) -> FlowTicket:
        self.in_flight += 1
        return FlowTicket(self, at_ms)

    def take(self, at_ms: int) -> tuple[FlowWindow, int] | None:
        window = self._window
        return None if window is None else (window, window.take(at_ms))

    def quiet(self, now_ms: int) -> bool:
        """Whether forgetting it changes nothing."""
        return not self.in_flight and (self._window is None or not self._window.used(now_ms))


class FlowTicket:
    """An attempt's share of its flow. Owner: the attempt."""

    def __init__(self, flow: Flow, at_ms: int) -> None:
        self._flow = flow
        self._entry = flow.take(at_ms)

    def restate(self, at_ms: int) -> None:
        """It started at `at_ms`, later than planned."""
        self._give_back()
        self._entry = self._flow.take(at_ms)

    def end(self, *, sent: bool) -> None:
        self._flow.in_flight -= 1
        if not sent:
            self._give_back()

    def _give_back(self) -> None:
        if self._entry is not None:
            window, entry = self._entry
            window.give_back(entry)


class Flows:
    """The flows of one business, at most `most` and those in use. Owner: the business actor."""

    def __init__(self, waiting: Callable[[str], bool], most: int = MAX_FLOWS) -> None:
        """`waiting`: whether tasks of a key are held back."""
        self._waiting = waiting
        self._most = most
        self._flows: OrderedDict[str, Flow] = OrderedDict()  # least recently used first
        self._wakes: dict[str, int] = {}  # flow key → when its window lets one more start, ms
        self._wake_heap: list[tuple[int, str]] = []  # the same, and entries that are out of date

    def of(self, ref: TaskRef) -> Flow | None:
        """The flow of a task with the newest limit seen; None: nothing limits it."""
        if ref.flow_key is None:
            return None
        flow = self._flows.get(ref.flow_key)
        if flow is None:
            if ref.flow_limit is None:
                return None
            self._make_room()
            flow = self._flows[ref.flow_key] = Flow(ref.flow_limit, ref.task_id)
        elif ref.flow_limit is not None:
            flow.adopt(ref.flow_limit, ref.task_id)
        self._flows.move_to_end(ref.flow_key)
        return flow

    def get(self, key: str | None) -> Flow | None:
        return None if key is None else self._flows.get(key)

    def wait(self, ref: TaskRef, hold: Hold) -> None:
        """`ref` is held back. Its flow is looked at again when one of its attempts ends, or when `take_due` says."""
        assert ref.flow_key is not None
        self._flows[ref.flow_key].holding = True
        until = hold.until
        if until is not None and until < self._wakes.get(ref.flow_key, until + 1):
            self._wakes[ref.flow_key] = until
            heapq.heappush(self._wake_heap, (until, ref.flow_key))

    def take_due(self, now_ms: int) -> list[str]:
        """The keys to look at again."""
        keys = []
        while (at := self.next_at) is not None and at <= now_ms:
            _, key = heapq.heappop(self._wake_heap)
            del self._wakes[key]
            keys.append(key)
        return keys

    @property
    def next_at(self) -> int | None:
        """When `take_due` has something, ms."""
        while self._wake_heap and self._wakes.get(self._wake_heap[0][1]) != self._wake_heap[0][0]:
            heapq.heappop(self._wake_heap)
        return self._wake_heap[0][0] if self._wake_heap else None

    def hold_of(self, ref: TaskRef, now_ms: int, lead_ms: int) -> Hold | None:
        """Why the flow holds a parked task back."""
        flow = self.get(ref.flow_key)
        return None if flow is None else flow.hold(max(ref.due_at, now_ms), now_ms, lead_ms)

    def holding(self, ref: TaskRef) -> bool:
        flow = self.get(ref.flow_key)
        return flow is not None and flow.holding

    def quiet(self, now_ms: int) -> bool:
        return all(flow.quiet(now_ms) for flow in self._flows.values())

    def _make_room(self) -> None:
        if len(self._flows) < self._most:
            return
        for key in list(islice(self._flows, EVICT_LOOK)):
            if self._flows[key].in_flight or self._waiting(key):
                self._flows.move_to_end(key)
            else:
                del self._flows[key]

    def __len__(self) -> int:
        return len(self._flows)

    def __repr__(self) -> str:
        return f"<Flows {len(self._flows)}>"
