"""The signing secrets in force for a business, remembered for an instant: attempts ask for them at every send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from taskcenter.actors.signing import SigningSecret
from taskcenter.clock import Clock
from taskcenter.errors import StoreUnavailable
from taskcenter.store.records import SigningSecret as Kept

Read = Callable[[int, int], Awaitable[Sequence[Kept]]]  # of a business, in force at a time (ms)
FRESH_S: Final = 1.5  # a rotation is in force everywhere within 2 s


class SigningSecrets:
    """One per process. A store that does not answer leaves the last known secrets in use.

    A rotation made by this process (`changed`) is in force with the next attempt: what a read brings that began before
    it is given to no attempt that begins after it.
    """

    def __init__(self, read: Read, clock: Clock) -> None:
        """`read`: `BusinessStore.signing_secrets`."""
        self._of_the_store = read
        self._clock = clock
        self._known: dict[int, tuple[float, tuple[SigningSecret, ...]]] = {}
        self._reading: dict[int, trio.Event] = {}
        self._changed: set[int] = set()  # businesses whose secrets were changed here since their last read began

    def changed(self, business_id: int) -> None:
        """Its secrets were changed by this process: the next attempt reads them anew."""
        if business_id in self._known or business_id in self._reading:
            self._changed.add(business_id)

    async def of(self, business_id: int) -> Sequence[SigningSecret]:
        """Newest first."""
        known = None if business_id in self._changed else self._known.get(business_id)
        if known is not None and trio.current_time() - known[0] < FRESH_S:
            return known[1]
        if (reading := self._reading.get(business_id)) is not None:
            if known is not None:
                return known[1]
            await reading.wait()
            return await self.of(business_id)
        return await self._read(business_id)

    async def _read(self, business_id: int) -> Sequence[SigningSecret]:
        done = self._reading[business_id] = trio.Event()
        self._changed.discard(business_id)
        try:
            rows = await self._of_the_store(business_id, self._clock.now_ms())
            secrets = tuple(SigningSecret.parse(row.secret) for row in rows)
            self._known[business_id] = (trio.current_time(), secrets)
            return secrets
        except StoreUnavailable:
            if (known := self._known.get(business_id)) is None:
                raise
            return known[1]
        finally:
            del self._reading[business_id]
            done.set()
