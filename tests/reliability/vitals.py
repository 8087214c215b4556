"""What a process takes up: memory, descriptors and threads as the kernel counts them, and how they change."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from bench.kit import percentile
from tests.flow.kit import Service

MIB = 1024 * 1024
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Vitals:
    """Of one moment."""

    at_s: float  # of the loop's clock
    resident_bytes: int
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Weight:
    """What the interpreter counts, after a collection."""

    tasks: int
    objects: int
    kinds: dict[str, int]

    def grown(self, since: Weight) -> str:
        """The kinds of objects there are most more of."""
        more = {kind: count - since.kinds.get(kind, 0) for kind, count in self.kinds.items() if kind in since.kinds}
        most = sorted(more.items(), key=lambda each: -each[1])[:8]
        return ", ".join(f"{kind} {count:+}" for kind, count in most)


def vitals(pid: int) -> Vitals:
    """Of the process, now."""
    proc = Path(f"/proc/{pid}")
    resident = int((proc / "statm").read_text("ascii").split()[1]) * PAGE_BYTES
    descriptors, threads = (len(list((proc / each).iterdir())) for each in ("fd", "task"))
    return Vitals(trio.current_time(), resident, descriptors, threads)


async def sample(pid: int, into: list[Vitals], every_s: float = 1.0) -> None:
    """For ever."""
    while True:
        into.append(vitals(pid))
        await trio.sleep(every_s)


def growth(samples: Sequence[Vitals]) -> float:
    """Of the resident memory, in MB a minute: the slope of the line with the least squares."""
    times = [each.at_s / 60 for each in samples]
    sizes = [each.resident_bytes / 1e6 for each in samples]
    middle, mean = sum(times) / len(times), sum(sizes) / len(sizes)
    spread = sum((time - middle) ** 2 for time in times)
    return sum((time - middle) * (size - mean) for time, size in zip(times, sizes, strict=True)) / spread


def spread_of(values: list[float]) -> str:
    """How many, the median, the 95th percentile and the greatest."""
    return f"{len(values):,}, " + ", ".join(f"{percentile(values, share):.3g}" for share in (0.5, 0.95, 1))


async def weigh(directory: Path, timeout_s: float = 30) -> Weight:
    """Of a service that runs as `tests.reliability.saboteur` with this directory."""
    told = directory / "weight.json"
    told.unlink(missing_ok=True)
    (directory / "weigh").touch()
    with trio.fail_after(timeout_s):
        while not told.exists():
            await trio.sleep(0.05)
    return Weight(**json.loads(told.read_text("utf-8")))


async def until_back(service: Service, descriptors: int, timeout_s: float = 120) -> Vitals:
    """The first moment at which the service has no more descriptors than that. Raises `trio.TooSlowError`."""
    with trio.fail_after(timeout_s):
        while (now := vitals(service.pid)).descriptors > descriptors:
            await trio.sleep(0.25)
    return now
