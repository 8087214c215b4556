"""The breakers of one business, one for each destination host. Bounded: closed ones are forgotten first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final

from taskcenter.actors.breaker import Breaker, BreakerSettings, BreakerState, Transition
from taskcenter.actors.outcome import Health, health_of
from taskcenter.store.engine_records import SendPoint

MAX_BREAKERS: Final = 256
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
        self._by_host: dict[str, Breaker] = {}

    def of(self, host: str) -> Breaker:
        """The host's, made when it is first asked for."""
        breaker = self._by_host.get(host)
        if breaker is None:
            if len(self._by_host) >= MAX_BREAKERS:
                self._forget_closed()
            breaker = self._by_host[host] = Breaker(self._settings, self._chance, partial(self._on_transition, host))
        return breaker

    def _forget_closed(self) -> None:
        """A closed breaker that is forgotten starts anew; a call of it that is on its way keeps the old one."""
        self._by_host = {
            host: breaker for host, breaker in self._by_host.items() if breaker.state is not BreakerState.CLOSED
        }

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

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._by_host.values())

    def __repr__(self) -> str:
        return f"<Breakers {self._by_host}>"
