"""How the API's document shows `callback_auth` and `callback_tls`; `callback_credential_input` reads them."""

from __future__ import annotations

from typing import Any, Final

from taskcenter.service.fields import Schema, text_schema

MAX_HOSTS: Final = 32
MAX_SECRET_CHARS: Final = 8192
MAX_PEM_CHARS: Final = 32 * 1024
CLIENT_AUTHENTICATIONS: Final = ("basic", "body")

AUTH_RULE: Final = (
    "What callbacks carry as `Authorization: Bearer …`, to the receivers of `hosts` only and unless the task brings an "
    "`Authorization` of its own. `bearer`: a `token` as it is. `oauth2`: tokens of `token_url` by client credentials "
    "(RFC 6749 §4.4), fetched under the same address rules as callbacks, kept until shortly before they expire; an "
    "attempt without a token fails. A 401 of the receiver is a failed attempt like any 4xx, and the next one gets a "
    "new token. Write-only: secrets are sealed at rest and never shown. `null` takes it away."
)
TLS_RULE: Final = (
    "The client certificate shown to receivers of `hosts` that ask for one (mTLS). Write-only, sealed at rest. `null` "
    "takes it away."
)
HOSTS_RULE: Final = (
    "Receivers it is for: `api.example.com`, `*.example.com` (all below it), perhaps with a port; https only, unless "
    "`http://` stands in front. A callback to any other goes without."
)


def _text(words: str, example: str, most: int, *, secret: bool = False) -> dict[str, Any]:
    shown = {**text_schema(1, most), "description": words, "examples": [example]}
    return {**shown, "writeOnly": True} if secret else shown


def _credential(title: str, required: tuple[str, ...], **properties: Schema) -> dict[str, Any]:
    hosts = {
        "type": "array", "minItems": 1, "maxItems": MAX_HOSTS, "items": text_schema(1, 270), "description": HOSTS_RULE,
        "examples": [["api.example.com"]],
    }  # fmt: skip
    return {
        "type": "object", "title": title, "additionalProperties": False, "required": [*required, "hosts"],
        "properties": {**{name: dict(part) for name, part in properties.items()}, "hosts": hosts},
    }  # fmt: skip


def _kind(word: str) -> Schema:
    return {"type": "string", "const": word, "description": "Which kind it is.", "examples": [word]}


AUTH_SCHEMA: Final[Schema] = {
    "anyOf": [
        _credential(
            "Bearer token",
            ("type", "token"),
            type=_kind("bearer"),
            token=_text("Sent as it is: visible ASCII.", "of-the-receiver", MAX_SECRET_CHARS, secret=True),
        ),
        _credential(
            "OAuth2 client credentials",
            ("type", "token_url", "client_id", "client_secret"),
            type=_kind("oauth2"),
            token_url=_text("Where tokens come from; https (RFC 6749 §3.2).", "https://id.example.com/token", 2048),
            client_id=_text("Who we are there.", "taskcenter", 255),
            client_secret=_text("What proves it.", "of-the-client", 1024, secret=True),
            scope=_text("What to ask for.", "hooks:write", 1024),
            audience=_text("Whom the token is for, where the endpoint asks.", "https://api.example.com", 1024),
            client_authentication={
                "type": "string", "enum": list(CLIENT_AUTHENTICATIONS), "default": "basic", "examples": ["basic"],
                "description": "How id and secret are sent: as Basic authorization, or in the form's body.",
            },
        ),
        {"type": "null"},
    ]
}  # fmt: skip
TLS_SCHEMA: Final[Schema] = {
    "anyOf": [
        _credential(
            "Client certificate",
            ("certificate", "private_key"),
            certificate=_text("PEM chain, the own one first.", "-----BEGIN CERTIFICATE-----", MAX_PEM_CHARS),
            private_key=_text(
                "Its key in PEM, without a passphrase.", "-----BEGIN PRIVATE KEY-----", MAX_PEM_CHARS, secret=True
            ),
        ),
        {"type": "null"},
    ]
}
