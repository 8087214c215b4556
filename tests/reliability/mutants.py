"""The service with a guard taken out: run as `python -m tests.reliability.mutants serve …`; `MUTANT` says which.

They show that a trial can fail: what lets them pass proves nothing of the service either. Each is one that real
processes can tell from the service; what another guard covers by design is taken out together with that guard, and said
so. Bugs of every other kind are planted in the simulation (`tests.simulation.mutations`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from taskcenter.actors.attempt import Attempt
from taskcenter.runtime.leases import LeaseKeeper
from taskcenter.store import engine, outcomes
from taskcenter.store.statements import leases as lease_sql
from taskcenter.task import Status


def _replace(owner: Any, name: str, by: object) -> None:
    assert hasattr(owner, name), f"{owner}.{name} is not there to be replaced"
    setattr(owner, name, by)


def deadline_ignored() -> None:
    """What we hold we send for, however long ago the lease was renewed."""
    _replace(LeaseKeeper, "term_of", lambda self, shard: self._terms.get(shard))
    _replace(LeaseKeeper, "valid", property(lambda self: True))


class _Anything:
    """Equal to every term, and every shard's."""

    def get(self, _: int) -> _Anything:
        return self

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # it is no key


def look_lets_nothing_go() -> None:
    """Once a second an instance looks at its shards; here it keeps those that it finds to be another's. The fence holds
    all the same: no mutant of `MUTANTS`.
    """
    _replace(LeaseKeeper, "_drop", lambda self, gone: None)


def claim_unfenced() -> None:
    """A claim locks no shard and compares no term. Nor does the look let go of what is another's, for it is due right
    after a freeze, and over before a task can be claimed.
    """

    async def held(*_: object) -> _Anything:
        return _Anything()

    look_lets_nothing_go()
    _replace(engine, "held", held)


def outcome_of_any_claim() -> None:
    """An outcome is compared with neither the term nor the number of the claim: one of the two suffices, for a row that
    another has claimed differs in both.
    """
    _replace(outcomes, "_is_claim_of", lambda head, _: head.status is Status.RUNNING)


def first_byte_unchecked() -> None:
    """The lease is looked at before the connection is made, and not once more before the first byte."""
    _replace(Attempt, "_may_send", staticmethod(lambda actor, task: True))


def stolen_lease_revived() -> None:
    """A heartbeat that comes after the burial brings its sender back to life, shards and all as far as it knows."""
    _replace(lease_sql, "HEARTBEAT", "UPDATE instances SET expires_at = ?, seq = seq + 1, dead = 0 WHERE id = ?")


MUTANTS: Final[dict[str, Callable[[], None]]] = {
    "deadline ignored": deadline_ignored,
    "claim unfenced": claim_unfenced,
    "outcome of any claim": outcome_of_any_claim,
    "first byte unchecked": first_byte_unchecked,
    "stolen lease revived": stolen_lease_revived,
}


BLIND: Final = "look lets nothing go"


def main() -> None:
    """`taskcenter`, mutilated, or as it is."""
    if name := os.environ.get("MUTANT"):
        ({BLIND: look_lets_nothing_go} | MUTANTS)[name]()
    from taskcenter.__main__ import main as taskcenter

    taskcenter()


if __name__ == "__main__":
    main()
