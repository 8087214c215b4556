"""What a seed makes of a run: how large it is, who takes part and which faults befall it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from tests.runtime.engine_kit import CODES
from tests.simulation.receivers import WELL

FAULTS: Final = (
    "crash", "crash", "freeze", "freeze", "cut", "slow store", "lossy store", "wall step", "store step", "drain",
    "rolling restart",
)  # fmt: skip
UPON: Final = (
    "", "", "running", "running", "sends", "hears", "retrying", "pending", "serves", "change hands", "claims", "claims",
    "outcomes",
)  # fmt: skip
UNDER_WAY: Final = 0.2  # the part of the runs in which an instance stops with a statement on its way
ILL: Final = (
    "broken", "unknown path", "moved", "again", "busy", "at rest", "later", "reset", "refused", "garbage", "hanging",
    "slow", "gone", "stop",
)  # fmt: skip
BREAKER: Final = {
    "enabled": True, "failure_threshold": 4, "failure_rate": None, "window_seconds": 20, "min_calls": 10,
    "open_seconds": 1, "max_open_seconds": 3, "half_open_probes": 1,
}  # fmt: skip


@dataclass(frozen=True)
class BusinessShape:
    code: str
    rate_limit: int  # starts a minute
    concurrency: int
    creates: int
    calls: int  # of other kinds

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "rate_limit": self.rate_limit, "max_concurrent_tasks": self.concurrency, "breaker": BREAKER,
            "default_timeout_ms": 3000,
        }  # fmt: skip


@dataclass(frozen=True)
class Fault:
    kind: str
    at_s: float
    lasts_s: float
    upon: str  # a word of the trace: it befalls the instance that does this next; "": anyone, at that moment


@dataclass(frozen=True)
class Shape:
    instances: int
    businesses: tuple[BusinessShape, ...]
    lasts_s: float  # of traffic and faults; then everything heals and must come to rest
    temper: tuple[str, ...]  # the receivers' moods while it lasts
    faults: tuple[Fault, ...]
    ttl_s: float  # of leases
    datagrams_lost: float
    datagrams_doubled: float
    datagrams_delay_s: float
    hesitates_s: float  # before each request goes out: a token is fetched, a name looked up

    @classmethod
    def of(cls, seed: int) -> Shape:
        rng = random.Random(f"shape {seed}")
        tight = rng.random() < 0.1  # one business has more to do than its rate limit lets it
        instances = 2 if tight else rng.choice((1, 2, 2, 2, 3, 3, 4))
        lasts_s = rng.uniform(6, 16)
        ttl_s = rng.choice((4.0, 4.0, 6.0, 10.0))
        codes = rng.sample(CODES, rng.randint(1, 3))
        businesses = tuple(_business(rng, code, tight and not number) for number, code in enumerate(codes))
        moods = WELL * rng.choice((1, 3, 8)) + tuple(rng.sample(ILL, rng.randint(0, 8)))
        number = 0 if rng.random() < 0.1 else rng.choice((1, 2, 2, 3, 4, 6))
        faults = tuple(_fault(rng, rng.uniform(0.5, lasts_s * 0.75), ttl_s) for _ in range(number))
        if tight:
            faults += (Fault(rng.choice(("crash", "drain")), rng.uniform(2, 8), 0, ""),)
        aimed = random.Random(f"under way {seed}")
        if aimed.random() < UNDER_WAY:
            ttl_s, instances = 4.0, max(2, instances)
            faults += (Fault("stop under way", aimed.uniform(0.2, 2), 0, aimed.choice(("claims", "outcomes"))),)
        return cls(
            instances, businesses, lasts_s, moods, faults, ttl_s, rng.choice((0.0, 0.0, 0.3, 1.0)),
            rng.choice((0.0, 0.3)), rng.choice((0.001, 0.05, 3.0)), rng.choice((0.0, 0.0, 0.0, 0.02, 0.3)),
        )  # fmt: skip


def _fault(rng: random.Random, at_s: float, ttl_s: float) -> Fault:
    lasts_s = rng.choice((0.3, 2.0, ttl_s * 0.8, ttl_s * 1.4, ttl_s * 2)) * rng.uniform(0.7, 1.3)
    return Fault(rng.choice(FAULTS), at_s, lasts_s, rng.choice(UPON))


def _business(rng: random.Random, code: str, tight: bool) -> BusinessShape:
    if tight:
        limit = rng.randint(12, 24)
        return BusinessShape(code, limit, rng.choice((3, 50)), limit + rng.randint(1, 4), rng.randint(0, 4))
    return BusinessShape(code, 1000, rng.choice((1, 3, 50)), rng.randint(4, 25), rng.randint(2, 14))
