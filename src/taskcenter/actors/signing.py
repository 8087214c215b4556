"""Signatures of callbacks: Standard Webhooks, symmetric, version 1.

`webhook-signature` is `v1,` and the base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`; while a secret is being
rotated there is one for each secret in force, separated by a space, newest first. A secret is `whsec_` and the base64
of 24 to 64 random bytes. Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = "whsec_"
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64
NEW_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class SigningSecret:
    """The key behind a `whsec_…` text. Its repr shows nothing of it."""

    key: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> SigningSecret:
        """Raises ValueError, with a message that does not repeat the secret."""
        if not text.startswith(PREFIX):
            raise ValueError(f"a signing secret starts with {PREFIX!r}")
        try:
            key = base64.b64decode(text[len(PREFIX) :], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"a signing secret is {PREFIX!r} followed by base64") from None
        if not MIN_BYTES <= len(key) <= MAX_BYTES:
            raise ValueError(f"a signing secret holds {MIN_BYTES} to {MAX_BYTES} bytes, not {len(key)}")
        return cls(key)

    def __str__(self) -> str:
        return repr(self)


def generate_secret(random_bytes: Callable[[int], bytes]) -> str:
    """A new `whsec_…`. `random_bytes` is a cryptographic source, such as `secrets.token_bytes`."""
    return PREFIX + base64.b64encode(random_bytes(NEW_BYTES)).decode("ascii")


def sign(secrets: Iterable[SigningSecret], msg_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of `webhook-signature`. `secrets`: those in force, newest first; at least one.

    `msg_id` goes out as `webhook-id` and may hold no dot, `timestamp_s` as `webhook-timestamp` (s since 1970, of this
    attempt). Raises ValueError for a dot in `msg_id` or no secret: the signature would mean something else, or nothing.
    """
    if "." in msg_id:
        raise ValueError("a webhook-id holds no dot")
    content = f"{msg_id}.{timestamp_s}.".encode() + body
    signatures = [
        "v1," + binascii.b2a_base64(hmac.digest(secret.key, content, "sha256"), newline=False).decode("ascii")
        for secret in secrets
    ]
    if not signatures:
        raise ValueError("no secret to sign with")
    return " ".join(signatures)
