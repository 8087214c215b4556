"""Seeds that run with every change; `make simulate SEEDS=…` runs as many more as there is time for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.simulate import simulate

SEEDS = 200
CHUNK = 10


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_nothing_is_violated_whatever_fails(first: int) -> None:
    failed = [result.report() for seed in range(first, first + CHUNK) if not (result := simulate(seed)).ok]
    assert not failed, "\n".join(failed)


def test_the_same_seed_is_the_same_run_in_any_process() -> None:
    """Step by step, as the trace says; nothing hangs on the order of a set, on addresses or on the clock."""
    code = "from tests.simulation.simulate import simulate; print(*(simulate(seed).digest for seed in (3, 4, 5)))"
    digests = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": hash_seed}, check=True, text=True,
            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, timeout=120,
        ).stdout.split()
        for hash_seed in ("1", "77")
    ]  # fmt: skip
    here = [simulate(seed).digest for seed in (3, 4, 5)]
    assert digests == [here, here]
    assert len(set(here)) == 3


def test_a_failing_seed_tells_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.simulate.check", lambda *_: ["something is wrong"])
    report = simulate(2).report()
    assert "make simulate SEEDS=2..2" in report
    assert "something is wrong" in report
    assert "serves" in simulate(2).report(last=1000)
