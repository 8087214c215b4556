"""API keys: how one looks, and how one is kept. Pure.

    tc_<environment>_<key id, 16 letters>_<secret, 43 letters><checksum, 6 letters>

The prefix lets secret scanners find a key in a repository, and tells one of production (`live`) from one of another
set-up, which refuses it; the checksum (CRC-32 of all before it, in base 62) lets
them, and us, tell a key from a typo without a look-up. The key id is public: it names the key in audits, logs and
lists. The secret is 32 random bytes in base 62.

Kept is `len | hash key id | HMAC-SHA256(hash key, "<key id>:<secret>")`. The hash key is derived from an encryption
key, so a stolen database alone verifies nothing, and the key's own id is bound in, so a hash copied to another row does
not open it. A stored hash names the encryption key it was made with: after a rotation the older ones still verify, and
`needs_rehash` says when a hash should be made anew. 256 bits of chance need no slow hash (OWASP ASVS 5.0, 11.4).
Source of the shape: GitHub's token format (prefix, base 62, CRC-32).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from taskcenter.store.vault import derive

RandomBytes = Callable[[int], bytes]

LIVE: Final = "live"
SECRET_BYTES: Final = 32
KEY_ID_LETTERS: Final = 16
SECRET_LETTERS: Final = 43  # 62^43 > 2^256
CHECKSUM_LETTERS: Final = 6  # 62^6 > 2^32
PURPOSE: Final = "api-key-hash"

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE32: Final = "abcdefghijkmnpqrstuvwxyz23456789"  # no l, o, 0, 1: a key id is read out on the telephone
_SHAPE: Final = re.compile(
    rf"tc_([a-z]{{2,8}})_([{_BASE32}]{{{KEY_ID_LETTERS}}})_([0-9A-Za-z]{{{SECRET_LETTERS}}})([0-9A-Za-z]{{{CHECKSUM_LETTERS}}})"
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in the clear: at its birth, and while a request is checked. Never kept."""

    key_id: str
    secret: str = field(repr=False)
    environment: str = LIVE

    @property
    def text(self) -> str:
        """What the caller gets, once."""
        body = f"{prefix_of(self.environment)}{self.key_id}_{self.secret}"
        return body + checksum(body)


def prefix_of(environment: str) -> str:
    """What every key of an environment begins with."""
    return f"tc_{environment}_"


def generate(random_bytes: RandomBytes = os.urandom, environment: str = LIVE) -> ApiKey:
    key_id = "".join(_BASE32[byte % 32] for byte in random_bytes(KEY_ID_LETTERS))
    return ApiKey(key_id, base62(int.from_bytes(random_bytes(SECRET_BYTES), "big"), SECRET_LETTERS), environment)


def parse(text: str) -> ApiKey | None:
    """The key, or None when this cannot be one of ours: wrong shape or wrong checksum."""
    match = _SHAPE.fullmatch(text)
    if match is None or checksum(text[:-CHECKSUM_LETTERS]) != match[4]:
        return None
    return ApiKey(match[2], match[3], match[1])


def checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()), CHECKSUM_LETTERS)


def base62(value: int, letters: int) -> str:
    """`value` in exactly `letters` letters, the most significant first."""
    digits = []
    for _ in range(letters):
        value, digit = divmod(value, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))


class KeyHasher:
    """Makes and checks the kept form of secrets; its repr shows encryption key ids only."""

    def __init__(self, encryption_keys: Sequence[tuple[str, bytes]]) -> None:
        """`encryption_keys`: (id, 32 bytes), newest first."""
        self._hash_keys = {key_id: derive(key, PURPOSE) for key_id, key in encryption_keys}
        self._current = encryption_keys[0][0]

    def hash(self, key: ApiKey) -> bytes:
        """What is kept: 33 bytes and the id of the encryption key (at most 16)."""
        return self._header(self._current) + _mac(self._hash_keys[self._current], key)

    def verify(self, key: ApiKey, kept: bytes) -> bool:
        """Whether `kept` was made of this key. In constant time; an unknown encryption key verifies nothing."""
        hash_key = self._hash_keys.get(self._made_with(kept))
        if hash_key is None:
            return False
        return hmac.compare_digest(_mac(hash_key, key), kept[1 + kept[0] :])

    def needs_rehash(self, kept: bytes) -> bool:
        """Whether it was made with an encryption key that is not the newest."""
        return self._made_with(kept) != self._current

    def _made_with(self, kept: bytes) -> str:
        return kept[1 : 1 + kept[0]].decode("ascii", "replace") if kept else ""

    @staticmethod
    def _header(encryption_key_id: str) -> bytes:
        return bytes((len(encryption_key_id),)) + encryption_key_id.encode("ascii")

    def __repr__(self) -> str:
        return f"<KeyHasher current={self._current} keys={sorted(self._hash_keys)}>"


def _mac(hash_key: bytes, key: ApiKey) -> bytes:
    return hmac.new(hash_key, f"{key.key_id}:{key.secret}".encode(), hashlib.sha256).digest()
