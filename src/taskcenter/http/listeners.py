"""Sockets the API listens on, and its TLS. Everything here happens before the first client is accepted.

Each fault is the operator's and is a `ConfigError` that names the setting and the address.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from typing import Final

import trio

from taskcenter.config import split_address
from taskcenter.errors import ConfigError
from taskcenter.http.limits import ServerSettings

_EXAMPLE: Final = "e.g. TASKCENTER_BIND=127.0.0.1:8081"


async def open_listeners(settings: ServerSettings, *, listen: bool = True) -> list[socket.socket]:
    """Bound, listening, non-blocking sockets, one or more an address. Raises `ConfigError`; none is left open then.

    Not `listen`: bound only. With `reuse_port` that keeps the port for those who will listen, and gets no connection.
    """
    opened: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for address in settings.bind:
            try:
                host, port = split_address(address)
            except ValueError as error:
                raise ConfigError(f"TASKCENTER_BIND: {error}; {_EXAMPLE}") from None
            try:
                found = await trio.socket.getaddrinfo(
                    host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
                )
            except (OSError, UnicodeError):
                raise ConfigError(f"TASKCENTER_BIND: {address}: the name cannot be resolved; {_EXAMPLE}") from None
            for family, _, _, _, sockaddr in dict.fromkeys(found):
                try:
                    opened.append(stack.enter_context(_bind(family, sockaddr, settings, listen=listen)))
                except OSError as error:
                    reason = os.strerror(error.errno) if error.errno else str(error)
                    raise ConfigError(f"TASKCENTER_BIND: {address}: {reason}; {_hint(error)}") from None
        stack.pop_all()
    return opened


async def check_listeners(settings: ServerSettings) -> None:
    """Try addresses and TLS files, and let go of them: before anything else is started. Raises `ConfigError`."""
    tls_context(settings)
    for listener in await open_listeners(settings):
        listener.close()


def _bind(family: int, sockaddr: tuple[object, ...], settings: ServerSettings, *, listen: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # 0.0.0.0 and [::] stand side by side
        listener.bind(sockaddr)
        if listen:
            listener.listen(settings.backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"stop what listens there or choose another port, {_EXAMPLE}"
    if error.errno == errno.EACCES:
        return f"ports below 1024 need the privilege to bind them, {_EXAMPLE}"
    return _EXAMPLE


def bound_address(listener: socket.socket) -> str:
    """`127.0.0.1:8080` or `[::1]:8080`: what `split_address` takes apart."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{host}:{port}"


def tls_context(settings: ServerSettings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer that offers HTTP/1.1 alone; None when the API speaks clear text. Raises `ConfigError`."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("CERT", settings.tls_cert), ("KEY", settings.tls_key)):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"TASKCENTER_TLS_{name}: {path} cannot be read; e.g. /etc/tls/api.pem")
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password="")
    except (ssl.SSLError, OSError, ValueError):
        raise ConfigError(
            f"TASKCENTER_TLS_CERT: {settings.tls_cert} and {settings.tls_key} are no PEM chain and its unencrypted key"
            "; e.g. /etc/tls/api.pem and /etc/tls/api.key"
        ) from None
    return context
