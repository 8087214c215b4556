"""How often may an address, or a key id, be wrong? Token buckets over the failures; `now` is passed in. Pure.

Only failures take tokens and only failures are refused: the secret is checked first (that is cheap), so a correct one
always passes, and nobody can lock a business out by guessing at its key, or by failing from behind the same NAT.
What an empty bucket does: the failure is answered 429 with Retry-After in place of 401, and key ids that this process
has never seen share a few look-ups a second (`may_look_up`), so a flood of made-up keys costs the store little.

A wrong key or admin token costs one token, a wrong JWT a third: its signature cannot be guessed, and a fleet whose
tokens all expire at once should hear 401 for a while. A request without any credential costs nothing.

Memory is bounded: the least recently failing are forgotten first. IPv6 callers are counted by /64, the smallest block
that is handed to one customer (RFC 6177).
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

CAPACITY: Final = 60.0  # failures in a row: a client that tries every route with a key that has ended hears 401
REFILL_PER_MS: Final = 60.0 / 60_000
SECRET_COST: Final = 1.0
TOKEN_COST: Final = 1.0 / 3
LOOK_UPS: Final = 20.0
LOOK_UPS_PER_MS: Final = 10.0 / 1000
MAX_TRACKED: Final = 10_000


class Buckets:
    """A token bucket for each name, at most `limit` of them. A name that is not here has a full bucket."""

    def __init__(
        self, capacity: float = CAPACITY, refill_per_ms: float = REFILL_PER_MS, limit: int = MAX_TRACKED
    ) -> None:
        self.capacity = capacity
        self._refill_per_ms = refill_per_ms
        self._limit = limit
        self._levels: OrderedDict[str, tuple[float, int]] = OrderedDict()  # name → (tokens, at ms), oldest use first

    def take(self, name: str, cost: float, now_ms: int) -> bool:
        """Take `cost` tokens; False when there are not enough (then none are taken)."""
        level = self.level(name, now_ms)
        enough = level >= cost
        self._levels[name] = (level - cost if enough else level, now_ms)
        self._levels.move_to_end(name)
        if len(self._levels) > self._limit:
            self._levels.popitem(last=False)
        return enough

    def level(self, name: str, now_ms: int) -> float:
        entry = self._levels.get(name)
        if entry is None:
            return self.capacity
        tokens, at = entry
        return min(self.capacity, tokens + max(now_ms - at, 0) * self._refill_per_ms)

    def __len__(self) -> int:
        return len(self._levels)


class AuthThrottle:
    """The buckets of addresses and of key ids. Owner: the authenticator."""

    def __init__(self, limit: int = MAX_TRACKED) -> None:
        self._addresses = Buckets(limit=limit)
        self._key_ids = Buckets(limit=limit)
        self._look_ups = Buckets(LOOK_UPS, LOOK_UPS_PER_MS, limit=1)

    def failed(self, address: str | None, key_id: str | None, cost: float, now_ms: int) -> float | None:
        """Note a failure. None: answer 401; else the seconds for 429's Retry-After."""
        wait_s = 0.0
        block = network_of(address)
        if not self._addresses.take(block, cost, now_ms):
            wait_s = _wait_s(cost - self._addresses.level(block, now_ms))
        if key_id is not None and not self._key_ids.take(key_id, cost, now_ms):
            wait_s = max(wait_s, _wait_s(cost - self._key_ids.level(key_id, now_ms)))
        return wait_s or None

    def may_look_up(self, address: str | None, now_ms: int) -> bool:
        """Whether a key id never seen here may be looked up in the store for this address."""
        if self._addresses.level(network_of(address), now_ms) >= SECRET_COST:
            return True
        return self._look_ups.take("", 1.0, now_ms)

    def __repr__(self) -> str:
        return f"<AuthThrottle addresses={len(self._addresses)} key_ids={len(self._key_ids)}>"


def _wait_s(missing_tokens: float) -> float:
    return missing_tokens / REFILL_PER_MS / 1000


def network_of(address: str | None) -> str:
    """What is counted as one caller: an IPv4 address, an IPv6 /64; "" when the peer has no address (a Unix socket)."""
    if not address:
        return ""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
