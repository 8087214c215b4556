"""What a business shows to its receivers beside the signature: a bearer token, OAuth2 credentials, a certificate.

Sealed at rest as one JSON text each, secrets and the rest alike; opened here and nowhere else. `hosts` says which
receivers a credential is for (`actors.egress.pins`): no other ever gets it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from taskcenter.store.vault import Unsealable, Vault

AUTH_COLUMN: Final = "callback_auth"
TLS_COLUMN: Final = "callback_tls"


@dataclass(frozen=True, slots=True)
class BearerAuth:
    """One token, sent as it is."""

    token: str = field(repr=False)
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OAuth2Auth:
    """Client credentials (RFC 6749, section 4.4), exchanged for tokens at `token_url`."""

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    hosts: tuple[str, ...]
    scope: str | None = None
    audience: str | None = None
    client_authentication: Literal["basic", "body"] = "basic"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate chain with its key, both PEM, and what may be shown of it."""

    certificate: str = field(repr=False)
    private_key: str = field(repr=False)
    hosts: tuple[str, ...]
    subject: str
    issuer: str
    expires_at: int
    fingerprint: str  # SHA-256 of the first certificate, hex


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A credential whose encryption key is gone, or that somebody moved here: kept as it is, and never sent."""

    sealed: bytes = field(repr=False)


CallbackAuth = BearerAuth | OAuth2Auth | Unreadable
CallbackTls = ClientCertificate | Unreadable

_KINDS: Final[Mapping[str, type[BearerAuth | OAuth2Auth | ClientCertificate]]] = {
    kind.__name__: kind for kind in (BearerAuth, OAuth2Auth, ClientCertificate)
}


def seal(credential: CallbackAuth | CallbackTls | None, column: str, business_id: int, vault: Vault) -> bytes | None:
    if credential is None:
        return None
    if isinstance(credential, Unreadable):
        return credential.sealed
    content = {"kind": type(credential).__name__, **asdict(credential)}
    return vault.seal(json.dumps(content).encode(), _place(column, business_id))


def open_auth(sealed: bytes | None, business_id: int, vault: Vault) -> CallbackAuth | None:
    opened = _open(sealed, AUTH_COLUMN, business_id, vault)
    assert not isinstance(opened, ClientCertificate), "its place is bound in"
    return opened


def open_tls(sealed: bytes | None, business_id: int, vault: Vault) -> CallbackTls | None:
    opened = _open(sealed, TLS_COLUMN, business_id, vault)
    assert not isinstance(opened, BearerAuth | OAuth2Auth), "its place is bound in"
    return opened


def _open(
    sealed: bytes | None, column: str, business_id: int, vault: Vault
) -> BearerAuth | OAuth2Auth | ClientCertificate | Unreadable | None:
    if sealed is None:
        return None
    try:
        content: dict[str, Any] = json.loads(vault.open(sealed, _place(column, business_id)))
    except Unsealable:
        return Unreadable(bytes(sealed))
    kind = _KINDS[content.pop("kind")]
    return kind(**{**content, "hosts": tuple(content["hosts"])})


def _place(column: str, business_id: int) -> str:
    return f"business_systems.{column}:{business_id}"
