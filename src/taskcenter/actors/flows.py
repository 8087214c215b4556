"""The limits that tasks themselves bring along: at most `rate` starts a `period`, and `parallelism` at once, for each
flow key of a business. Pure; `now` is passed in.

A flow is what the caller says belongs together: one customer, one device, one account at the receiver. Tasks with the
same `flow_key` share one limit; of several that differ the one on the newest task wins (ids sort by time of creation).
A key for which no limit was ever seen is not limited.

The window slides: no period sees more than `rate` starts. Starts are kept in at most `GRAINS` groups, and a group
counts until its latest start has left the window: coarse on the strict side, so a flow costs the same memory whatever
its rate. Beyond `MAX_FLOWS` the flow that was used least recently and has nothing waiting or on its way is forgotten:
its window starts anew.

When a business comes to a new owner (another instance, or this one after a restart) a flow with a rate waits until its
starts within the last period were read from the history (`wanted_ms`, `learn`): no change of owner doubles a rate.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
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

    def follow(self, former: FlowWindow) -> None:
        """Go on from the starts that a window of another length or limit still knows."""
        for leaves_at, starts in former._groups:
            for _ in range(starts):
                self.take(leaves_at - former._span_ms)

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
    """One flow key's state, or one host's (`host_limits`). Owner: the business's admission."""

    def __init__(self, limit: FlowLimit, stated_by: str, *, reason: str = "flow", whose: str = "of its flow") -> None:
        """`reason` and `whose` say in a hold what is limited."""
        self.limit = limit
        self.stated_by = stated_by  # id of the task the limit is from
        self.in_flight = 0
        self.holding = False  # something was held back since the flow last had nothing waiting
        self.unread_since: int | None = None  # its starts from then on (ms) are still to be read from the history
        self._reason = reason
        self._whose = whose
        self._window: FlowWindow | None = None
        self._new_window()

    def adopt(self, limit: FlowLimit, stated_by: str) -> None:
        """A task's limit: in force if the task is as new as the one that set the present limit."""
        if stated_by < self.stated_by:
            return
        self.stated_by = stated_by
        if limit == self.limit:
            return
        self.limit = limit
        self._new_window()

    def _new_window(self) -> None:
        rate, former = self.limit.rate, self._window
        self._window = None if rate is None else FlowWindow(rate, self.limit.period_ms)
        if self._window is not None and former is not None:
            self._window.follow(former)

    def hold(self, start_at: int, now_ms: int, lead_ms: int) -> Hold | None:
        """Why an attempt may not start, or None: then at `available_at`."""
        if self.unread_since is not None:
            return Hold(self._reason, None, "what its flow has used before is being read")
        most = self.limit.parallelism
        if most is not None and self.in_flight >= most:
            detail = f"{self.in_flight} callbacks {self._whose} are on their way, of at most {most}"
            return Hold(self._reason, None, detail)
        at = self.available_at(start_at)
        if self._window is None or at <= now_ms + lead_ms:
            return None
        used, period = self._window.used(now_ms), spell_duration(self.limit.period_ms)
        detail = f"{used} of {self.limit.rate} callbacks {self._whose} were used in the last {period}"
        return Hold(self._reason, at - lead_ms, detail)

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
    """The flows of one business, at most `most` and those in use. Owner: the business's admission."""

    def __init__(self, waiting: Callable[[str], bool], born_at: int, most: int = MAX_FLOWS) -> None:
        """`waiting`: whether tasks of a key are held back. `born_at`: from then on (ms) all starts are known here."""
        self._waiting = waiting
        self._born_at = born_at
        self._most = most
        self.wanted_ms: int | None = None  # the history is to be read since then, and learnt; None: nothing is
        self._read_since = born_at  # what was learnt reaches back to here
        self._past: dict[str, list[int]] = {}  # flow key → its starts in what was learnt, for flows that come later
        self._flows: OrderedDict[str, Flow] = OrderedDict()  # least recently used first
        self._wakes: dict[str, int] = {}  # flow key → when its window lets one more start, ms
        self._wake_heap: list[tuple[int, str]] = []  # the same, and entries that are out of date

    def of(self, ref: TaskRef, now_ms: int) -> Flow | None:
        """The flow of a task with the newest limit seen; None: nothing limits it."""
        if ref.flow_key is None:
            return None
        flow = self._flows.get(ref.flow_key)
        if flow is None:
            if ref.flow_limit is None:
                return None
            self._make_room()
            flow = self._flows[ref.flow_key] = Flow(ref.flow_limit, ref.task_id)
            self._look_back(ref.flow_key, flow, now_ms)
        elif ref.flow_limit is not None:
            flow.adopt(ref.flow_limit, ref.task_id)
        self._flows.move_to_end(ref.flow_key)
        return flow

    def _look_back(self, key: str, flow: Flow, now_ms: int) -> None:
        """A new flow's starts before our time: those that were learnt, or it waits until they are."""
        since = now_ms - flow.limit.period_ms - GUARD_MS
        if flow.limit.rate is None or since >= self._born_at:
            return
        if since < self._read_since:
            flow.unread_since = since
            self.wanted_ms = since if self.wanted_ms is None else min(since, self.wanted_ms)
            return
        for started_at in self._past.get(key, ()):
            flow.take(started_at)

    def learn(self, starts: Iterable[tuple[str, int]], since_ms: int) -> None:
        """What the history says since `since_ms`: (flow key, ms) of each start, oldest first."""
        self._past, self._read_since = {}, since_ms
        for key, started_at in starts:
            self._past.setdefault(key, []).append(started_at)
        self.wanted_ms = None
        for key, flow in self._flows.items():
            if flow.unread_since is None:
                continue
            if flow.unread_since < since_ms:  # it came while this was being read
                self.wanted_ms = min(flow.unread_since, self.wanted_ms or flow.unread_since)
                continue
            flow.unread_since = None
            for started_at in self._past.get(key, ()):
                flow.take(started_at)
            self._wake_at(key, 0)

    def get(self, key: str | None) -> Flow | None:
        return None if key is None else self._flows.get(key)

    def wait(self, ref: TaskRef, hold: Hold) -> None:
        """`ref` is held back. Its flow is looked at again when one of its attempts ends, or when `take_due` says."""
        assert ref.flow_key is not None
        self._flows[ref.flow_key].holding = True
        if hold.until is not None:
            self._wake_at(ref.flow_key, hold.until)

    def _wake_at(self, key: str, at_ms: int) -> None:
        if at_ms < self._wakes.get(key, at_ms + 1):
            self._wakes[key] = at_ms
            heapq.heappush(self._wake_heap, (at_ms, key))

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
        return self.wanted_ms is None and all(flow.quiet(now_ms) for flow in self._flows.values())

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
