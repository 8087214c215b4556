"""`make simulate SEEDS=…`: a count, or a range as 17..17 or 100..2099; in processes side by side.

Each failing seed is told at once, with its violations and the end of its trace; the status is then 1. `TRACE=1` prints
the whole trace of each seed, which is for one seed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Final

from tests.simulation.simulate import Result, simulate

PROGRESS_S: Final = 10.0


def seeds_of(text: str) -> range:
    """A count of seeds from 0, or first..last. Raises ValueError."""
    first, dots, last = text.partition("..")
    seeds = range(int(first), int(last) + 1) if dots else range(int(first))
    if not seeds or seeds.start < 0:
        raise ValueError(f"{text}: no seeds, e.g. 200 or 17..17")
    return seeds


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("seeds", type=seeds_of, nargs="?", default=range(200))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    began, said_at = time.monotonic(), time.monotonic()
    failed: list[int] = []
    with ProcessPoolExecutor(given.processes) as pool:
        for done, result in enumerate(pool.map(simulate, given.seeds, chunksize=4), 1):
            if not result.ok:
                failed.append(result.seed)
            _tell(result, whole=given.trace)
            if time.monotonic() - said_at > PROGRESS_S:
                said_at = time.monotonic()
                _say(f"{done} of {len(given.seeds)} seeds, {len(failed)} failed, {said_at - began:.0f} s")
    took_s = time.monotonic() - began
    first, last = given.seeds.start, given.seeds.stop - 1
    _say(f"{len(given.seeds)} seeds ({first}..{last}), {len(failed)} failed, {took_s:.0f} s")
    if failed:
        _say(f"failed: {' '.join(map(str, failed))}")
    return 1 if failed else 0


def _tell(result: Result, *, whole: bool) -> None:
    if whole:
        _say("\n".join([*result.trace, f"digest {result.digest}"]))
    if not result.ok:
        _say(result.report())


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
