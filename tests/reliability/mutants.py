"""The service with a guard taken out: run as `python -m tests.reliability.mutants serve …`; `MUTANT` says which.

They show that a trial can fail: what lets them pass proves nothing of the service either.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from taskcenter.runtime.leases import LeaseKeeper


def deadline_ignored() -> None:
    """What we hold we send for, however long ago the lease was renewed."""
    setattr(LeaseKeeper, "term_of", lambda self, shard: self._terms.get(shard))  # noqa: B010  # a method is replaced
    setattr(LeaseKeeper, "valid", property(lambda self: True))  # noqa: B010  # as above


MUTANTS: Final[dict[str, Callable[[], None]]] = {"deadline ignored": deadline_ignored}


def main() -> None:
    """`taskcenter`, mutilated, or as it is."""
    if name := os.environ.get("MUTANT"):
        MUTANTS[name]()
    from taskcenter.__main__ import main as taskcenter

    taskcenter()


if __name__ == "__main__":
    main()
