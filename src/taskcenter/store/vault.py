"""Sealing at rest: AES-256-GCM with named keys; the row's identity is bound in, so a swapped ciphertext does not
open.

A sealed value is `0x01 | len(key id) | key id | nonce (12) | ciphertext and tag`. The newest key seals, every known
key opens. `context` names the place, e.g. `tasks.payload:<task id>`: AES-GCM authenticates it as associated data.
Source: NIST SP 800-38D; nonces are random, so one key is good for far fewer than 2^32 seals before it should be
rotated.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from taskcenter.errors import TaskCenterError

FORMAT: Final = 1
NONCE_BYTES: Final = 12


class Unsealable(TaskCenterError):
    """The operator's or an attacker's: the key is missing, or the value is not what was sealed in this place."""

    code = "unsealable"


class Vault:
    """Seals and opens; its repr shows key ids only."""

    def __init__(self, keys: Sequence[tuple[str, bytes]], random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        """`keys`: (id, 32 bytes), newest first."""
        self._ciphers = {key_id: AESGCM(key) for key_id, key in keys}
        self.current_key_id = keys[0][0]
        self._header = bytes((FORMAT, len(self.current_key_id))) + self.current_key_id.encode()
        self._current = self._ciphers[self.current_key_id]
        self._random_bytes = random_bytes

    def seal(self, plain: bytes, context: str) -> bytes:
        nonce = self._random_bytes(NONCE_BYTES)
        return self._header + nonce + self._current.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises `Unsealable`."""
        key_id = self.key_id_of(sealed)
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise Unsealable(f"{context}: sealed with key {key_id!r}, which is not in TASKCENTER_ENCRYPTION_KEYS")
        body = 2 + len(key_id)
        try:
            return cipher.decrypt(sealed[body : body + NONCE_BYTES], sealed[body + NONCE_BYTES :], context.encode())
        except InvalidTag:
            raise Unsealable(f"{context}: is not what was sealed here with key {key_id!r}") from None

    def key_id_of(self, sealed: bytes) -> str:
        if len(sealed) < 2 or sealed[0] != FORMAT or len(sealed) < 2 + sealed[1] + NONCE_BYTES:
            raise Unsealable("not a sealed value")
        return sealed[2 : 2 + sealed[1]].decode("ascii", "replace")

    def __repr__(self) -> str:
        return f"<Vault current={self.current_key_id} keys={sorted(self._ciphers)}>"


def derive(key: bytes, purpose: str) -> bytes:
    """32 bytes for one purpose (`api-key-hash`, `jwt`, `nudge`) out of an encryption key."""
    return hmac.new(key, b"taskcenter:" + purpose.encode(), hashlib.sha256).digest()
