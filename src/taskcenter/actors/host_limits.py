"""The limits an operator sets on single destination hosts of a business, beside the business's own. Pure.

`*` names every host that is not named itself; each such host has a window of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from taskcenter.actors.flows import Flow
from taskcenter.task import FlowLimit

EVERY: Final = "*"
MAX_HOSTS: Final = 1_024  # windows kept; beyond it those that nothing is lost with go first


class HostLimits:
    """Owner: the business's admission."""

    def __init__(self, limits: Mapping[str, Any]) -> None:
        """`limits`: host → `{rate, period (s), parallelism}`, as the business has them."""
        self._limits = _parsed(limits)
        self._flows: dict[str, Flow] = {}

    def reconfigure(self, limits: Mapping[str, Any]) -> None:
        """New limits, in force at once; a window goes on where its period stays."""
        self._limits = _parsed(limits)
        for host, flow in list(self._flows.items()):
            limit = self._limit_of(host)
            if limit is None:
                del self._flows[host]
            else:
                flow.adopt(limit, "")

    def of(self, host: str, now_ms: int) -> Flow | None:
        """None: nothing limits it."""
        limit = self._limit_of(host)
        if limit is None:
            return None
        flow = self._flows.get(host)
        if flow is None:
            if len(self._flows) >= MAX_HOSTS:
                self._flows = {name: kept for name, kept in self._flows.items() if not kept.quiet(now_ms)}
            flow = self._flows[host] = Flow(limit, "", reason="host_limit", whose=f"to {host}")
        return flow

    def rebuild(self, starts: Iterable[tuple[str, int]], now_ms: int) -> None:
        """Note what the history says: (host, ms), oldest first."""
        for host, started_at in starts:
            if (flow := self.of(host, now_ms)) is not None:
                flow.take(started_at)

    @property
    def longest_ms(self) -> int:
        """How far back the history matters; 0 when no limit has a rate."""
        return max((limit.period_ms for limit in self._limits.values() if limit.rate is not None), default=0)

    def quiet(self, now_ms: int) -> bool:
        return all(flow.quiet(now_ms) for flow in self._flows.values())

    def _limit_of(self, host: str) -> FlowLimit | None:
        return self._limits.get(host) or self._limits.get(EVERY)

    def __repr__(self) -> str:
        return f"<HostLimits {sorted(self._limits)} in use={len(self._flows)}>"


def _parsed(limits: Mapping[str, Any]) -> dict[str, FlowLimit]:
    return {host: limit for host, values in limits.items() if (limit := FlowLimit.of(values)) is not None}
