"""The breakers of one business, one for each destination host; the business's own state is that of the worst. Pure.

By host, because one dead destination must not stop the business's others; a business with one destination has one
breaker. Bounded: beyond `MAX_BREAKERS` those used least recently are forgotten, closed ones first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final

from taskcenter.actors.breaker import Breaker, BreakerSettings, BreakerState, Transition
from taskcenter.actors.outcome import Health, health_of
from taskcenter.store.engine_records import SendPoint

MAX_BREAKERS: Final = 512
FORGET_AT_ONCE: Final = 32
_SEVERITY: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Breakers:
    """Owner: the business actor."""

    def __init__(
        self,
        settings: BreakerSettings,
        chance: Callable[[], float],
        on_transition: Callable[[str, Transition], None] = lambda host, transition: None,
    ) -> None:
        """`on_transition`: told the host and the move."""
        self._settings = settings
        self._chance = chance
        self._on_transition = on_transition
        self._by_host: OrderedDict[str, Breaker] = OrderedDict()  # least recently used first

    def of(self, host: str) -> Breaker:
        """The host's, made when it is first asked for."""
        breaker = self._by_host.get(host)
        if breaker is None:
            if len(self._by_host) >= MAX_BREAKERS:
                self._make_room()
            breaker = self._by_host[host] = Breaker(self._settings, self._chance, partial(self._on_transition, host))
        else:
            self._by_host.move_to_end(host)
        return breaker

    def _make_room(self) -> None:
        """One that is forgotten starts anew, closed; a call of it that is on its way keeps the old one."""
        closed = (host for host, breaker in self._by_host.items() if breaker.state is BreakerState.CLOSED)
        for host in list(islice(closed, FORGET_AT_ONCE)) or [next(iter(self._by_host))]:
            del self._by_host[host]

    def reconfigure(self, settings: BreakerSettings) -> None:
        self._settings = settings
        for breaker in self._by_host.values():
            breaker.reconfigure(settings)

    def replay(self, history: Iterable[SendPoint]) -> None:
        """Bring the machines where the history, oldest first, would have brought them."""
        for point in history:
            breaker = self.of(point.callback_host)
            if not breaker.admits(point.started_at):
                continue
            ticket = breaker.start()
            match health_of(point):
                case Health.WELL:
                    breaker.succeed(ticket, point.started_at)
                case Health.UNWELL:
                    breaker.fail(ticket, point.started_at, point.status.value)
                case Health.UNKNOWN:
                    breaker.cancel(ticket)

    @property
    def all_closed(self) -> bool:
        return all(breaker.state is BreakerState.CLOSED for breaker in self._by_host.values())

    @property
    def worst(self) -> Breaker | None:
        """The one in the worst state; None when no host was called."""
        return max(self._by_host.values(), key=lambda breaker: _SEVERITY[breaker.state], default=None)

    @property
    def closed_since(self) -> int | None:
        """When the last one that had opened closed again, ms; None: none has, or one is not closed."""
        return max((breaker.since or 0 for breaker in self), default=0) or None if self.all_closed else None

    @property
    def unwell(self) -> list[tuple[str, Breaker]]:
        """The hosts whose breaker is not closed: open ones first, of these the longest in its state."""
        found = [(host, breaker) for host, breaker in self._by_host.items() if breaker.state is not BreakerState.CLOSED]
        return sorted(found, key=lambda item: (-_SEVERITY[item[1].state], item[1].since or 0))

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._by_host.values())

    def __repr__(self) -> str:
        return f"<Breakers {self._by_host}>"
