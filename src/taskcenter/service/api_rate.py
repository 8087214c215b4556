"""How many requests a business may send to the API: a token bucket for each, in this process. Pure; `now` is passed in.

A caller in a loop must not take the API away from the others. A bucket holds `burst` tokens and gets `rate` a second;
a request takes one, whatever it asks (a batch counts once). The admin has no bucket: the operator must be able to act
on a business that floods the API. Several processes each have buckets of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from taskcenter.errors import TooMany
from taskcenter.service.auth_throttle import Buckets
from taskcenter.service.principal import Principal

MAX_BUSINESSES: Final = 10_000  # buckets kept; the least recently used is forgotten first, and starts full


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one request found. `passed` False: answer 429."""

    passed: bool
    limit: int  # requests at once from a full bucket
    remaining: int  # further requests that would pass now
    reset_s: int  # until the bucket is full again
    retry_after_s: float  # until one request passes; 0 when one would now

    @property
    def headers(self) -> dict[str, str]:
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
        }

    def require(self) -> None:
        """Raises `TooMany` unless it passed."""
        if not self.passed:
            raise TooMany("rate_limited", "this business sends too many requests", retry_after_s=self.retry_after_s)


class ApiRate:
    """The buckets of all businesses. Owner: the HTTP app."""

    def __init__(self, rate: float, burst: int, most: int = MAX_BUSINESSES) -> None:
        """`rate`: requests/s in the long run; 0 switches the limit off."""
        self._rate = rate
        self._buckets = Buckets(float(burst), rate / 1000, most)

    def take(self, principal: Principal, now_ms: int) -> Allowance | None:
        """Count a request. None: there is no limit for this caller."""
        if principal.is_admin or principal.business is None or not self._rate:
            return None
        return self.take_of(principal.business.code, now_ms)

    def take_of(self, code: str, now_ms: int) -> Allowance:
        passed = self._buckets.take(code, 1.0, now_ms)
        level = self._buckets.level(code, now_ms)
        return Allowance(
            passed=passed,
            limit=int(self._buckets.capacity),
            remaining=int(level),
            reset_s=math.ceil((self._buckets.capacity - level) / self._rate),
            retry_after_s=max(0.0, 1.0 - level) / self._rate,
        )

    def __repr__(self) -> str:
        return f"<ApiRate {self._rate:g}/s businesses={len(self._buckets)}>"
