"""The proxy does what the tests that stand on it believe."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from tests.store.fault_proxy import CommitScanner, FaultProxy, open_proxy, without_tls


@asynccontextmanager
async def echo_behind_proxy(*, follow: bool = False) -> AsyncIterator[FaultProxy]:
    async def echo(stream: trio.SocketStream) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
            await stream.send_eof()
        except trio.BrokenResourceError:
            stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), echo, 0)
        host, port = listeners[0].socket.getsockname()[:2]
        async with open_proxy(host, port, follow=follow) as proxy:
            yield proxy
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(proxy: FaultProxy) -> AsyncIterator[trio.SocketStream]:
    stream = await trio.open_tcp_stream(proxy.host, proxy.port)
    try:
        yield stream
    finally:
        stream.socket.close()


async def read_exactly(stream: trio.SocketStream, count: int) -> tuple[bytes, int]:
    """The bytes, and in how many chunks they came; fewer when the stream ends."""
    data, chunks = b"", 0
    while len(data) < count and (chunk := await stream.receive_some(count - len(data))):
        data, chunks = data + chunk, chunks + 1
    return data, chunks


async def read_until_reset(stream: trio.SocketStream) -> bytes:
    """What comes before the connection is reset; fails when it ends otherwise."""
    data = bytearray()

    async def read() -> None:
        async for chunk in stream:
            data.extend(chunk)

    with pytest.raises(trio.BrokenResourceError):
        await read()
    return bytes(data)


async def write_until_reset(stream: trio.SocketStream) -> None:
    async def write() -> None:
        for _ in range(1000):
            await stream.send_all(b"x")
            await trio.lowlevel.checkpoint()

    with pytest.raises(trio.BrokenResourceError):
        await write()


async def test_passes_bytes_and_ends() -> None:
    async with echo_behind_proxy() as proxy, client_of(proxy) as client:
        await client.send_all(b"x" * 100_000)
        assert (await read_exactly(client, 100_000))[0] == b"x" * 100_000
        assert (proxy.connections_total, proxy.open_connections) == (1, 1)
        await client.send_eof()
        assert await client.receive_some(1) == b""


@pytest.mark.real_time
async def test_latency_and_slices() -> None:
    async with echo_behind_proxy() as proxy, client_of(proxy) as client:
        proxy.latency_s = 0.05
        began = trio.current_time()
        await client.send_all(b"abc")
        await read_exactly(client, 3)
        assert trio.current_time() - began >= 0.1
        proxy.clear()
        proxy.slice_bytes, proxy.slice_pause_s = 1, 0.005
        await client.send_all(b"abcdef")
        data, chunks = await read_exactly(client, 6)
        assert data == b"abcdef"
        assert chunks > 1


async def test_black_hole_holds_until_cleared() -> None:
    async with echo_behind_proxy() as proxy, client_of(proxy) as client:
        proxy.black_hole("down")
        await client.send_all(b"abc")
        with trio.move_on_after(0.05) as scope:
            await client.receive_some(10)
        assert scope.cancelled_caught
        proxy.clear()
        assert (await read_exactly(client, 3))[0] == b"abc"


async def test_cut_passes_so_many_bytes_and_resets() -> None:
    async with echo_behind_proxy() as proxy, client_of(proxy) as client:
        proxy.cut_after(5)
        await client.send_all(b"abc")
        assert (await read_exactly(client, 3))[0] == b"abc"
        await client.send_all(b"defgh")
        seen = await read_until_reset(client)
        assert b"de".startswith(seen)  # a reset may overtake what was sent before it
        async with client_of(proxy) as other:
            await other.send_all(b"fine")
            assert (await read_exactly(other, 4))[0] == b"fine"


async def test_resets_half_closes_and_refuses() -> None:
    async with echo_behind_proxy() as proxy:
        async with client_of(proxy) as client:
            await client.send_all(b"a")
            await client.receive_some(1)
            proxy.half_close()
            assert await client.receive_some(1) == b""
            await client.send_all(b"still open this way")
            proxy.reset_all()
            await write_until_reset(client)
        port = proxy.port
        proxy.refuse()
        with pytest.raises(OSError):
            await trio.open_tcp_stream(proxy.host, port)
        proxy.accept()
        await trio.testing.wait_all_tasks_blocked()
        async with client_of(proxy) as client:
            await client.send_all(b"back")
            assert (await read_exactly(client, 4))[0] == b"back"
        assert proxy.port == port


COMMIT = b"\x07\0\0\0\x03COMMIT"


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_a_commit_is_known_however_it_is_cut(chunk: int) -> None:
    other = b"\x09\0\0\0\x03SELECT 1"
    long = (5000).to_bytes(3, "little") + b"\0\x03" + b"COMMIT" + b"x" * 4993
    stream = other + COMMIT + long + COMMIT.lower() + other
    scanner = CommitScanner()
    pieces = [piece for at in range(0, len(stream), chunk) for piece in scanner.feed(stream[at : at + chunk])]
    assert b"".join(piece for piece, _ in pieces) == stream
    assert [piece for piece, is_commit in pieces if is_commit] == [COMMIT, COMMIT.lower()]


def test_an_encrypted_stream_is_only_passed_on() -> None:
    scanner = CommitScanner()
    request = b"\x20\0\0\1" + b"x" * 32
    assert scanner.feed(request + COMMIT) == [(request, False), (COMMIT, False)]
    assert scanner.encrypted


def test_tls_is_taken_out_of_a_greeting() -> None:
    greeting = b"\x4a\0\0\0\x0a9.7.4\0" + b"tttt" + b"saltsalt" + b"\0" + b"\xff\xff" + b"rest"
    assert without_tls(greeting) == greeting.replace(b"\xff\xff", b"\xff\xf7")


@pytest.mark.parametrize("fault", ["request", "reply", "none"])
async def test_eats_a_commit_or_its_reply(fault: str) -> None:
    async with echo_behind_proxy(follow=True) as proxy, client_of(proxy) as client:
        proxy.commit_fault = fault  # type: ignore[assignment]  # a literal of the parametrisation
        proxy.commit_faults_left = 1
        await client.send_all(COMMIT)
        if fault == "none":
            assert (await read_exactly(client, len(COMMIT)))[0] == COMMIT
        else:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some(100)
        assert (proxy.commits_total, proxy.commits_eaten) == (1, 0 if fault == "none" else 1)
        async with client_of(proxy) as other:
            await other.send_all(COMMIT)
            assert (await read_exactly(other, len(COMMIT)))[0] == COMMIT
