"""The plan against a store in which anything happens between two pages, by Hypothesis: nothing is lost.

Tasks are made by this instance (which keeps the promise of `covers`) and by others (whose nudge never comes), shards
come and go, pages fail, the wheel is full now and then.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from taskcenter.task import TaskRef
from taskcenter.wheel.plan import LoadPlan, Spans

START = 1_700_000_000_000
SPANS = Spans(window_ms=60_000, soon_ms=5_000, page=3)
SHARDS = st.sets(st.integers(0, 5), min_size=1)
DELAYS = st.one_of(st.integers(-30_000, 0), st.integers(0, 10_000), st.integers(0, 150_000))


class PlanAndStore(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.now_ms = START
        self.plan = LoadPlan(START, SPANS)
        self.rows: dict[str, TaskRef] = {}
        self.known: set[str] = set()  # what was there when their shard was taken over, or was made here since
        self.wheel: dict[str, TaskRef] = {}
        self.owned: set[int] = set()
        self.serial = 0

    def make(self, shard: int, delay_ms: int, *, here: bool) -> None:
        self.serial += 1
        ref = TaskRef(f"{self.serial % 7}-{self.serial}", 1, shard, self.now_ms + delay_ms, 1)
        self.rows[ref.task_id] = ref
        if here and shard in self.owned:
            self.known.add(ref.task_id)
            if self.plan.covers(ref.due_at, self.now_ms):
                self.wheel[ref.task_id] = ref

    @rule(shard=st.integers(0, 5), delay_ms=DELAYS, here=st.booleans())
    def create(self, shard: int, delay_ms: int, here: bool) -> None:
        self.make(shard, delay_ms, here=here)

    @rule(shards=SHARDS)
    def take_over(self, shards: set[int]) -> None:
        self.plan.add(shards)
        self.known |= {row.task_id for row in self.rows.values() if row.shard in shards - self.owned}
        self.owned |= shards

    @rule(shards=SHARDS)
    def lose(self, shards: set[int]) -> None:
        self.plan.remove(shards)
        self.owned -= shards
        self.wheel = {task_id: ref for task_id, ref in self.wheel.items() if ref.shard not in shards}
        self.known = {task_id for task_id in self.known if self.rows[task_id].shard not in shards}

    @rule(step_ms=st.one_of(st.integers(0, 1_500), st.integers(0, 90_000)))
    def time_passes(self, step_ms: int) -> None:
        self.now_ms += step_ms

    @rule(
        pages=st.integers(1, 8),
        full=st.booleans(),
        fails=st.booleans(),
        between=st.lists(st.tuples(st.integers(0, 5), DELAYS, st.booleans()), max_size=4),
    )
    def read_some(self, pages: int, full: bool, fails: bool, between: list[tuple[int, int, bool]]) -> None:
        """Some pages; a task is made while each of the first is on its way; the last one may fail."""
        for number in range(pages):
            if not self.read_page(room=0 if full else 100, between=between[number : number + 1], fails=False):
                return
        if fails:
            self.read_page(room=100, between=[], fails=True)

    def read_page(self, *, room: int, between: list[tuple[int, int, bool]], fails: bool) -> bool:
        read = self.plan.next(self.now_ms, room)
        if read is None:
            return False
        page = sorted(
            (
                ref
                for ref in self.rows.values()
                if (read.shards is None or ref.shard in read.shards)
                and read.due_from_ms <= ref.due_at < read.due_to_ms
                and (read.after is None or (ref.due_at, ref.task_id) > read.after)
            ),
            key=lambda ref: (ref.due_at, ref.task_id),
        )[: read.limit]
        for shard, delay_ms, here in between:
            self.make(shard, delay_ms, here=here)
        if not fails:
            self.wheel |= {ref.task_id: ref for ref in page if self.plan.owns(ref.shard)}
            self.plan.done(read, page, self.now_ms)
        return True

    @rule()
    def catch_up(self) -> None:
        """With a healthy store and room, all this instance can know of is on the wheel as far as the window goes."""
        while self.read_page(room=100, between=[], fails=False):
            pass
        if not self.owned:
            return
        assert not self.plan.loading
        until_ms = self.plan.loaded_until
        assert until_ms is not None and until_ms > self.now_ms + SPANS.window_ms - SPANS.step_ms
        missing = [
            self.rows[task_id]
            for task_id in self.known
            if task_id not in self.wheel and self.rows[task_id].due_at < until_ms
        ]
        assert not missing

    def teardown(self) -> None:
        """After a sweep and a safety scan, all that is due and ours is on the wheel, whoever made it."""
        if not hasattr(self, "plan"):
            return
        for _ in range(2):
            self.now_ms += SPANS.safety_every_ms + SPANS.near_back_ms
            self.catch_up()
        assert self.plan.shards == self.owned
        missing = [
            ref
            for ref in self.rows.values()
            if ref.shard in self.owned and ref.due_at < self.now_ms and ref.task_id not in self.wheel
        ]
        assert not missing


TestPlanAndStore = PlanAndStore.TestCase
TestPlanAndStore.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
