"""TLS for callbacks: verified always, 1.2 or newer, who we are to receivers that ask, and what to tell a task's owner
when it fails."""

from __future__ import annotations

import functools
import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

_WRONG_HOST: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Whom to trust beside the system's authorities."""

    ca_file: Path | None = None  # PEM bundle


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who a business is to receivers that ask for a certificate."""

    certificate: str = field(repr=False)  # PEM chain
    private_key: str = field(repr=False)  # PEM
    fingerprint: str


class UnusableIdentity(Exception):
    """The business's: certificate and key do not make a TLS identity. Its words hold nothing of them."""


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
    return context


def client_context(settings: TlsSettings, identity: ClientIdentity) -> ssl.SSLContext:
    """A context of its own for `identity`. Blocks for some 50 ms. Raises `UnusableIdentity`."""
    context = tls_context.__wrapped__(settings)
    load_identity(context, identity)
    return context


def load_identity(context: ssl.SSLContext, identity: ClientIdentity) -> None:
    """Python loads certificates from files only: this one is in memory where the system can do that, and its key is
    encrypted with a password of the moment in any case. Raises `UnusableIdentity`."""
    password = secrets.token_hex(32)
    try:
        key = load_pem_private_key(identity.private_key.encode(), None)
        sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password.encode()))
        file, path = _scratch_file()
        with file:
            file.write(identity.certificate.encode() + b"\n" + sealed)
            file.flush()
            context.load_cert_chain(path, password=password)
    except (OSError, ValueError, TypeError) as error:
        raise UnusableIdentity(type(error).__name__) from None


def _scratch_file() -> tuple[IO[bytes], str]:
    """A file that is gone once it is closed, and its path."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("client-identity", os.MFD_CLOEXEC)
        return os.fdopen(handle, "wb"), f"/proc/self/fd/{handle}"
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115  # the caller closes it
    return file, file.name


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
