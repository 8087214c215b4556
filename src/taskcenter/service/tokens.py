"""The tokens we issue: JWTs that stand in for an API key for a while. Pure: `now` is passed in.

A token is HS256 (RFC 7519, RFC 9068's names): `iss` taskcenter, `aud` the setting's, `sub` the business code,
`client_id` the API key it was issued to, `scope`, `exp`, `nbf`, `iat`, `jti`; the header's `kid` names the key that
signed it. It dies with its API key: whoever verifies must look the key up and refuse what is revoked or expired
(`authenticator`).

What RFC 8725 asks for, and how it is kept here:

* The algorithm belongs to the key, not to the token. HS256 is looked up in the ring of our own keys, RS256, ES256 and
  EdDSA in an external issuer's (`external_tokens`); nothing else is known, so neither `none` nor a public key taken
  for a secret can get anywhere.
* `kid` is looked up in a fixed map; headers that point elsewhere (`jku`, `x5u`, `jwk`, `crit` …) are refused.
* Every claim is required, with its exact type: a list as `iss`, a text as `exp`, an infinite `exp` are refused.
* Time is judged by the engine's clock. An instance may be a little ahead of another: `nbf` and `iat` get 5 s of grace,
  `exp` none.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import jwt

from taskcenter.errors import Unauthenticated
from taskcenter.service.principal import TOKEN_SCOPES, Scope
from taskcenter.store.vault import derive

ISSUER: Final = "taskcenter"
ALGORITHM: Final = "HS256"
PURPOSE: Final = "jwt"
KEY_ID_PURPOSE: Final = "jwt-key-id"
GRACE_S: Final = 5
LATEST_S: Final = 2**40  # a time further off is no time
MAX_TOKEN_CHARS: Final = 4096
JTI_BYTES: Final = 16
HEADERS: Final = frozenset({"alg", "typ", "kid"})

# Signature and shape are PyJWT's to judge, time and claims ours: its clock is the wall's, and it takes a list as iss.
_SIGNATURE_ONLY: Final[Any] = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}


@dataclass(frozen=True, slots=True)
class IssuedToken:
    token: str = field(repr=False)
    expires_at: int  # ms
    scopes: frozenset[Scope]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says, once its signature and its times have been found good."""

    business_code: str
    key_id: str | None  # the API key it was issued to; None for an external issuer's
    scopes: frozenset[Scope]
    expires_at: int  # ms
    token_id: str | None


class TokenRing:
    """Issues and verifies our own tokens; its repr shows key ids only."""

    def __init__(
        self, keys: Sequence[tuple[str, bytes]], *, audience: str, random_bytes: Callable[[int], bytes]
    ) -> None:
        """`keys`: (kid, 32 bytes), newest first; the newest signs, each of them verifies."""
        self._keys = dict(keys)
        self._current = keys[0][0]
        self._audience = audience
        self._random_bytes = random_bytes

    @classmethod
    def of(
        cls,
        jwt_secrets: Sequence[str],
        encryption_keys: Sequence[tuple[str, bytes]],
        *,
        audience: str,
        random_bytes: Callable[[int], bytes],
    ) -> TokenRing:
        """From the setting's secrets if there are any, else from the encryption keys, newest first either way."""
        if jwt_secrets:
            keys = [(_key_id(key), key) for key in (derive(secret.encode(), PURPOSE) for secret in jwt_secrets)]
        else:
            keys = [(key_id, derive(key, PURPOSE)) for key_id, key in encryption_keys]
        return cls(keys, audience=audience, random_bytes=random_bytes)

    def issue(
        self, business_code: str, key_id: str, scopes: frozenset[Scope], expires_at: int, now: int
    ) -> IssuedToken:
        """`expires_at` is cut to the whole second before."""
        expires_s = expires_at // 1000
        claims = {
            "iss": ISSUER,
            "aud": self._audience,
            "sub": business_code,
            "client_id": key_id,
            "scope": " ".join(sorted(scopes)),
            "iat": now // 1000,
            "nbf": now // 1000,
            "exp": expires_s,
            "jti": base64.urlsafe_b64encode(self._random_bytes(JTI_BYTES)).rstrip(b"=").decode(),
        }
        token = jwt.encode(claims, self._keys[self._current], ALGORITHM, headers={"kid": self._current})
        return IssuedToken(token, expires_s * 1000, scopes)

    def verify(self, token: str, header: Mapping[str, Any], now: int) -> Claims:
        """`header`: from `read_header`. Raises `Unauthenticated`."""
        if not set(header) <= HEADERS:
            raise Unauthenticated("token_header")
        key = self._keys.get(header["kid"])
        if key is None:
            raise Unauthenticated("token_unknown_key")
        claims = signed_claims(token, key, ALGORITHM)
        if claims.get("iss") != ISSUER:
            raise Unauthenticated("token_issuer")
        if claims.get("aud") != self._audience:
            raise Unauthenticated("token_audience")
        expires_at = check_times(claims, now, required=("exp", "nbf", "iat"))
        code, key_id, token_id = claims.get("sub"), claims.get("client_id"), claims.get("jti")
        if not (is_text(code) and is_text(key_id) and is_text(token_id)):
            raise Unauthenticated("token_claims")
        return Claims(code, key_id, read_scopes(claims.get("scope")), expires_at, token_id)

    def __repr__(self) -> str:
        return f"<TokenRing current={self._current} keys={sorted(self._keys)}>"


def _key_id(key: bytes) -> str:
    """A name for a key that has none: a hash that tells nothing of it (`derive` binds in another purpose)."""
    return f"s-{derive(key, KEY_ID_PURPOSE).hex()[:12]}"


def read_header(token: str) -> Mapping[str, Any]:
    """A token's header, not yet to be believed; `alg` and `kid` are texts. Raises `Unauthenticated`."""
    if len(token) > MAX_TOKEN_CHARS:
        raise Unauthenticated("token_malformed")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        raise Unauthenticated("token_malformed") from None
    texts = is_text(header.get("alg")) and is_text(header.get("kid"))
    if not texts or header.get("typ", "JWT") not in ("JWT", "at+jwt"):
        raise Unauthenticated("token_header")
    return header


def signed_claims(token: str, key: Any, algorithm: str) -> Mapping[str, Any]:
    """The claims of a token whose signature is by `key` with `algorithm`. Raises `Unauthenticated`."""
    try:
        claims = jwt.decode(token, key, algorithms=[algorithm], options=_SIGNATURE_ONLY)
    except jwt.InvalidSignatureError:
        raise Unauthenticated("token_signature") from None
    except (jwt.InvalidTokenError, RecursionError, ValueError):
        raise Unauthenticated("token_malformed") from None
    return claims


def check_times(claims: Mapping[str, Any], now: int, *, required: Sequence[str]) -> int:
    """Judge `exp`, `nbf` and `iat` (whole seconds or, RFC 7519, with a fraction); returns the expiry in ms.

    Raises `Unauthenticated`.
    """
    times: dict[str, float] = {}
    for name in ("exp", "nbf", "iat"):
        value = claims.get(name)
        if value is None and name not in required:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LATEST_S:
            raise Unauthenticated("token_claims")
        times[name] = value
    now_s = now / 1000
    if now_s >= times["exp"]:
        raise Unauthenticated("token_expired")
    if max(times.get("nbf", 0), times.get("iat", 0)) > now_s + GRACE_S:
        raise Unauthenticated("token_not_yet_valid")
    return int(times["exp"] * 1000)


def read_scopes(value: object) -> frozenset[Scope]:
    """The scopes of a space separated text that a token may carry. Raises `Unauthenticated` when there is none."""
    names = value.split(" ") if isinstance(value, str) else []
    scopes = frozenset(scope for scope in TOKEN_SCOPES if scope.value in names)
    if not scopes:
        raise Unauthenticated("token_scope")
    return scopes


def is_text(value: object) -> TypeGuard[str]:
    """Also no half of a surrogate pair, which JSON can spell and no database takes."""
    return isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()
