"""The timing wheel against a heap: what an insert costs, the worst single step, bytes a timer.

    python bench/wheel.py [timers] [window_s]

A heap has the smallest step there is, but no cancel by key; it is the yardstick, measured in the same run on the same
timers. Every step of the wheel is timed, so the worst one is what the event loop would be blocked by the structure
alone: in CPU time, so that other processes do not count, and with the garbage collector off. What a full collection
costs with these timers in memory is a line of its own, for it is far more than any step.
"""

from __future__ import annotations

import gc
import heapq
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import trio

from taskcenter.clock import Clock
from taskcenter.task import TaskRef
from taskcenter.wheel.driver import WheelDriver
from taskcenter.wheel.wheel import TimingWheel

BUDGET = 512
STEP_MS = 5  # as the driver would be woken with this many timers


@dataclass(frozen=True, slots=True)
class Steps:
    fired: int
    count: int
    total_s: float
    worst_ms: float
    p999_ms: float

    @classmethod
    def of(cls, fired: int, times_s: list[float]) -> Steps:
        times_s.sort()
        p999 = times_s[min(len(times_s) - 1, int(len(times_s) * 0.999))]
        return cls(fired, len(times_s), sum(times_s), times_s[-1] * 1e3, p999 * 1e3)


def make_refs(timers: int, window_ms: int, seed: int) -> list[TaskRef]:
    rng = random.Random(seed)
    return [
        TaskRef(f"{number:026x}", number % 1000, number % 256, rng.randrange(1, window_ms), 1)
        for number in range(timers)
    ]


def bytes_each(build: Callable[[], object], timers: int) -> float:
    """What `build` keeps, beyond the references themselves."""
    gc.collect()
    tracemalloc.start()
    kept = build()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    del kept
    return size / timers


def fill_wheel(refs: list[TaskRef]) -> TimingWheel[TaskRef]:
    wheel: TimingWheel[TaskRef] = TimingWheel(0)
    for ref in refs:
        wheel.insert(ref.task_id, ref.due_at, ref)
    return wheel


def fill_heap(refs: list[TaskRef]) -> list[tuple[int, str, TaskRef]]:
    heap: list[tuple[int, str, TaskRef]] = []
    for ref in refs:
        heapq.heappush(heap, (ref.due_at, ref.task_id, ref))
    return heap


def fill_driver(refs: list[TaskRef]) -> WheelDriver:
    driver = WheelDriver(Clock(0), lambda ref: None)
    for ref in refs:
        driver.schedule(ref)
    return driver


async def measure_driver(refs: list[TaskRef]) -> tuple[float, float]:
    """Bytes a timer and µs a `schedule`, all of the driver's books included."""
    return bytes_each(lambda: fill_driver(refs), len(refs)), cost_us(lambda: fill_driver(refs), len(refs))


def run_wheel(wheel: TimingWheel[TaskRef], until_ms: int) -> Steps:
    times: list[float] = []
    fired = 0
    for now_ms in range(0, until_ms + STEP_MS, STEP_MS):
        while True:
            began = time.thread_time()
            fired += len(wheel.advance(now_ms, BUDGET))
            at_ms = wheel.next_deadline()
            times.append(time.thread_time() - began)
            if at_ms is None or at_ms > now_ms:
                break
    return Steps.of(fired, times)


def run_heap(heap: list[tuple[int, str, TaskRef]], until_ms: int) -> Steps:
    times: list[float] = []
    fired = 0
    for now_ms in range(0, until_ms + STEP_MS, STEP_MS):
        began = time.thread_time()
        while heap and heap[0][0] <= now_ms:
            heapq.heappop(heap)
            fired += 1
        times.append(time.thread_time() - began)
    return Steps.of(fired, times)


def cost_us(work: Callable[[], object], count: int) -> float:
    began = time.thread_time()
    work()
    return (time.thread_time() - began) / count * 1e6


def main(timers: int, window_s: int) -> None:
    window_ms = window_s * 1000
    refs = make_refs(timers, window_ms, seed=1)
    wheel_bytes = bytes_each(lambda: fill_wheel(refs), timers)
    heap_bytes = bytes_each(lambda: fill_heap(refs), timers)
    gc.collect()
    gc.disable()
    wheel_insert = cost_us(lambda: fill_wheel(refs), timers)
    heap_insert = cost_us(lambda: fill_heap(refs), timers)
    wheel = fill_wheel(refs)
    cancel = cost_us(lambda: [wheel.cancel(ref.task_id) for ref in refs[::10]], len(refs[::10]))
    for ref in refs[::10]:
        wheel.insert(ref.task_id, ref.due_at, ref)
    collection = cost_us(gc.collect, 1000)
    driver_bytes, driver_schedule = trio.run(measure_driver, refs)
    by_wheel = run_wheel(wheel, window_ms)
    by_heap = run_heap(fill_heap(refs), window_ms)
    block = fill_wheel(make_refs(timers // 10, 1000, seed=2))
    jump = run_jump(block)
    if by_wheel.fired != timers or by_heap.fired != timers or jump.fired != timers // 10:
        raise SystemExit("timers were lost")
    print(f"{timers:,} timers over {window_s} s, budget {BUDGET}, a step every {STEP_MS} ms")
    print(f"{'':24}{'wheel':>10}{'heapq':>10}{'ratio':>8}")
    row("insert, µs", wheel_insert, heap_insert)
    row("bytes a timer", wheel_bytes, heap_bytes)
    row("worst step, ms", by_wheel.worst_ms, by_heap.worst_ms)
    row("99.9 % of steps, ms", by_wheel.p999_ms, by_heap.p999_ms)
    row("all steps, µs a timer", by_wheel.total_s / timers * 1e6, by_heap.total_s / timers * 1e6)
    print(f"{'cancel, µs':24}{cancel:10.2f}")
    print(f"{'driver: schedule, µs':24}{driver_schedule:10.2f}")
    print(f"{'driver: bytes a timer':24}{driver_bytes:10.2f}")
    print(f"{'a full gc.collect, ms':24}{collection:10.1f}")
    print(f"{timers // 10:,} timers of one second, all overdue: {jump.count} steps,", end=" ")
    print(f"worst {jump.worst_ms:.2f} ms, {jump.total_s * 1e3:.0f} ms together")


def run_jump(wheel: TimingWheel[TaskRef]) -> Steps:
    times: list[float] = []
    fired = 0
    while len(wheel):
        began = time.thread_time()
        fired += len(wheel.advance(3_600_000, BUDGET))
        times.append(time.thread_time() - began)
    return Steps.of(fired, times)


def row(name: str, wheel: float, heap: float) -> None:
    print(f"{name:24}{wheel:10.2f}{heap:10.2f}{wheel / heap:8.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, int(sys.argv[2]) if len(sys.argv) > 2 else 600)
