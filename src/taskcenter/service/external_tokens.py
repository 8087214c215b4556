"""Tokens of an issuer outside: verified with the public keys of a JWKS file (RFC 7517). Pure but for reading the file.

Only RS256 (2048 bits and more), ES256 (P-256) and EdDSA (Ed25519), each bound to the key that may use it; a symmetric
key in the file ends the start. The business is named by a claim of the operator's choice, the scopes by `scope`.
The file is read again when it changes (`refresh`), so an issuer can rotate its keys without a restart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from taskcenter.errors import ConfigError, Unauthenticated
from taskcenter.service.tokens import Claims, check_times, is_text, read_scopes, signed_claims

SETTING: Final = "TASKCENTER_JWT_JWKS"
EXAMPLE: Final = '{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "2027-01", "x": "…"}]}'
ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA"})
MIN_RSA_BITS: Final = 2048
MAX_FILE_BYTES: Final = 256 * 1024
HEADERS: Final = frozenset({"alg", "typ", "kid", "x5t", "x5t#S256"})  # thumbprints say nothing that is believed


class ExternalIssuer:
    """Verifies the tokens of one issuer."""

    def __init__(self, jwks: Path, *, issuer: str, audience: str, business_claim: str) -> None:
        """Reads the file. Raises `ConfigError`."""
        self._path = jwks
        self._issuer = issuer
        self._audience = audience
        self._business_claim = business_claim
        self._seen = _identity(jwks)
        self._keys = read_jwks(jwks)

    def refresh(self) -> bool:
        """Read the file again if it changed; True when it did. Blocks.

        A set without keys ends the issuer's tokens. Raises `ConfigError` for a file that is missing or broken, as one
        is while it is being written: the old keys stay.
        """
        if (identity := _identity(self._path)) == self._seen:
            return False
        self._keys = read_jwks(self._path, may_be_empty=True)
        self._seen = identity
        return True

    def verify(self, token: str, header: Mapping[str, Any], now: int) -> Claims:
        """`header`: from `read_header`. Raises `Unauthenticated`."""
        if not set(header) <= HEADERS:
            raise Unauthenticated("token_header")
        known = self._keys.get(header["kid"])
        if known is None:
            raise Unauthenticated("token_unknown_key")
        algorithm, key = known
        if header["alg"] != algorithm:
            raise Unauthenticated("token_algorithm")
        claims = signed_claims(token, key, algorithm)
        if claims.get("iss") != self._issuer:
            raise Unauthenticated("token_issuer")
        audience = claims.get("aud")
        if audience != self._audience and not (isinstance(audience, list) and self._audience in audience):
            raise Unauthenticated("token_audience")
        expires_at = check_times(claims, now, required=("exp",))
        code, token_id = claims.get(self._business_claim), claims.get("jti")
        if not is_text(code):
            raise Unauthenticated("token_claims")
        return Claims(
            code, None, read_scopes(claims.get("scope")), expires_at, token_id if isinstance(token_id, str) else None
        )

    def __repr__(self) -> str:
        return f"<ExternalIssuer {self._issuer} keys={sorted(self._keys)}>"


def read_jwks(path: Path, *, may_be_empty: bool = False) -> dict[str, tuple[str, Any]]:
    """kid → (algorithm, public key). Raises `ConfigError` with one line."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(MAX_FILE_BYTES))
        members = document["keys"]
    except OSError as error:
        raise ConfigError(f"{SETTING}: {path} cannot be read: {error.strerror}; e.g. {EXAMPLE}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigError(f"{SETTING}: {path} is not a JWK set; e.g. {EXAMPLE}") from None
    keys: dict[str, tuple[str, Any]] = {}
    for member in members if isinstance(members, list) else []:
        kid = member.get("kid") if isinstance(member, dict) else None
        if not is_text(kid) or kid in keys:
            raise ConfigError(f"{SETTING}: each key in {path} needs a kid of its own; e.g. {EXAMPLE}")
        if member.get("use", "sig") == "sig":
            keys[kid] = _public_key(member, f"{SETTING}: key {kid!r} in {path}")
    if not keys and not (may_be_empty and members == []):
        raise ConfigError(f"{SETTING}: {path} holds no key for signatures; e.g. {EXAMPLE}")
    return keys


def _public_key(member: Mapping[str, Any], what: str) -> tuple[str, Any]:
    if "d" in member or "k" in member:
        raise ConfigError(f"{what} is a secret key: give the public half only; e.g. {EXAMPLE}")
    try:
        key = jwt.PyJWK(dict(member)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise ConfigError(f"{what} is not a public RSA, P-256 or Ed25519 key; e.g. {EXAMPLE}") from None
    algorithm = None
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        algorithm = "RS256"
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        algorithm = "ES256"
    elif isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "EdDSA"
    if algorithm is None or member.get("alg", algorithm) != algorithm:
        raise ConfigError(f"{what} is none of RS256 (2048 bits), ES256, EdDSA (Ed25519); e.g. {EXAMPLE}")
    return algorithm, key


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Tells a file that was written or replaced; None when there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size
