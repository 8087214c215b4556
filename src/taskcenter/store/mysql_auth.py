"""Logging in to a MySQL-protocol server: the part of trio-mysql 1.0.3 that does not work, written anew.

The driver forgets an `await` on both `caching_sha2_password` paths, keeps the NUL that ends the nonce of a method
switch (so the server's fast path never matches), encodes passwords as Latin-1, goes on in clear text when the server
offers no TLS, and hands the password to any server that asks for it in clear. Here:

* TLS is decided before anything of the account is sent; `required` and above never go on without it, and bytes that a
  stranger slipped in before the handshake end the connection.
* Three login methods, at the first packet or by a switch: `caching_sha2_password` (fast path; full login over TLS, or
  sealed with the server's RSA key), `sha256_password`, `mysql_native_password`. The clear-text ones are not offered.

Source: the connection phase of the MySQL client/server protocol.
"""

from __future__ import annotations

import ssl
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from trio_mysql import _auth
from trio_mysql.constants import CLIENT

from taskcenter.store.connection import StoreFault
from taskcenter.store.mysql_errors import refused
from taskcenter.store.mysql_refusal import parse_refusal
from taskcenter.store.mysql_stream import MAX_PACKET, PacketStream
from taskcenter.store.url import MysqlUrl, fault

UTF8MB4: Final = 45  # utf8mb4_general_ci: known to both servers under this number
NONCE_BYTES: Final = 20
# No LOCAL_FILES, no MULTI_STATEMENTS, no MULTI_RESULTS: one statement, one result, nothing read from our disk.
CAPABILITIES: Final[int] = (
    CLIENT.LONG_PASSWORD
    | CLIENT.FOUND_ROWS
    | CLIENT.LONG_FLAG
    | CLIENT.CONNECT_WITH_DB
    | CLIENT.PROTOCOL_41
    | CLIENT.TRANSACTIONS
    | CLIENT.SECURE_CONNECTION
    | CLIENT.PLUGIN_AUTH
    | CLIENT.PLUGIN_AUTH_LENENC_CLIENT_DATA
    | CLIENT.CONNECT_ATTRS
)
NEEDED: Final[int] = CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH | CLIENT.CONNECT_WITH_DB
ATTRIBUTES: Final = {"_client_name": "trio-mysql", "program_name": "taskcenter"}
MORE, SWITCH = 0x01, 0xFE
FAST_OK, FULL_LOGIN, ASK_KEY = 3, 4, b"\x02"


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the server said first: the login method of new accounts, the nonce, and what it can do."""

    plugin: str
    nonce: bytes
    capabilities: int


@lru_cache(maxsize=8)  # one for the pool and all lanes
def tls_context(url: MysqlUrl) -> ssl.SSLContext | None:
    """The context for `ssl-mode`, None when TLS is off. Raises ConfigError for files that cannot be used."""
    if url.ssl_mode == "disabled":
        return None
    verified = url.ssl_mode.startswith("verify-")
    try:
        if verified or url.ssl_ca is not None:
            context = ssl.create_default_context(cafile=url.ssl_ca)
        else:  # the system's authorities, 20 ms to load, are asked nothing
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except OSError:  # ssl.SSLError is one
        raise fault("ssl-ca cannot be read as PEM certificates") from None
    try:
        if url.ssl_cert is not None:
            context.load_cert_chain(url.ssl_cert, url.ssl_key)
    except OSError:
        raise fault("ssl-cert or ssl-key cannot be read as PEM, or they do not belong together") from None
    context.check_hostname = url.ssl_mode == "verify-full"
    if not verified:
        context.verify_mode = ssl.CERT_NONE
    # The certificates MySQL makes for itself lack what Python 3.13's strict check wants.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


async def log_in(link: PacketStream, greeting: Greeting, url: MysqlUrl, context: ssl.SSLContext | None) -> None:
    """From the server's greeting to its OK. Raises StoreFault or the driver's error; the connection is then useless."""
    offered = greeting.capabilities
    if offered & NEEDED != NEEDED:
        raise StoreFault("login", "the database server is too old")
    flags = CAPABILITIES & (offered | CLIENT.LONG_PASSWORD)
    if context is not None:
        if offered & CLIENT.SSL:
            flags |= CLIENT.SSL
            await link.write_packet(_preamble(flags))
            await link.start_tls(context, url.host)
        elif url.ssl_mode != "preferred":
            raise StoreFault("tls", f"the database server offers no TLS, but ssl-mode={url.ssl_mode} asks for it")
    password = url.password.encode()
    plugin, nonce = greeting.plugin, greeting.nonce[:NONCE_BYTES]
    if plugin not in _FIRST_ANSWERS:
        plugin = "mysql_native_password"  # the server then switches to what the account has
    await link.write_packet(_response(flags, url, plugin, _first_answer(link, plugin, password, nonce)))
    await _converse(link, plugin, password, nonce)


async def _converse(link: PacketStream, plugin: str, password: bytes, nonce: bytes) -> None:
    """Answer the server until it says OK."""
    for _ in range(8):  # a real login takes four at most
        payload = await _reply(link)
        if payload[:1] == b"\x00" and len(payload) >= 7:
            return
        if payload[0] == SWITCH:
            name, _, rest = payload[1:].partition(b"\0")
            plugin, nonce = name.decode("ascii", "replace"), rest[:NONCE_BYTES]
            if plugin not in _FIRST_ANSWERS:
                raise StoreFault("login", f"the database account's login method is not supported ({plugin[:40]!r})")
            await link.write_packet(_first_answer(link, plugin, password, nonce))
        elif payload[0] == MORE and plugin == "caching_sha2_password":
            await _caching_sha2(link, payload, password, nonce)
        elif payload[0] == MORE and plugin == "sha256_password":
            await link.write_packet(_auth.sha2_rsa_encrypt(password, nonce, payload[1:]))
        else:
            break
    raise StoreFault("login", "the database server broke the rules of the login")


async def _reply(link: PacketStream) -> bytes:
    """The server's next packet. Raises StoreFault when it is an error."""
    payload = await link.read_packet()
    if payload[0] == 0xFF:
        raise refused(parse_refusal(payload).errno)
    return payload


async def _caching_sha2(link: PacketStream, payload: bytes, password: bytes, nonce: bytes) -> None:
    """After the scramble: nothing when the server knew it, else the password, never in clear on an open wire."""
    step = payload[1] if len(payload) > 1 else 0
    if step == FAST_OK:
        return
    if step != FULL_LOGIN:
        raise StoreFault("login", "the database server broke the rules of the login")
    if link.secure:
        await link.write_packet(password + b"\0")
        return
    await link.write_packet(ASK_KEY)
    key = await _reply(link)
    if key[:1] != b"\x01":
        raise StoreFault("login", "the database server gave no public key")
    await link.write_packet(_auth.sha2_rsa_encrypt(password, nonce, key[1:]))


def _native(link: PacketStream, password: bytes, nonce: bytes) -> bytes:
    return bytes(_auth.scramble_native_password(password, nonce))


def _sha2(link: PacketStream, password: bytes, nonce: bytes) -> bytes:
    return bytes(_auth.scramble_caching_sha2(password, nonce))


def _sha256(link: PacketStream, password: bytes, nonce: bytes) -> bytes:
    """Empty, or the password itself under TLS, or the request for the server's key."""
    if not password:
        return b"\0"
    return password + b"\0" if link.secure else b"\x01"


_FIRST_ANSWERS: Final[dict[str, Any]] = {
    "caching_sha2_password": _sha2,
    "mysql_native_password": _native,
    "sha256_password": _sha256,
}


def _first_answer(link: PacketStream, plugin: str, password: bytes, nonce: bytes) -> bytes:
    answer: bytes = _FIRST_ANSWERS[plugin](link, password, nonce)
    return answer


def _preamble(flags: int) -> bytes:
    return struct.pack("<IIB23x", flags, MAX_PACKET, UTF8MB4)


def _response(flags: int, url: MysqlUrl, plugin: str, answer: bytes) -> bytes:
    """The handshake response packet."""
    attributes = b"".join(_short(text.encode()) for pair in ATTRIBUTES.items() for text in pair)
    parts = [_preamble(flags), url.user.encode(), b"\0", _short(answer)]
    parts += [url.database.encode(), b"\0", plugin.encode(), b"\0"]
    if flags & CLIENT.CONNECT_ATTRS:
        parts.append(_short(attributes))
    return b"".join(parts)


def _short(text: bytes) -> bytes:
    """Length-prefixed; the length is one byte in both encodings the server may use."""
    if len(text) > 250:
        raise StoreFault("login", "a part of the database login is too long")
    return bytes((len(text),)) + text
