"""A business's counters, kept in the transactions that change what they count.

`created` = `active` + `succeeded` + `failed` + `stopped` + `cancelled` holds after every transaction, for ever: a task
counts in the state it is in or was purged in, and a redelivery takes it out of there again. Hidden tasks (finish) count
nowhere. Lock order of every transaction: tasks by id, then ledgers by business (a create has no task to lock).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, Literal

from taskcenter.store.connection import Connection
from taskcenter.store.rows import to_json
from taskcenter.store.statements import businesses as sql
from taskcenter.store.statements.text import fetch_in
from taskcenter.task import Status

Counter = Literal["active", "created", "succeeded", "failed", "stopped", "cancelled", "callbacks"]
FEW: Final = 4  # a statement with a JSON table costs the server as much as so many plain ones
ENDED: Final[dict[Status, Counter]] = {
    Status.SUCCEEDED: "succeeded",
    Status.FAILED: "failed",
    Status.STOPPED: "stopped",
    Status.CANCELLED: "cancelled",
}


@dataclass(slots=True)
class Delta:
    """What one transaction adds to one business's counters."""

    active: int = 0
    created: int = 0
    succeeded: int = 0
    failed: int = 0
    stopped: int = 0
    cancelled: int = 0
    callbacks: int = 0

    def move(self, before: Status, after: Status) -> None:
        """A task went from one state to another."""
        self._add(before, -1)
        self._add(after, 1)

    def _add(self, status: Status, number: int) -> None:
        name = ENDED.get(status, "active")
        setattr(self, name, getattr(self, name) + number)


class Deltas(dict[int, Delta]):
    """By business; made when first asked for."""

    def __missing__(self, business_id: int) -> Delta:
        self[business_id] = made = Delta()
        return made


async def count(connection: Connection, deltas: Mapping[int, Delta]) -> None:
    """Add them, in the order of the businesses' ids: a statement for each when they are few, else one for all."""
    changed = [(business_id, delta) for business_id, delta in sorted(deltas.items()) if delta != Delta()]
    if len(changed) <= FEW:
        statement = sql.COUNT_ONE.on(connection.dialect)
        for business_id, delta in changed:
            await connection.execute(statement, (*(getattr(delta, name) for name in sql.COUNTERS), business_id))
        return
    rows = [{"id": business_id, **asdict(delta)} for business_id, delta in changed]
    await connection.execute(sql.COUNT.on(connection.dialect), (to_json(rows),))


async def lock_active(connection: Connection, business_ids: Sequence[int]) -> dict[int, int]:
    """How many active tasks each has; no other transaction can change that until this one is over."""
    rows = await fetch_in(connection, sql.LOCK_LEDGERS.on(connection.dialect), sorted(business_ids))
    return {business_id: int(active) for business_id, active in rows}
