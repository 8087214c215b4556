"""When nothing fails: how late attempts start of the service's own doing, and how soon their ends are recorded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.simulation.journal import Move
    from tests.simulation.receivers import Sent
    from tests.simulation.world import World

    from taskcenter.store.records import Execution

# A sweep is once a second, and finds what the owner was not told of, or was told of as it was before its last change.
# Time is virtual: the rest is what the store takes. The worst of 2,000 seeds were 1,006 ms and 14 ms.
LATE_MS: Final = 1_100
RECORDED_MS: Final = 100


def lateness(world: World, sends: dict[tuple[str, int, int], list[Sent]]) -> Iterator[str]:
    """`sends`: by task, term and due time."""
    if world.shape.faults:
        return
    kept = {(one.task_id, one.number): one for one in world.history}
    of_task: dict[str, list[Sent]] = {}
    for sent in world.receivers.sent:
        of_task.setdefault(sent.task_id, []).append(sent)
    for moves in world.journal.moves.values():
        for before, move in pairwise(moves):
            old, new = before.row, move.row
            if new.sends != old.sends:
                yield from _started(kept.get((new.id, new.sends)), before, of_task.get(new.id, []))
            elif old.status == "running" and new.status not in {"running", "cancelled"}:
                yield from _recorded(sends.get((old.id, old.term, old.scheduled_at), []), move)


def _started(attempt: Execution | None, ready: Move, sends: list[Sent]) -> Iterator[str]:
    """`ready`: what made the task as it was claimed. Nobody is to blame for the time before: it was created or changed
    when it was due already, or its former attempt had not ended; `sends` tell of one that was cancelled with it.
    """
    if attempt is None:  # withdrawn unsent
        return
    ends = [sent.ended_at for sent in sends if sent.ended_at is not None and sent.ended_at <= attempt.started_at]
    since = max(attempt.scheduled_at, ready.at, *ends)
    own_ms = min(attempt.started_at - since, attempt.lateness_ms - attempt.policy_wait_ms)
    if own_ms > LATE_MS:
        yield (
            f"attempt {attempt.id}: started {own_ms:.0f} ms late, of {attempt.lateness_ms:.0f} ms after it was due, of"
            f" which {attempt.policy_wait_ms:.0f} by policy"
        )


def _recorded(sent: list[Sent], end: Move) -> Iterator[str]:
    heard_at = sent[0].ended_at if sent else None
    if heard_at is not None and end.at - heard_at > RECORDED_MS:
        yield f"task {end.row.id}: the end of its attempt was recorded {end.at - heard_at} ms after it was heard"
