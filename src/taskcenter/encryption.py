"""TLS over trio's streams, without the garbage.

A `trio.SSLStream` keeps its handshake as a bound method of itself, so no reference count ever frees it: each connection
that ended would keep its buffers and OpenSSL's state, some 50 KB that the collector knows nothing of, until there are
enough other objects for a collection. The method is of no use once the handshake is over.
"""

from __future__ import annotations

from typing import TypeVar

import trio

S = TypeVar("S", bound=trio.abc.Stream)


async def shake_hands(stream: trio.SSLStream[S]) -> None:
    """As `do_handshake`, to be called once; whatever becomes of it, the stream is freed when it is let go of."""
    try:
        await stream.do_handshake()
    finally:
        del stream._handshook._afn
