"""What a full mailbox or queue refused is re-read from the store, once there is room again: a refusal loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from taskcenter.errors import StoreUnavailable

if TYPE_CHECKING:
    from taskcenter.actors.business import BusinessActor

PAGE: Final = 500
AHEAD_MS: Final = 2000  # what is due this soon is read as well
PAUSE_S: Final = 0.5  # after the store refused


class Refill:
    """Owner: the business actor. `wanted` when a reference was refused since the last reading began."""

    def __init__(self) -> None:
        self.wanted = False
        self.running = False
        self._generation = 0  # grows when all that waits is forgotten: a reading from before then is void

    def forget(self) -> None:
        self.wanted = False
        self._generation += 1

    async def run(self, actor: BusinessActor) -> None:
        """Read in due order until the queue is full again or nothing is left. Set `running` before starting it."""
        after: tuple[int, str] | None = None
        self.wanted = actor.ready.overflowed = False
        generation = self._generation
        try:
            while not self.wanted:
                until = actor.tools.clock.now_ms() + AHEAD_MS
                page = await actor.tools.engine_store.due_refs_of(actor.business.id, until, after, PAGE)
                if generation != self._generation:
                    return
                for ref in page:
                    actor.accept(ref)
                actor.wake()
                if len(page) < PAGE:
                    return
                after = (page[-1].due_at, page[-1].task_id)
        except StoreUnavailable:
            self.wanted = generation == self._generation
            await trio.sleep(PAUSE_S)
        finally:
            self.running = False
            actor.wake()

    def __repr__(self) -> str:
        return f"<Refill {'running' if self.running else 'wanted' if self.wanted else 'at rest'}>"
