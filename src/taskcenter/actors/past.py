"""What an actor must know of the time before it, read from the history: a change of owner neither doubles a rate nor
forgets a dead host. Limiter, host limits and breakers are read at the start, and anew when the business's shard went to
another owner and came back; a flow's window is read when it first comes up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from taskcenter.actors.admission import Admission
from taskcenter.actors.limiter import WINDOW_MS
from taskcenter.errors import StoreUnavailable
from taskcenter.store.interface import EngineStore
from taskcenter.store.records import Business

if TYPE_CHECKING:
    from taskcenter.actors.business import BusinessActor

CLOCKS_MS: Final = 1_000  # what the former owner's clock may have been behind
BREAKER_BACK_MS: Final = 900_000
BREAKER_SENDS: Final = 500
MOST_STARTS: Final = 10_000  # read at once for windows longer than a minute: the newest
PAUSE_S: Final = 0.5  # after a reading that failed
FAULT_PAUSE_S: Final = 10.0  # after one that a bug of ours ended


async def rebuild(admission: Admission, business: Business, store: EngineStore, now_ms: int) -> None:
    """Raises `StoreUnavailable`."""
    minute = await store.recent_sends(business.id, now_ms - WINDOW_MS - CLOCKS_MS, business.rate_limit)
    quarter = await store.recent_sends(business.id, now_ms - BREAKER_BACK_MS, BREAKER_SENDS)
    longest_ms = admission.hosts.longest_ms
    by_host = []
    if longest_ms:
        by_host = await store.recent_sends(business.id, now_ms - longest_ms - CLOCKS_MS, MOST_STARTS)
    admission.rebuild(minute, quarter, by_host, now_ms)


class SendHistory:
    """Reads what other owners have sent, once the shard is ours again. Owner: the business actor."""

    def __init__(self) -> None:
        self.unread = False  # the shard was another's since the last reading: nothing may start
        self.running = False
        self._generation = 0  # grows when the shard is lost: a reading from before then is void

    def forget(self) -> None:
        """The shard is another's from now on."""
        self.unread = True
        self._generation += 1

    async def run(self, actor: BusinessActor) -> None:
        """Read once. Set `running` before starting it, and not before the shard is ours again."""
        generation = self._generation
        admission = actor.new_admission()
        try:
            await rebuild(admission, actor.business, actor.tools.engine_store, actor.tools.clock.now_ms())
            if generation == self._generation:
                actor.admit_by(admission)
                self.unread = False
        except StoreUnavailable as error:
            actor.tools.log.warning("history not read", business=actor.business.code, error=str(error))
            await trio.sleep(PAUSE_S)
        except Exception:
            await trio.sleep(FAULT_PAUSE_S)
            raise
        finally:
            self.running = False
            actor.wake()

    def __repr__(self) -> str:
        return f"<SendHistory {'running' if self.running else 'unread' if self.unread else 'read'}>"


class FlowHistory:
    """Reads what the flows want to know. Owner: the business actor."""

    def __init__(self) -> None:
        self.running = False

    async def run(self, actor: BusinessActor) -> None:
        """Read once. Set `running` before starting it."""
        flows = actor.admission.flows
        since = flows.wanted_ms
        assert since is not None  # the actor looked at it
        try:
            starts = await actor.tools.engine_store.flow_starts(actor.business.id, since - CLOCKS_MS, MOST_STARTS)
            flows.learn(starts, since)
        except StoreUnavailable as error:
            actor.tools.log.warning("flows not read", business=actor.business.code, error=str(error))
            await trio.sleep(PAUSE_S)
        finally:
            self.running = False
            actor.wake()

    def __repr__(self) -> str:
        return f"<FlowHistory {'running' if self.running else 'at rest'}>"
