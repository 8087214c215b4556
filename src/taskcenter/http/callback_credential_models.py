"""What may be shown of a business's credentials for callbacks: whom they are for and when they end, never a secret."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field

from taskcenter.store.callback_credentials import BearerAuth, CallbackAuth, CallbackTls, OAuth2Auth, Unreadable
from taskcenter.times import format_time

_HOSTS: Final = "The receivers it is for."
_UNREADABLE: Final = "`unreadable`: its encryption key is missing, so callbacks fail; set it anew."


class CallbackAuthView(BaseModel):
    """The credential that callbacks carry, without its secret."""

    type: str = Field(description=f"bearer or oauth2; {_UNREADABLE}", examples=["oauth2"])
    hosts: list[str] = Field(description=_HOSTS, examples=[["api.example.com"]])
    token_url: str | None = Field(None, description="Where tokens come from.", examples=["https://id.example/token"])
    client_id: str | None = Field(None, description="Whose tokens they are.", examples=["taskcenter"])
    scope: str | None = Field(None, description="What is asked for.", examples=["hooks"])
    audience: str | None = Field(None, description="Whom they are for.", examples=["https://api.example.com"])
    client_authentication: str | None = Field(None, description="basic or body.", examples=["basic"])


class CallbackTlsView(BaseModel):
    """The client certificate, without its key."""

    type: str = Field(description=f"certificate; {_UNREADABLE}", examples=["certificate"])
    hosts: list[str] = Field(description=_HOSTS, examples=[["api.example.com"]])
    subject: str | None = Field(None, description="Whom it names.", examples=["CN=orders"])
    issuer: str | None = Field(None, description="Who signed it.", examples=["CN=Example CA"])
    expires_at: str | None = Field(
        None,
        description="Receivers refuse it from then on; an alert fires a month before.",
        examples=["2027-01-31T09:30:00.000Z"],
    )
    fingerprint_sha256: str | None = Field(
        None,
        description="SHA-256 of the certificate, hex.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


def auth_fields(auth: CallbackAuth | None) -> dict[str, Any] | None:
    match auth:
        case None:
            return None
        case Unreadable():
            return {"type": "unreadable", "hosts": []}
        case BearerAuth():
            return {"type": "bearer", "hosts": list(auth.hosts)}
        case OAuth2Auth():
            return {
                "type": "oauth2", "hosts": list(auth.hosts), "token_url": auth.token_url, "client_id": auth.client_id,
                "scope": auth.scope, "audience": auth.audience, "client_authentication": auth.client_authentication,
            }  # fmt: skip


def tls_fields(tls: CallbackTls | None) -> dict[str, Any] | None:
    if tls is None:
        return None
    if isinstance(tls, Unreadable):
        return {"type": "unreadable", "hosts": []}
    return {
        "type": "certificate", "hosts": list(tls.hosts), "subject": tls.subject, "issuer": tls.issuer,
        "expires_at": format_time(tls.expires_at), "fingerprint_sha256": tls.fingerprint,
    }  # fmt: skip
