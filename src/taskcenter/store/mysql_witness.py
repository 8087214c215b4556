"""Whether a server that owes an answer has fallen silent, or is only slow with this one statement.

A statement may take its whole time-out while the server works on it. A server that is frozen or cut off answers nothing
to anybody, and whoever waits for it must hear so within 2 s (RELIABILITY.md §3, row 14). A login of its own tells the
two apart: a server that works greets it at once. It is a whole login, ended politely, because a server shuts out a host
that breaks off too many of them.

One look serves everybody who asks meanwhile, and those who ask shortly after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from taskcenter.store.connection import FaultKind, StoreFault

if TYPE_CHECKING:
    from taskcenter.store.mysql_wire import Wire

SILENT_AFTER_S: Final = 1.2  # a statement unanswered for so long raises the question
LOOK_S: Final = 0.5  # and so long the look may take; together less than the 2 s of a 503
FRESH_S: Final = 0.5
SAID_NOTHING: Final[frozenset[FaultKind]] = frozenset({"refused", "timeout", "lost"})


class Witness:
    """`make` builds a new, unopened wire."""

    def __init__(self, make: Callable[[], Wire]) -> None:
        self._make = make
        self._looking: trio.Event | None = None  # all mutable fields are the witness's alone
        self._looked_at = float("-inf")
        self._spoke = True

    async def speaks(self) -> bool:
        """Whether the server has a word for a new connection within `LOOK_S`."""
        while (looking := self._looking) is not None:
            await looking.wait()
        if trio.current_time() - self._looked_at > FRESH_S:
            self._looking = trio.Event()
            try:
                self._spoke = await self._look()
                self._looked_at = trio.current_time()
            finally:
                self._looking.set()
                self._looking = None
        return self._spoke

    async def _look(self) -> bool:
        wire = self._make()
        try:
            with trio.move_on_after(LOOK_S):
                await wire.open()
        except StoreFault as fault:
            return wire.greeted or fault.kind not in SAID_NOTHING
        finally:
            if wire.at_rest:
                wire.farewell()
            else:
                wire.kill()
        return wire.greeted
