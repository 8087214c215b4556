"""Operating-system faults in words for a task's owner."""

from __future__ import annotations

import errno
import ssl
from typing import Final

from taskcenter.actors.egress.tls import describe_tls_error
from taskcenter.actors.egress.wire import SocketAddress

_OURS: Final = {
    errno.EMFILE: "this service is out of file descriptors",
    errno.ENFILE: "this machine is out of file descriptors",
    errno.EADDRNOTAVAIL: "this service is out of local ports",
    errno.ENOBUFS: "this machine is out of network buffers",
}
_THEIRS: Final = {
    errno.ECONNREFUSED: "connection refused by {peer}",
    errno.ECONNRESET: "connection reset by {peer}",
    errno.EPIPE: "connection reset by {peer}",
    errno.ECONNABORTED: "connection aborted by {peer}",
    errno.ETIMEDOUT: "connection to {peer} timed out",
    errno.EHOSTUNREACH: "no route to {peer}",
    errno.ENETUNREACH: "no network route to {peer}",
    errno.EACCES: "connection to {peer} is forbidden here by the system",
    errno.EPERM: "connection to {peer} is forbidden here by the system",
}


def our_lack(error: OSError) -> str | None:
    """What this service or its machine is out of, in words; None when the fault is another's."""
    return _OURS.get(error.errno or 0)


def describe_os_error(error: BaseException, peer: str) -> str:
    """One line; `peer` as `show_address` writes it."""
    if isinstance(error, ssl.SSLError):
        return f"TLS with {peer} broke: {(error.reason or 'protocol error').replace('_', ' ').lower()}"
    if isinstance(error, OSError):
        number = error.errno or 0
        if (lack := our_lack(error)) is not None:
            return lack
        text = error.strerror or type(error).__name__
        return _THEIRS.get(number, f"connection to {{peer}} failed: {text}").format(peer=peer)
    return f"connection to {peer} was closed"


def describe_handshake_error(error: OSError, peer: str) -> str:
    return describe_tls_error(error) if isinstance(error, ssl.SSLError) else describe_os_error(error, peer)


def show_address(address: SocketAddress) -> str:
    """`127.0.0.1:9` or `[::1]:9`."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
