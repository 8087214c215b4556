"""One seed: the run, then the checks."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

import trio
from tests.simulation.invariants import check
from tests.simulation.journal import Journal
from tests.simulation.seeded import run_seeded
from tests.simulation.shape import Shape
from tests.simulation.world import World


@dataclass
class Result:
    seed: int
    violations: list[str]
    digest: str
    trace: list[str] = field(repr=False)

    @property
    def ok(self) -> bool:
        return not self.violations

    def report(self, last: int = 40) -> str:
        """What went wrong, how to see it again, and the end of the trace."""
        again = f"make simulate SEEDS={self.seed}..{self.seed}"
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.violations)} violations; again: {again}",
                *(f"  {violation}" for violation in self.violations[:12]),
                "the end of its trace:",
                *(f"  {line}" for line in self.trace[-last:]),
            ]
        )


def simulate(seed: int) -> Result:
    """The same seed gives the same result, trace and all."""
    journal = Journal()

    async def main() -> list[str]:
        async with trio.open_nursery() as nursery:
            world = World(seed, Shape.of(seed), nursery, journal)
            rested = await world.run()
            violations = check(world, rested)
            for process in world.processes:
                process.crash()
            nursery.cancel_scope.cancel()
        await world.server.database.aclose()
        return violations

    try:
        violations = run_seeded(seed, main, journal.say)
    except Exception as error:  # noqa: BLE001  # the run itself fell over: that is a finding too
        violations = [f"the run ended with {error!r}", *traceback.format_exception(error)[-6:]]
    return Result(seed, violations, journal.digest(), journal.trace)
