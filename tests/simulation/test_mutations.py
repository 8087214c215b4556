"""The simulation finds bugs: each that is planted (`mutations`), within a bounded number of seeds."""

from __future__ import annotations

from itertools import chain

import pytest
from tests.simulation.mutations import PLANTS, Planted
from tests.simulation.simulate import simulate

MOST = 100  # seeds tried: of those that `test_seeds` shows to be clean


@pytest.mark.parametrize("planted", PLANTS, ids=lambda planted: planted.name)
def test_a_planted_bug_is_found(planted: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.plant(monkeypatch)
    seeds = chain(planted.shown_by, (seed for seed in range(MOST) if seed not in planted.shown_by))
    found = next((result for seed in seeds if not (result := simulate(seed)).ok), None)
    assert found is not None, f"{planted.name}: not found in {MOST} seeds"
