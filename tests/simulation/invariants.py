"""What must be true after every run, whatever happened in it. Each violation is a sentence with its names and times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.simulation.answers import Answers
from tests.simulation.lateness import lateness
from tests.simulation.life import lives
from tests.simulation.limits import limits
from tests.simulation.sends import Sends

if TYPE_CHECKING:
    from tests.simulation.world import Rested, World


def check(world: World, rested: Rested) -> list[str]:
    """All that is wrong; nothing, one hopes."""
    sends = Sends(world)
    return [
        *_rest(world, rested),
        *lives(world.journal.moves, sends.by_key),
        *sends.check(),
        *Answers(world).check(),
        *limits(world),
        *lateness(world, sends.by_key),
    ]


def _rest(world: World, rested: Rested) -> Iterator[str]:
    """Once nothing fails any more, everything ends, and nobody holds anything."""
    for process in world.processes:
        if process.ended_by:
            yield f"{process.name} ended by itself: {process.ended_by}"
    if rested.within_s is None:
        waiting = [moves[-1].row for moves in world.journal.moves.values() if moves[-1].row.finished_at is None]
        names = ", ".join(f"{row.id} {row.status} term {row.term} due {row.next_execute_at}" for row in waiting[:5])
        yield f"{len(waiting)} tasks, or attempts of cancelled ones, never ended: {names}"
    if rested.left:
        yield f"left over: {rested.left}"
    if rested.unowned:
        yield f"{rested.unowned} shards are not owned by exactly one instance"
    yield from rested.books
