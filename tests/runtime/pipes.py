"""Reading pipes to what is in them, and to their end."""

from __future__ import annotations

import os

import trio


def full_of(descriptor: int) -> bytes:
    """What is in it now; it is left as it was."""
    os.set_blocking(descriptor, False)
    taken = b""
    try:
        while chunk := os.read(descriptor, 1 << 20):
            taken += chunk
    except BlockingIOError:
        return taken
    return taken


async def read_all(descriptor: int, found: list[bytes]) -> None:
    """Everything until its end, into `found`."""
    async with trio.lowlevel.FdStream(descriptor) as stream:
        while chunk := await stream.receive_some(1 << 20):
            found.append(bytes(chunk))
