"""A stream over TLS is freed when it is let go of: nothing of it waits for the collector."""

from __future__ import annotations

import gc
import ssl
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.servers.certificates import make_certificates

from taskcenter.encryption import shake_hands

Stream = trio.SSLStream[trio.abc.Stream]


@pytest.fixture
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def both_ends(directory: Path) -> tuple[Stream, Stream]:
    certificates = make_certificates(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.cert, certificates.key)
    here, there = trio.testing.memory_stream_pair()
    trusting = ssl.create_default_context(cafile=certificates.ca)
    return trio.SSLStream(here, trusting, server_hostname="localhost"), trio.SSLStream(there, context, server_side=True)


@pytest.mark.usefixtures("_without_collector")
async def test_a_stream_is_freed_at_once(tmp_path: Path) -> None:
    client, server = both_ends(tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands, client)
        nursery.start_soon(shake_hands, server)
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"
    streams: list[weakref.ref[Any]] = [weakref.ref(client), weakref.ref(server)]
    del client, server
    assert [stream() for stream in streams] == [None, None]


@pytest.mark.usefixtures("_without_collector")
async def test_one_whose_handshake_is_broken_off_too(tmp_path: Path) -> None:
    client, _ = both_ends(tmp_path)
    with trio.move_on_after(0) as scope:
        await shake_hands(client)
    assert scope.cancelled_caught
    stream: weakref.ref[Any] = weakref.ref(client)
    del client
    await trio.lowlevel.checkpoint()
    assert stream() is None
