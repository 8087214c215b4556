"""TLS for callbacks: verified always, 1.2 or newer, and what to tell a task's owner when it fails."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_WRONG_HOST: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Whom to trust beside the system's authorities, and who we are to receivers that ask."""

    ca_file: Path | None = None  # PEM bundle
    client_cert: Path | None = None  # PEM chain
    client_key: Path | None = None  # PEM key; None: it is in `client_cert`


@functools.lru_cache(maxsize=64)
def tls_context(settings: TlsSettings) -> ssl.SSLContext:
    """The context for `settings`, one a process: loading the system's authorities takes tens of ms.

    Raises OSError (`ssl.SSLError` is one) when a file is missing or is not what it should be.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if settings.ca_file is not None:
        context.load_verify_locations(settings.ca_file)
    if settings.client_cert is not None:
        context.load_cert_chain(settings.client_cert, settings.client_key)
    return context


def describe_tls_error(error: ssl.SSLError) -> str:
    """One line for the task's owner."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _WRONG_HOST:
            return f"TLS certificate is not for this host: {error.verify_message}"
        return f"TLS certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the receiver closed the connection during the TLS handshake"
    reason = (error.reason or "protocol error").replace("_", " ").lower()
    return f"TLS handshake failed: {reason}"
