"""`callback_auth` and `callback_tls` of a business: read, bounded, and never repeated in an error. No I/O.

What depends on the moment or on the operator's policy (an expired certificate, a `token_url` that may not be called) is
judged by `check`, with what it needs passed in.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from taskcenter.actors.egress.pins import parse_pin
from taskcenter.actors.egress.tls import ClientIdentity, UnusableIdentity, load_identity
from taskcenter.errors import FieldFault, InvalidInput
from taskcenter.service.callback_credential_schema import (
    CLIENT_AUTHENTICATIONS,
    MAX_HOSTS,
    MAX_PEM_CHARS,
    MAX_SECRET_CHARS,
)
from taskcenter.service.fields import InsideFault, Reader, listing, text
from taskcenter.store.callback_credentials import (
    BearerAuth,
    CallbackAuth,
    CallbackTls,
    ClientCertificate,
    OAuth2Auth,
)

MIN_RSA_BITS: Final = 2048

# --- readers ----------------------------------------------------------------------------------------------------------


def read_auth(value: Any) -> CallbackAuth | None:
    """Raises ValueError; no message holds what was given."""
    if value is None:
        return None
    kind = value.get("type") if type(value) is dict else None
    if kind == "bearer":
        given = _members(value, {"type": _same, "token": _token, "hosts": _hosts}, ("token", "hosts"))
        return BearerAuth(given["token"], given["hosts"])
    if kind == "oauth2":
        given = _members(
            value,
            {
                "type": _same, "token_url": _token_url, "client_id": _ascii(255), "client_secret": _ascii(1024),
                "scope": _ascii(1024), "audience": _ascii(1024), "client_authentication": _client_authentication,
                "hosts": _hosts,
            },
            ("token_url", "client_id", "client_secret", "hosts"),
        )  # fmt: skip
        given.pop("type")
        return OAuth2Auth(**given)
    raise ValueError('must be an object with "type": "bearer" or "type": "oauth2", or null')


def read_tls(value: Any) -> CallbackTls | None:
    """Raises ValueError; no message holds what was given."""
    if value is None:
        return None
    if type(value) is not dict:
        raise ValueError("must be an object with certificate, private_key and hosts, or null")
    names = ("certificate", "private_key", "hosts")
    given = _members(value, {"certificate": _pem, "private_key": _pem, "hosts": _tls_hosts}, names)
    return _identity(given["certificate"], given["private_key"], given["hosts"])


def _members(value: dict[Any, Any], readers: dict[str, Reader[Any]], required: tuple[str, ...]) -> dict[str, Any]:
    given = {}
    for name, member in value.items():
        if name not in readers:
            raise InsideFault(str(name)[:64], f"is not a field here; known are {', '.join(readers)}")
        if member is None and name not in required:
            continue
        try:
            given[name] = readers[name](member)
        except InsideFault as fault:
            raise InsideFault(f"{name}.{fault.inside}", str(fault)) from None
        except ValueError as error:
            raise InsideFault(name, str(error)) from None
    for name in required:
        if name not in given:
            raise InsideFault(name, "is required")
    return given


def _same(value: Any) -> Any:
    return value


def _token(value: Any) -> str:
    if type(value) is not str or not 1 <= len(value) <= MAX_SECRET_CHARS or not _visible(value):
        raise ValueError(f"must be a text of 1 to {MAX_SECRET_CHARS} visible ASCII characters without white space")
    return value


def _visible(value: str) -> bool:
    return value.isascii() and value.isprintable() and " " not in value


def _ascii(most: int) -> Reader[str]:
    read = text(1, most)

    def reader(value: Any) -> str:
        if not read(value).isascii():
            raise ValueError(f"must be a text of 1 to {most} printable ASCII characters")
        return str(value)

    return reader


def _token_url(value: Any) -> str:
    if type(value) is not str or not value.lower().startswith("https://"):
        raise ValueError("must be an https URL, e.g. https://id.example.com/oauth2/token")
    return value


def _client_authentication(value: Any) -> Literal["basic", "body"]:
    if value not in CLIENT_AUTHENTICATIONS:
        raise ValueError("must be basic or body")
    return "basic" if value == "basic" else "body"


def _pin(value: Any) -> str:
    if type(value) is not str:
        raise ValueError("must be a host, e.g. api.example.com")
    return str(parse_pin(value))


def _hosts(value: Any) -> tuple[str, ...]:
    hosts = listing(_pin, MAX_HOSTS, unique=True)(value)
    if not hosts:
        raise ValueError("must name at least one receiver, e.g. api.example.com")
    return hosts


def _tls_hosts(value: Any) -> tuple[str, ...]:
    hosts = _hosts(value)
    if any(parse_pin(host).scheme != "https" for host in hosts):
        raise ValueError("cannot hold http://: a certificate is shown over TLS only")
    return hosts


# --- certificates -----------------------------------------------------------------------------------------------------


def _pem(value: Any) -> str:
    if type(value) is not str or not value.isascii() or len(value) > MAX_PEM_CHARS:
        raise ValueError(f"must be PEM text of at most {MAX_PEM_CHARS} characters")
    return value


def _identity(certificate: str, private_key: str, hosts: tuple[str, ...]) -> ClientCertificate:
    try:
        leaf = x509.load_pem_x509_certificates(certificate.encode())[0]
        public = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise InsideFault(
            "certificate", "is not a certificate in PEM; it begins with -----BEGIN CERTIFICATE-----"
        ) from None
    key = _private_key(private_key)
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if public.public_bytes(*form) != key.public_key().public_bytes(*form):
        raise InsideFault("private_key", "is not the key of the (first) certificate")
    if not _for_clients(leaf):
        raise InsideFault("certificate", "is not for clients: its extended key usage lacks clientAuth")
    fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
    try:
        load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ClientIdentity(certificate, private_key, fingerprint))
    except UnusableIdentity:
        raise InsideFault("certificate", "and private_key cannot be used for TLS together (too weak?)") from None
    return ClientCertificate(
        certificate,
        private_key,
        hosts,
        subject=leaf.subject.rfc4514_string()[:255],
        issuer=leaf.issuer.rfc4514_string()[:255],
        expires_at=int(leaf.not_valid_after_utc.timestamp() * 1000),
        fingerprint=fingerprint,
    )


def _private_key(pem: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except TypeError:
        raise InsideFault("private_key", "is encrypted; give it without a passphrase, it is sealed at rest") from None
    except (ValueError, UnsupportedAlgorithm):
        raise InsideFault(
            "private_key", "is not a private key in PEM; it begins with -----BEGIN PRIVATE KEY-----"
        ) from None
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < MIN_RSA_BITS:
        raise InsideFault("private_key", f"is an RSA key of less than {MIN_RSA_BITS} bits")
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise InsideFault("private_key", "is neither RSA, elliptic curve nor Ed25519")
    return key


def _for_clients(leaf: x509.Certificate) -> bool:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    except ValueError:
        return False
    return bool({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE} & set(usage))


def check(auth: CallbackAuth | None, tls: CallbackTls | None, now: int, check_url: Callable[[str], object]) -> None:
    """Judge what was just given. `check_url` raises ValueError for what may not be called. Raises `InvalidInput`."""
    faults = []
    if isinstance(auth, OAuth2Auth):
        try:
            check_url(auth.token_url)
        except ValueError as error:
            faults.append(FieldFault("callback_auth.token_url", str(error)))
    if isinstance(tls, ClientCertificate):
        begins_at = x509.load_pem_x509_certificates(tls.certificate.encode())[0].not_valid_before_utc.timestamp() * 1000
        if now >= tls.expires_at:
            faults.append(FieldFault("callback_tls.certificate", "has expired; give one that is still good"))
        elif now < begins_at:
            faults.append(FieldFault("callback_tls.certificate", "is not good yet; give it when it is"))
    if faults:
        raise InvalidInput(faults)
