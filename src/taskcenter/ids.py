"""Identifiers that sort by time of birth: 48 bits of ms, 80 bits of chance, 26 letters of Crockford's base 32 (a ULID).

Chance comes from the injected source, so a simulation replays. Within one ms the next identifier is the last plus one,
so the identifiers of one process are strictly increasing and a keyset cursor over them is stable under inserts.
Specification: the ULID spec, https://github.com/ulid/spec.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH: Final = 26
_PAIRS: Final = [first + second for first in ALPHABET for second in ALPHABET]


class IdSource:
    """Makes identifiers; one per process."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._last_ms = -1
        self._tail = 0

    def next(self, now_ms: int) -> str:
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            self._tail = self._rng.getrandbits(79)  # one bit of room to count up in
        else:
            self._tail += 1
        return encode((self._last_ms << 80) | self._tail)


def encode(value: int) -> str:
    """130 bits as 13 pairs of letters."""
    return _high(value >> 40) + "".join([_PAIRS[value >> shift & 1023] for shift in (30, 20, 10, 0)])


@lru_cache(maxsize=8)  # identifiers of one ms have it in common
def _high(value: int) -> str:
    """The upper 90 bits as 9 pairs."""
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(80, -1, -10)])


def is_id(text: str) -> bool:
    """Whether `text` could be an identifier of ours (a wrong one is 404, without a look-up)."""
    return len(text) == LENGTH and text.isascii() and all(letter in ALPHABET for letter in text)


def first_id_at(ms: int) -> str:
    """The smallest identifier that can be born at `ms`: turns a bound on time into a bound on the key."""
    return encode(max(ms, 0) << 80)
