"""What the calls on businesses answer: the models the document shows, and how our records are written as them."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field

from taskcenter.http.callback_credential_models import CallbackAuthView, CallbackTlsView, auth_fields, tls_fields
from taskcenter.service.business_input import DEFAULT_BREAKER, HOST_LIMITS_EXAMPLE
from taskcenter.service.businesses import Registered, Rotated
from taskcenter.service.tokens import IssuedToken
from taskcenter.store.records import AuditEntry, Business, BusinessStatus, Credential
from taskcenter.times import format_duration, format_time

_AT: Final = "2027-01-31T09:30:00.000Z"
_KEY_ID: Final = "k7q2m6z9t5r3x8c4"
_KEY: Final = "tc_live_k7q2m6z9t5r3x8c4_…"
_SECRET: Final = "whsec_…"  # noqa: S105 - an example without a secret in it


class BusinessView(BaseModel):
    """A business."""

    business_code: str = Field(description="Its name in the API.", examples=["orders"])
    business_name: str = Field(description="For people.", examples=["Order service"])
    status: BusinessStatus = Field(description="active, paused or disabled.", examples=["active"])
    rate_limit: int = Field(description="Callbacks that may start in any 60 seconds.", examples=[1000])
    max_concurrent_tasks: int = Field(description="Callbacks that may be on their way at once.", examples=[100])
    max_active_tasks: int = Field(description="Tasks that may be active at once.", examples=[10000])
    default_timeout: float = Field(description="Seconds a callback may take by default.", examples=[10])
    breaker: dict[str, Any] = Field(description="When callbacks pause.", examples=[dict(DEFAULT_BREAKER)])
    host_limits: dict[str, Any] = Field(
        description="Limits by destination host; `*`: of each that is not named.", examples=[dict(HOST_LIMITS_EXAMPLE)]
    )
    callback_auth: CallbackAuthView | None = Field(
        description="The credential callbacks carry, masked; null: none.", examples=[None]
    )
    callback_tls: CallbackTlsView | None = Field(
        description="The client certificate callbacks show, without its key; null: none.", examples=[None]
    )
    version: int = Field(description="Grows with every change; for `If-Match`.", examples=[3])
    created_at: str = Field(description="When it was registered.", examples=[_AT])
    updated_at: str = Field(description="When it last changed.", examples=[_AT])
    last_access_at: str | None = Field(
        description="When one of its credentials was last used, to the minute.", examples=[_AT]
    )


class ApiKeyView(BaseModel):
    """An API key, without its secret."""

    key_id: str = Field(description="The middle part of the key.", examples=[_KEY_ID])
    created_at: str = Field(description="When it was made.", examples=[_AT])
    expires_at: str = Field(description="From then on it is refused.", examples=[_AT])
    revoked_at: str | None = Field(description="When it was revoked.", examples=[None])
    last_used_at: str | None = Field(description="When it was last used, to the minute.", examples=[_AT])


class BusinessDetailView(BusinessView):
    """A business with its API keys."""

    api_keys: list[ApiKeyView] = Field(description="Newest first; never a secret.", examples=[[]])


class BusinessPage(BaseModel):
    """A page of businesses, by code."""

    items: list[BusinessView] = Field(description="The businesses.", examples=[[]])
    next_cursor: str | None = Field(description="For the next page; null on the last.", examples=["q83vEjRWeJCrze8"])


class RegisteredView(BusinessView):
    """A new business. Its secrets are shown here and never again."""

    api_key: str = Field(description="For `Authorization: Bearer` or `X-API-Key`.", examples=[_KEY])
    api_key_expires_at: str = Field(description="A year from now.", examples=[_AT])
    signing_secret: str = Field(description="Verifies our callbacks (Standard Webhooks).", examples=[_SECRET])


class RotatedView(BaseModel):
    """New credentials. They are shown here and never again."""

    business_code: str = Field(description="The business.", examples=["orders"])
    api_key: str = Field(description="The new key.", examples=[_KEY])
    api_key_expires_at: str = Field(description="A year from now.", examples=[_AT])
    previous_key_valid_until: str = Field(description="From then on the earlier keys are refused.", examples=[_AT])
    signing_secret: str | None = Field(
        None, description="The new signing secret, if one was asked for.", examples=[_SECRET]
    )


class TokenView(BaseModel):
    """A JWT."""

    token: str = Field(description="For `Authorization: Bearer`.", examples=["eyJhbGciOi…"])
    expires_at: str = Field(description="From then on it is refused.", examples=[_AT])
    scopes: list[str] = Field(description="What it may do.", examples=[["tasks:read"]])
    token_type: str = Field(description="Always Bearer.", examples=["Bearer"])


class ActorView(BaseModel):
    """Who did it."""

    kind: str = Field(description="admin, api_key, jwt, system or anonymous.", examples=["api_key"])
    key_id: str | None = Field(description="The API key's public id.", examples=[_KEY_ID])


class AuditEntryView(BaseModel):
    """Something that was done, or refused."""

    seq: int = Field(description="Its number: without a gap within the business.", examples=[17])
    at: str = Field(description="When.", examples=[_AT])
    actor: ActorView = Field(description="Who.", examples=[])
    action: str = Field(
        description="task.create, task.cancel, credentials.rotate, auth.failure …", examples=["task.create"]
    )
    target: str = Field(description="What it was done to.", examples=["01JA8Z3N4V7Q2M6K9T5R1X8C0B"])
    result: str = Field(description="ok or refused; a repeated failure tells its count.", examples=["ok"])
    ip: str | None = Field(description="From where.", examples=["192.0.2.7"])
    request_id: str | None = Field(description="The request's X-Request-Id.", examples=["5f0c1a7e9b3d4c28"])
    chain: str = Field(description="The number of the chain it belongs to; a part of what is hashed.", examples=["7"])
    hash: str = Field(
        description="SHA-256, hex, over the former entry's hash and this entry: `taskcenter audit verify` checks it.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


class AuditPage(BaseModel):
    """A page of the audit trail, newest first."""

    items: list[AuditEntryView] = Field(description="The entries.", examples=[[]])
    next_cursor: str | None = Field(description="For the next page; null on the last.", examples=["q83vEjRWeJCrze8"])


def _time(at: int | None) -> str | None:
    return None if at is None else format_time(at)


def business_fields(business: Business) -> dict[str, Any]:
    return {
        "business_code": business.code,
        "business_name": business.name,
        "status": business.status.value,
        "rate_limit": business.rate_limit,
        "max_concurrent_tasks": business.max_concurrent_tasks,
        "max_active_tasks": business.max_active_tasks,
        "default_timeout": format_duration(business.default_timeout_ms),
        "breaker": {**DEFAULT_BREAKER, **business.breaker},
        "host_limits": dict(business.host_limits),
        "callback_auth": auth_fields(business.callback_auth),
        "callback_tls": tls_fields(business.callback_tls),
        "version": business.version,
        "created_at": format_time(business.created_at),
        "updated_at": format_time(business.updated_at),
        "last_access_at": _time(business.last_access_at),
    }


def api_key_fields(key: Credential) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "created_at": format_time(key.created_at),
        "expires_at": format_time(key.expires_at),
        "revoked_at": _time(key.revoked_at),
        "last_used_at": _time(key.last_used_at),
    }


def registered_fields(registered: Registered) -> dict[str, Any]:
    return {
        **business_fields(registered.business),
        "api_key": registered.api_key,
        "api_key_expires_at": format_time(registered.api_key_expires_at),
        "signing_secret": registered.signing_secret,
    }


def rotated_fields(rotated: Rotated) -> dict[str, Any]:
    fields = {
        "business_code": rotated.business.code,
        "api_key": rotated.api_key,
        "api_key_expires_at": format_time(rotated.api_key_expires_at),
        "previous_key_valid_until": format_time(rotated.previous_key_valid_until),
    }
    return fields if rotated.signing_secret is None else {**fields, "signing_secret": rotated.signing_secret}


def token_fields(issued: IssuedToken) -> dict[str, Any]:
    return {
        "token": issued.token,
        "expires_at": format_time(issued.expires_at),
        "scopes": sorted(scope.value for scope in issued.scopes),
        "token_type": "Bearer",
    }


def audit_fields(entry: AuditEntry) -> dict[str, Any]:
    return {
        "seq": entry.seq,
        "at": format_time(entry.at),
        "actor": {"kind": entry.actor_kind, "key_id": entry.actor_key_id},
        "action": entry.action,
        "target": entry.target,
        "result": entry.result,
        "ip": entry.ip,
        "request_id": entry.request_id,
        "chain": str(entry.business_id),
        "hash": entry.hash.hex(),
    }
